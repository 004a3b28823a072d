"""After the pages are built, every link from one of them to another is followed; one that leads nowhere is a warning."""

from html.parser import HTMLParser
from os.path import normpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

SKIPPED = ("_modules", "_static")
"""Made by Sphinx and its theme: highlighted sources, templates."""


class _Page(HTMLParser):
    """What a page can be linked to by, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def dead(folder: Path) -> list[tuple[str, str]]:
    """Return pages and their links that lead to no file, or to no place in a page."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    found = []
    there: dict[Path, bool] = {}  # links of the side bar are the same on every page
    for path, page in pages.items():
        if path.relative_to(folder).parts[0] in SKIPPED:
            continue
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = Path(normpath(path.parent / unquote(parts.path))) if parts.path else path
            if target not in there:
                there[target] = target in pages or target.exists()
            if not there[target] or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            ):
                found.append((str(path.relative_to(folder)), link))
    return found


def _follow(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        for page, link in dead(Path(app.outdir).resolve()):
            logging.getLogger(__name__).warning("%s: a link that leads nowhere: %s", page, link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register."""
    app.connect("build-finished", _follow)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
