"""Small parts that several sections share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from infl.attacks import Status
from infl.governance.facts import Facts
from infl.governance.language import Words


def unit_of(privacy: Mapping[str, Any]) -> str:
    """Return whose data ε is of."""
    return "donor" if privacy.get("unit") == "donor" else "record"


def audit_in_short(facts: Facts) -> str:
    """Return the verdict of the audit, in a line: what was decided, then what was not."""
    words = facts.words
    if facts.audit is None:
        return words.say("It was not attacked for this page: no audit is part of it.")
    order = [str(status) for status in Status]
    found = sorted(facts.findings.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    counts = ", ".join(words.say("{n} “{status}”", n=n, status=words.part(status)) for status, n in found)
    n_ways = facts.audit["attack"].nunique()
    return words.count(
        "Attacked in {n} way; findings: {counts}.", "Attacked in {n} ways; findings: {counts}.", n_ways, counts=counts
    )


def headline(facts: Facts) -> str:
    """Return the measure that is named first."""
    name = facts.run.model.header.build_task().headline
    return name if name in facts.quality else next(iter(facts.quality), name)


def drawn(function: Callable[..., Any], what: object, words: Words, *, size: tuple[float, float]) -> Figure:
    """Draw on a figure that no window or notebook knows of, with its words in the page's language."""
    figure = Figure(figsize=size, layout="constrained")
    function(what, ax=figure.subplots())
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_text(words.part(axis.label.get_text()))
            _translate_ticks(axis, words)
        for text in [] if (legend := axes.get_legend()) is None else legend.get_texts():
            text.set_text(words.part(text.get_text()))
    return figure


def _translate_ticks(axis: Axis, words: Words) -> None:
    if isinstance(axis.get_major_locator(), FixedLocator):
        labels = [words.part(label.get_text()) for label in axis.get_ticklabels()]
        axis.set_ticks(axis.get_majorticklocs(), labels, parse_math=False)


def shown(table: pd.DataFrame, words: Words) -> pd.DataFrame:
    """Return a table that people read in the page's language: names of columns, and each text in it."""
    texts = table.select_dtypes(exclude="number").columns
    cells = {name: [words.known(str(value)) for value in table[name]] for name in texts}
    return table.assign(**cells).rename(columns=words.part) if words.language != "en" else table


def size_of(n: int, words: Words) -> str:
    """Return a number of bytes for people."""
    for size, unit in ((1e9, words.say("GB")), (1e6, words.say("MB")), (1e3, words.say("kB"))):
        if n >= size:
            return words.number(f"{n / size:,.1f} {unit}")
    return f"{n} {words.say('B')}"


def minute(when: object) -> str:
    """Return a time to the minute."""
    return str(when)[:16].replace("T", " ")


def span(first: object, last: object, words: Words) -> str:
    """Return from when to when, the day once if it is the same."""
    start, end = minute(first), minute(last)
    if start == end:
        return start
    return words.say("{start} to {end}", start=start, end=end[11:] if end[:10] == start[:10] else end)
