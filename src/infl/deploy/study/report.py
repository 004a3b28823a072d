"""What left a site in each step of a study, from its ledger."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

KIND = re.compile(r"step (\d+), (.*)")


def left_in_steps(ledger: list[dict[str, Any]]) -> list[tuple[int, str, int, int, str]]:
    """Return a row for each step and kind of message: step, what, number of messages, bytes, who reads it.

    Examples
    --------
    >>> left_in_steps(
    ...     [{"kind": "3:step 1, quality of features", "bytes": 90}, {"kind": "0:step 1, names: begin", "bytes": 256}]
    ... )
    [(1, 'quality of features', 1, 90, 'sites, as a sum'), (1, 'names: begin', 1, 256, 'sites')]
    """
    found: dict[tuple[int, str], list[int]] = defaultdict(list)
    for entry in ledger:
        kind = str(entry["kind"]).partition(":")[2]
        step, what = match.groups() if (match := KIND.fullmatch(kind)) else ("0", kind)
        found[(int(step), what)].append(int(entry["bytes"]))
    return [
        (step, what, len(sizes), sum(sizes), "sites" if what.startswith("names: ") or not step else "sites, as a sum")
        for (step, what), sizes in found.items()
    ]
