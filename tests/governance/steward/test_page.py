"""The page for the data steward: readable, closed, and without what is nobody else's business."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from tests.governance.conftest import read

import infl

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "footer", "h1", "h2", "h3", "p", "a"),
    *("ol", "ul", "li", "table", "caption", "thead", "tbody", "tr", "th", "td", "div", "figure", "img", "figcaption"),
    *("dl", "dt", "dd", "strong"),
}


ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "class", "id", "href", "tabindex", "role", "aria-label"),
    *("scope", "alt", "src"),
}


def test_no_observation_is_in_it(usual: Any, tmp_path: Path) -> None:
    infl.governance.report(usual.run, tmp_path / "report.html")
    together = "".join(file.read_text() for file in tmp_path.iterdir())
    for adata in usual.sites.values():
        assert not [name for name in adata.obs_names if f">{name}<" in together or f'"{name}"' in together]


def test_names_that_mean_ill_are_text(hostile: Any, audit, comparison, tmp_path: Path) -> None:
    names = list(hostile.sites)
    audit.loc[0, ["attack", "against", "metric", "note"]] = names[1]
    comparison.loc[0, "method"] = names[0]
    said = {"purpose": names[1], "contact": names[2]}
    page, card, _ = read(hostile.run, tmp_path, audit=audit, comparison=comparison, statements=said, min_count=1)
    assert {tag for tag, _ in page.elements} <= TAGS
    assert {name for _, attributes in page.elements for name in attributes} <= ATTRIBUTES
    assert all((a["href"] or "").startswith("#") for a in page.all("a"))
    assert all((img["src"] or "").startswith("data:image/png;base64,") for img in page.all("img"))
    for name in names[:3]:
        assert name in page.text
    assert not set("\u202e\u2066\x00") & set((tmp_path / "report.html").read_text())
    assert "\ufffdlatipsoh\ufffd\ufffd &amp; <b>" in page.text
    assert card["model_details"]["developers"] == names
    assert page.texts[0][1].startswith("One classifier for <i>target")


def test_the_page_is_one_that_a_screen_reader_can_read(usual: Any, audit, comparison, tmp_path: Path) -> None:
    page, _, _ = read(usual.run, tmp_path, audit=audit, comparison=comparison)
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("h1", "header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) > 10
    assert {a.get("scope") for a in page.all("th")} == {"row", "col"}
    assert all(len(img["alt"] or "") > 30 for img in page.all("img")) and len(page.all("img")) == 3
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {(a["href"] or "")[1:] for a in page.all("a")} == set(ids)
    whole = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in whole and "@media print" in whole
    assert "http" not in whole.replace("http-equiv", "")


def test_pictures_leave_nothing_open(usual: Any, audit, tmp_path: Path) -> None:
    before = plt.get_fignums()
    infl.governance.report(usual.run, tmp_path / "report.html", audit=audit)
    assert plt.get_fignums() == before
