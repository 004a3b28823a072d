"""HTML for people: one self-contained page, and the fragments that notebooks show.

No scripts and no outside resources; readable on paper, by screen readers and at the width of a telephone. Every text is
escaped here and nowhere else.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser lets the page do: show its own pictures in its own style, nothing else."""
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #4d5761; --line: #c9d1d9;
        --shade: #f2f5f8; --accent: #0a5c93; --alarm: #9a3412; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #12161b; --soft: #a9b4bf; --line: #3b434c; --shade: #1b2128; --accent: #79bdf0;
          --alarm: #ffb088; }
  img { background: #ffffff; padding: .4rem; }
}
* { box-sizing: border-box; }
body { font: 1rem/1.55 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); background: var(--paper);
       max-width: 56rem; margin: 0 auto; padding: 1.5rem 1.2rem 3rem; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: .4rem 0; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.03rem; margin: 1.6rem 0 .4rem; }
p { max-width: 46rem; margin: .6rem 0; } ul { padding-left: 1.3rem; max-width: 46rem; } li { margin: .25rem 0; }
a { color: var(--accent); } .lead { color: var(--soft); }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; top: .5rem; background: var(--paper); }
nav ol { columns: 2 18rem; padding-left: 1.6rem; margin: .3rem 0; } nav p { margin: 1.2rem 0 0; font-weight: 600; }
.alarm { border-left: .3rem solid var(--alarm); padding-left: .7rem; } .alarm strong { color: var(--alarm); }
.wide { overflow-x: auto; margin: .9rem 0; } .wide:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .94em; }
caption { text-align: left; color: var(--soft); padding-bottom: .35rem; max-width: 92vw; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); } tbody th { font-weight: 600; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; } .facts th { max-width: 20rem; } .facts td { overflow-wrap: anywhere; }
code { font-size: .92em; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption { color: var(--soft); font-size: .94em; }
.fill { display: grid; grid-template-columns: minmax(8rem, 16rem) 1fr; gap: 1.1rem 1rem; margin: 1.2rem 0; }
.fill dt { font-weight: 600; } .fill dd { margin: 0; border-bottom: 1px solid var(--ink); min-height: 1.6rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .9rem; border-top: 1px solid var(--line); }
@media (max-width: 34rem) { body { padding: 1rem .9rem 2rem; } h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; }
  th, td { padding-right: .7rem; } tbody td:not(.number) { min-width: 7.5rem; overflow-wrap: anywhere; } .fill { grid-template-columns: 1fr; gap: .3rem; } .fill dd { margin-bottom: .8rem; } }
@page { size: A4; margin: 17mm 16mm; }
@media print {
  :root { color-scheme: light; } body { font-size: 9.5pt; max-width: none; padding: 0; }
  .skip, nav { display: none; } .wide { overflow: visible; } h2, h3, caption { break-after: avoid; }
  h2 { margin-top: 1.5rem; } tr, figure, li, .fill > *, .facts, .short { break-inside: avoid; }
  thead { break-after: avoid; } tbody tr:first-child { break-before: avoid; } p { orphans: 3; widows: 3; } thead { display: table-header-group; }
  table { font-size: 8.5pt; } tbody th { min-width: 5.5rem; overflow-wrap: anywhere; } a { color: inherit; text-decoration: none; } figure img { max-height: 85mm; }
  .fill { gap: .7rem 1rem; } footer { margin-top: 1rem; font-size: 8pt; break-before: avoid; }
}
"""
NOTEBOOK = """.infl table th, .infl table td, .infl table caption { text-align: left; vertical-align: top; }
.infl table .number { text-align: right; white-space: nowrap; }"""
"""What notebooks' own style would have otherwise."""
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True)
class English:
    """A text that stays in English on a page of another language; screen readers pronounce it so."""

    text: str

    def __str__(self) -> str:
        return self.text


def text(value: object) -> str:
    r"""Return `value` escaped; characters that are not seen, or turn the text around them, are made visible.

    Examples
    --------
    >>> text("<b>\u202emoc.elpmaxe")
    '&lt;b&gt;�moc.elpmaxe'
    >>> text(English("Seven ways."))
    '<span lang="en">Seven ways.</span>'
    """
    if isinstance(value, English):
        return f'<span lang="en">{text(value.text)}</span>'
    return html.escape(_UNSEEN.sub("\ufffd", str(value)), quote=False).replace('"', "&quot;")


def plain(value: object) -> str:
    r"""Return `value` for Markdown, on one line: no table, tag or link begins in it.

    Examples
    --------
    >>> print(plain("a|b <i> [c](d)"))
    a\|b &lt;i> \[c](d)
    """
    escaped = html.escape(_UNSEEN.sub("\ufffd", str(value)), quote=False).replace("&gt;", ">")
    return re.sub(r"([|\[`])", r"\\\1", " ".join(escaped.split()))


def table(head: Iterable[str], rows: Iterable[Iterable[object]], caption: str, *, numbers: Iterable[str] = ()) -> str:
    """Return a table whose first column names the rows.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        Values, shown as they are: round them before.
    caption
        What the table is of.
    numbers
        Columns that are set to the right.

    Examples
    --------
    >>> table(["site", "n"], [("a<b", 3)], "Sites", numbers=["n"]).partition("</thead>")[2]
    '<tbody><tr><th scope="row">a&lt;b</th><td class="number">3</td></tr></tbody></table>'
    """
    head, rows, numbers = list(head), list(rows), set(numbers)
    looks = [' class="number"' if name in numbers else "" for name in head]
    names = "".join(f'<th scope="col"{look}>{text(name)}</th>' for name, look in zip(head, looks, strict=True))
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td{look}>{text(value)}</td>" for value, look in zip(others, looks[1:], strict=True))
        body += f'<tr><th scope="row">{text(first)}</th>{cells}</tr>'
    short = ' class="short"' if len(rows) <= 10 else ""
    return (
        f"<table{short}><caption>{text(caption)}</caption><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
    )


def frame(data: pd.DataFrame, caption: str, *, numbers: Iterable[str] = ()) -> str:
    """Return a data frame as a table; its index is not shown."""
    return table(map(str, data), data.itertuples(index=False, name=None), caption, numbers=map(str, numbers))


def facts(rows: Mapping[str, object], caption: str) -> str:
    """Return a table of two columns: names and values.

    Examples
    --------
    >>> facts({"lock": "field"}, "infl model")
    '<table class="facts"><caption>infl model</caption><tbody><tr><th scope="row">lock</th><td>field</td></tr></tbody></table>'
    """
    body = "".join(f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in rows.items())
    return f'<table class="facts"><caption>{text(caption)}</caption><tbody>{body}</tbody></table>'


def notebook(*fragments: str) -> str:
    """Return fragments as a notebook shows them: words to the left, numbers to the right."""
    return f'<div class="infl"><style>{NOTEBOOK}</style>{"".join(fragments)}</div>'


@dataclass
class Page:
    """A page: a title, a line below it, and sections in order, each with an entry in the list of contents.

    Attributes
    ----------
    title, lead, foot
        First and last words.
    language
        In which all of it is written.
    say
        Translates the page's own few words.
    headings, parts, lines
        What was added; `lines` has it as Markdown.

    Examples
    --------
    >>> page = Page("Results", lead="Of Tuesday")
    >>> page.heading("What left the house")
    >>> page.text("Nothing.")
    >>> '<h2 id="s1">What left the house</h2><p>Nothing.</p>' in page.html()
    True
    """

    title: str
    lead: str = ""
    foot: str = ""
    language: str = "en"
    say: Callable[[str], str] = str
    headings: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Add a sentence below the title."""
        self.lead = f"{self.lead} {sentence}".strip()

    def heading(self, heading: str) -> None:
        """Begin a section."""
        self.headings.append(heading)
        self.parts.append(f'<h2 id="s{len(self.headings)}">{text(heading)}</h2>')
        self.lines.append(f"## {plain(heading)}")

    def subheading(self, heading: str) -> None:
        """Begin a part of a section."""
        self.parts.append(f"<h3>{text(heading)}</h3>")
        self.lines.append(f"### {plain(heading)}")

    def text(self, paragraph: str) -> None:
        """Add a paragraph."""
        self.parts.append(f"<p>{text(paragraph)}</p>")
        self.lines.append(plain(paragraph))

    def alarm(self, paragraph: str) -> None:
        """Add a paragraph that must not be missed; marked by a word, not by colour alone."""
        self.parts.append(f'<p class="alarm"><strong>{text(self.say("Attention:"))}</strong> {text(paragraph)}</p>')
        self.lines.append(f"**{plain(self.say('Attention:'))}** {plain(paragraph)}")

    def points(self, points: Iterable[str]) -> None:
        """Add a list."""
        points = list(points)
        self.parts.append("<ul>" + "".join(f"<li>{text(point)}</li>" for point in points) + "</ul>")
        self.lines.append("\n".join(f"- {plain(point)}" for point in points))

    def table(self, data: pd.DataFrame, caption: str, *, numbers: Iterable[str] = ()) -> None:
        """Add a table; see :func:`table`."""
        self._wide(frame(data, caption, numbers=numbers), caption)
        self._pipes(data.columns, data.itertuples(index=False, name=None), caption)

    def facts(self, rows: Mapping[str, object], caption: str) -> None:
        """Add a table of names and values."""
        self._wide(facts(rows, caption), caption)
        self._pipes(("", ""), rows.items(), caption)

    def figure(self, figure: Figure, caption: str, *, alt: str) -> None:
        """Add a matplotlib figure; `alt` describes it to those who do not see it."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", facecolor="white")
        data = base64.b64encode(buffer.getvalue()).decode()
        self.parts.append(
            f'<figure><img alt="{text(alt)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text(caption)}</figcaption></figure>"
        )
        self.lines.append(f"{plain(caption)} {plain(alt)}")

    def to_fill_in(self, labels: Iterable[str]) -> None:
        """Add lines to write on."""
        labels = list(labels)
        self.lines.append("\n".join(f"- {plain(label)}: ________" for label in labels))
        self.parts.append(
            '<dl class="fill">' + "".join(f"<dt>{text(label)}</dt><dd></dd>" for label in labels) + "</dl>"
        )

    def html(self) -> str:
        """Return the page."""
        title = text(self.title)
        lead = f'<p class="lead">{text(self.lead)}</p>' if self.lead else ""
        foot = f"<footer><p>{text(self.foot)}</p></footer>" if self.foot else ""
        contents, skip = text(self.say("Contents")), text(self.say("To the text"))
        entries = "".join(f'<li><a href="#s{n}">{text(h)}</a></li>' for n, h in enumerate(self.headings, start=1))
        return (
            f'<!doctype html><html lang="{text(self.language)}"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
            f'<body><a class="skip" href="#main">{skip}</a><header><h1>{title}</h1>{lead}</header>'
            f'<nav aria-label="{contents}"><p>{contents}</p><ol>{entries}</ol></nav>'
            f'<main id="main" tabindex="-1">{"".join(self.parts)}</main>{foot}</body></html>'
        )

    def markdown(self) -> str:
        """Return the page as Markdown, for those who keep it beside code; of figures there is what is said of them.

        Examples
        --------
        >>> page = Page("Results")
        >>> page.facts({"a": 3}, "Of Tuesday.")
        >>> page.markdown().splitlines()[2:]
        ['Of Tuesday.', '', '|  |  |', '| --- | --- |', '| a | 3 |']
        """
        parts = [f"# {plain(self.title)}", plain(self.lead), *self.lines, plain(self.foot)]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _pipes(self, head: Iterable[object], rows: Iterable[Iterable[object]], caption: str) -> None:
        head = list(head)
        table: list[Iterable[object]] = [head, ["---"] * len(head), *rows]
        self.lines += [plain(caption), "\n".join(f"| {' | '.join(map(plain, row))} |" for row in table)]

    def _wide(self, inner: str, caption: str) -> None:
        """Let what is wider than the screen be moved, with the keyboard too."""
        self.parts.append(f'<div class="wide" role="group" aria-label="{text(caption)}" tabindex="0">{inner}</div>')
