"""Which numbers rules of disclosure have closed, in words: the rows that stand beside a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from infl.sums.answers import RULE_NAMES

if TYPE_CHECKING:
    from infl.data.asked import Asked
    from infl.sums.answers import Opening
    from infl.sums.cells import Cells
    from infl.sums.shape import FederatedSum

Row = tuple[str, str, str, str, str]
"""Sum, array, group, feature and rule; "" for a group or feature where it is all of them."""


def note_closed(call: Asked, purpose: str, one: FederatedSum, opening: Opening) -> None:
    """Note what rules have closed of a sum. Steps that look for something are left out: what they find is judged once more."""
    noted = call.notes.setdefault("closed", [])
    if one.steps == 1 and one.cells is not None:
        noted += rows_of(purpose, one.cells, opening.rule, next(iter(call.sites.values())).var_names)


def rows_of(purpose: str, cells: Cells, rule: Mapping[str, np.ndarray], features: Sequence[str]) -> list[Row]:
    """Return what is closed of a sum.

    Parameters
    ----------
    purpose
        What the sum is for.
    cells
        Of the sum.
    rule
        By array: the number of the rule that closes each number, 0 where none does.
    features
        Their names.

    Examples
    --------
    >>> from infl.sums.cells import Cells
    >>> cells = Cells(sets=lambda site, state: site, of={"n": [[0], [1]]}, on_features=("n",), labels=("B", "T"))
    >>> rows_of("markers", cells, {"n": np.array([[0, 2], [1, 1]])}, ["x", "y"])
    [('markers', 'n', 'B', 'y', 'dominance'), ('markers', 'n', 'T', '', 'sites')]
    """
    found: dict[Row, None] = {}
    for name, numbers in rule.items():
        if not numbers.any():
            continue
        whole = not cells.on_features and cells.features == len(features)
        on_features = numbers.shape[-1:] == (len(features),) and (whole or name in cells.on_features)
        table = numbers.reshape(-1, numbers.shape[-1]) if on_features else numbers.reshape(-1, 1)
        sets = np.broadcast_to(np.asarray(cells.of.get(name, 0)), numbers.shape).reshape(table.shape)
        for of_row, own_sets in zip(table, sets, strict=True):
            label = cells.labels[int(own_sets[0])] if cells.labels else ""
            if of_row.min() == of_row.max():
                if of_row[0]:
                    found[purpose, name, label, "", RULE_NAMES[of_row[0]]] = None
                continue
            closed = np.flatnonzero(of_row)
            found |= dict.fromkeys((purpose, name, label, str(features[int(j)]), RULE_NAMES[of_row[j]]) for j in closed)
    return list(found)
