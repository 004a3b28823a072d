"""Links between pages lead somewhere, as they are read in the repository; `make docs` follows those of the built pages too."""

import re
from functools import cache
from os.path import normpath
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(
        page
        for page in sorted(DOCS.rglob("*.md"))
        if not {"_build", "tutorials", "generated"} & {*page.relative_to(ROOT).parts}
    ),
]
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
TREE = re.compile(r"```\{toctree\}\n(.*?)```", re.DOTALL)
DOC = re.compile(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`")


def prose(page: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"^```(?!\{toctree\}).*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as GitHub and MyST make them, and those of sections made when pages are built."""
    text = prose(page)
    for other in re.findall(r"^```\{include\} (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        text += prose((page.parent / other).resolve())
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    heads += [name.replace("_", " ") for name in re.findall(r"<!-- section of benchmark (\w+) -->", text)]
    plain = [re.sub(r"[`*]|\{\w+\}|\[([^\]]*)\]\([^)]*\)", r"\1", head) for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in plain}


def places(page: Path) -> list[tuple[str, Path, str]]:
    """Return the links of a page to files: as written, the file, the place in it."""
    found = []
    for target in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:|<", target):
            path, _, anchor = target.partition("#")
            found.append((target, (page.parent / path).resolve() if path else page, anchor))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    dead = [
        target
        for target, path, anchor in places(page)
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path))
    ]
    named = [name for name in DOC.findall(prose(page)) if not notebook(page, name)]
    assert dead + named == []


def notebook(page: Path, name: str) -> bool:
    place = DOCS / name[1:] if name[0] == "/" else page.parent / name
    return any(place.with_name(place.name + suffix).exists() for suffix in (".md", ".ipynb"))


def listed_by(folder: Path, line: str) -> list[Path]:
    """Return the pages that a line of a table of contents names, without their ending."""
    return [path.with_suffix("") for path in folder.glob(f"{line}.md")] if "*" in line else [folder / line]


def test_each_page_is_in_one_table_of_contents() -> None:
    """Sphinx warns of a page that is in none."""
    listed = [
        Path(normpath(path))
        for page in PAGES[2:]
        for tree in TREE.findall(page.read_text(encoding="utf-8"))
        for line in tree.splitlines()
        if line.strip() and line[0] != ":"
        for path in listed_by(page.parent, line.strip())
    ]
    pages = {page.with_suffix("") for page in PAGES[2:]} - {DOCS / "index"}
    assert sorted(str(p.relative_to(ROOT)) for p in pages - {*listed}) == []
    assert len(listed) == len({*listed})
    assert [str(p) for p in listed if not any(p.with_name(p.name + s).exists() for s in (".md", ".ipynb"))] == []


def test_records_of_decisions_are_numbered_once() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [int(path.name[:4]) for path in records]
    assert len(set(numbers)) == len(numbers)
    titled = [path.read_text(encoding="utf-8").split(".", 1)[0] for path in records]
    assert titled == [f"# {number}" for number in numbers]
