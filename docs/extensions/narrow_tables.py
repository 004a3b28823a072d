"""Cells of tables get the name of their column, which narrow screens show beside them: there each row is a block (``infl.css``)."""

from __future__ import annotations

import re
from html import escape, unescape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

TABLE = re.compile(r'(<table class=")((?:docutils|table)(?: [^"]*)?)(".*?</table>)', re.DOTALL)
HEAD = re.compile(r'<th class="[^"]*head[^"]*">(.*?)</th>', re.DOTALL)
ROW = re.compile(r"<tr[^>]*>.*?</tr>", re.DOTALL)
CELL = re.compile(r"<td(?=[ >])")
TAG = re.compile(r"<[^>]+>")


def labelled(body: str) -> str:
    """Return a page whose cells of tables with a head have the attribute ``data-label``.

    Examples
    --------
    >>> page = '<table class="table"><thead><tr><th class="head"><p>set</p></th></tr></thead>'
    >>> page += "<tbody><tr><td><p>Khan</p></td></tr></tbody></table>"
    >>> '<td role="cell" data-label="set"><p>Khan</p></td>' in labelled(page)
    True
    """

    def table(match: re.Match[str]) -> str:
        names = [unescape(TAG.sub("", head)).strip() for head in HEAD.findall(match[3].split("</thead>")[0])]
        if "</thead>" not in match[3] or "colspan" in match[3] or "rowspan" in match[3]:
            return match[0]

        def row(found: re.Match[str]) -> str:
            columns = iter(names)
            text = CELL.sub(lambda _: f'<td role="cell" data-label="{escape(next(columns, ""))}"', found[0])
            return text.replace("<tr", '<tr role="row"', 1)

        return f'{match[1]}{match[2]} labelled" role="table{ROW.sub(row, match[3])}'

    return TABLE.sub(table, body)


def _label(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    if "body" in context and app.builder.format == "html":
        context["body"] = labelled(context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register."""
    app.connect("html-page-context", _label)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
