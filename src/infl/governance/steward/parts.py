"""Small parts that several sections share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from infl._tables import verdict
from infl.governance.facts import Facts


def unit_of(privacy: Mapping[str, Any]) -> str:
    """Return whose data ε is of."""
    return "patient of a site" if privacy.get("unit") == "donor" else "training record"


def audit_in_short(facts: Facts) -> str:
    """Return the verdict of the audit, in a line."""
    return "It was not attacked for this page: no audit is part of it." if facts.audit is None else verdict(facts.audit)


def headline(facts: Facts) -> str:
    """Return the measure that is named first."""
    name = facts.run.model.header.build_task().headline
    return name if name in facts.quality else next(iter(facts.quality), name)


def drawn(function: Callable[..., Any], what: object, *, size: tuple[float, float]) -> Figure:
    """Draw on a figure that no window or notebook knows of."""
    figure = Figure(figsize=size, layout="constrained")
    function(what, ax=figure.subplots())
    return figure


def size_of(n: int) -> str:
    """Return a number of bytes for people."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n} B"


def minute(when: object) -> str:
    """Return a time to the minute."""
    return str(when)[:16].replace("T", " ")


def span(first: object, last: object) -> str:
    """Return from when to when, the day once if it is the same."""
    start, end = minute(first), minute(last)
    return start if start == end else f"{start} to {end[11:] if end[:10] == start[:10] else end}"
