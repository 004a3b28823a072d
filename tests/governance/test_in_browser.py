"""The page in headless Chromium: no finding of axe, nothing too wide, nothing loaded or run, readable on paper.

Needs the dependency group ``browser`` and a Chromium (Debian: ``apt install chromium``; else ``playwright install chromium``);
without them these tests are skipped, and say so.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import infl
from infl._tables import Findings

playwright = pytest.importorskip("playwright.sync_api", reason="needs the dependency group 'browser'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the dependency group 'browser'")

WIDTHS = {"desktop": 1280, "telephone": 360}
LANGUAGE_OF = {"usual": "de", "hostile": "en"}  # German has the longest words
PAPER = 673
"""CSS pixels between the margins of an A4 page: 178 mm."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:  # as root, in a container, Chromium has no sandbox to put itself into; it opens our own page only
            browser = p.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(
                f"needs Chromium: apt install chromium, or playwright install chromium ({type(error).__name__})"
            )
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page; afterwards, see that it has asked for nothing, run nothing and complained of nothing."""
    contexts, seen = [], []

    def show(path: Path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: seen.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        page.on("dialog", lambda d: seen.append(f"dialog {d.message}"))
        page.on("console", lambda m: seen.append(m.text))
        page.on("pageerror", lambda e: seen.append(str(e)))
        page.goto(path.as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert seen == []


@pytest.fixture(params=["usual", pytest.param("hostile", marks=pytest.mark.long)])
def path(request: pytest.FixtureRequest, audit: Any, comparison: Any, tmp_path: Path) -> Path:
    case = request.getfixturevalue(request.param)
    options: dict[str, Any] = {"audit": audit, "comparison": comparison, "min_count": 1}
    options["language"] = LANGUAGE_OF[request.param]
    if request.param == "hostile":
        options["statements"] = {"purpose": "<img src=http://127.0.0.1:9/x onerror=alert(1)>", "contact": "x" * 300}
    return infl.governance.report(case.run, tmp_path / "report.html", **options)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        ("desktop", "light"),
        ("telephone", "dark"),
        pytest.param("desktop", "dark", marks=pytest.mark.long),
        pytest.param("telephone", "light", marks=pytest.mark.long),
    ],
)
def test_axe_finds_nothing(show: Any, path: Path, width: str, scheme: str) -> None:
    page = show(path, viewport={"width": WIDTHS[width], "height": 800}, color_scheme=scheme)
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["impact"], [n["html"] for n in v["nodes"]]) for v in found] == []


def test_axe_would_find_something(show: Any, path: Path) -> None:
    """The control: the same page without its language, a caption's contrast and an alternative text."""
    text = path.read_text()
    [language] = re.findall('<html (lang="..")>', text)
    for good, bad in ((language, ""), ("--soft: #4d5761", "--soft: #c0c0c0"), ("<img alt=", "<img data-alt=")):
        assert good in text
        text = text.replace(good, bad)
    path.write_text(text)
    found = {v["id"] for v in axe.Axe().run(show(path, color_scheme="light")).response["violations"]}
    assert {"html-has-lang", "color-contrast", "image-alt"} <= found


@pytest.mark.parametrize("width", [*WIDTHS.values(), 320])
def test_nothing_is_wider_than_the_screen(show: Any, path: Path, width: int) -> None:
    page = show(path, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_is_cut_off_on_paper(show: Any, path: Path, tmp_path: Path) -> None:
    page = show(path, viewport={"width": PAPER, "height": 1000}, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    wide = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f"{wide}.map(e => e.outerHTML.slice(0, 80))") == []
    assert (
        page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    )  # ink on paper, whatever the screen
    assert not page.locator("nav").is_visible()
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF-")


def test_the_keyboard_gets_to_the_text_and_into_wide_tables(show: Any, path: Path) -> None:
    page = show(path, viewport={"width": 360, "height": 800})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") in ("To the text", "Zum Text")
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "wide"


def test_what_notebooks_show_has_no_finding_either(
    show: Any, usual: Any, hostile: Any, audit: Any, tmp_path: Path
) -> None:
    panel = infl.pp.panel_of(hostile.sites, target="<i>target")
    compared = infl.tl.compare(
        usual.sites, target="tumour_class", seeds=1, rounds=1, methods=["fedavg"], progress=False
    )
    shown = [usual.run, usual.run.model, usual.key, hostile.run, hostile.run.model, panel, compared]
    fragments = [what._repr_html_() for what in shown] + [Findings(audit)._repr_html_()]
    file = tmp_path / "notebook.html"
    body = "".join(f"<div>{fragment}</div>" for fragment in fragments)
    file.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>x</title><main><h1>x</h1>{body}</main></html>'
    )
    found = axe.Axe().run(show(file)).response["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
