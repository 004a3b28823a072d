"""What rules of disclosure have closed of a function's results, written beside them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from anndata import AnnData

from infl.data.asked import Asked
from infl.data.copy import own

FIELD = "infl_closed"
"""Name in ``uns``: by function, a table with a row for each number, or group of numbers, that is closed."""
COLUMNS = ("sum", "array", "group", "feature", "rule")


def write_closed(
    call: Asked, function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any], result: Any
) -> None:
    """Write which rule closed which number into ``uns`` of all objects that a call has written into; drop what is no more.

    Parameters
    ----------
    call
        The call, in which sums have noted what they closed.
    function, given, named
        What was called, and with which arguments.
    result
        What it returned: the copies, if it was asked for them.
    """
    if call.closed is None:
        return
    bound = inspect.signature(function).bind(*given, **named)
    bound.apply_defaults()
    if not bound.arguments.get("inplace", True):
        return
    written = result if bound.arguments.get("copy", False) else call.sites
    rows = list(dict.fromkeys(call.closed))
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)
    for adata in written.values():
        _write(adata, call.function, table)


def _write(adata: Any, function: str, table: pd.DataFrame) -> None:
    known = adata.uns.get(FIELD, {})
    kept = {name: value for name, value in known.items() if name != function} if isinstance(known, Mapping) else {}
    if len(table):
        kept[function] = table.copy()
    if not kept and FIELD not in adata.uns:
        return
    uns = own(adata).uns if isinstance(adata, AnnData) else adata.uns
    if kept:
        uns[FIELD] = kept
    else:
        del uns[FIELD]
