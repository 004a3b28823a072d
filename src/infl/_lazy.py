"""Objects that :func:`anndata.experimental.read_lazy` opened: arrays of dask, and tables that are read column by column.

Arrays stay lazy, and are computed part by part where their values are needed. Tables are read when such an object is given to a
function, since results are written into them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_lazy(array: Any) -> bool:
    """Whether an array's values are yet to be computed.

    Examples
    --------
    >>> import numpy as np
    >>> is_lazy(np.ones(3))
    False
    """
    return any(
        kind.__module__.startswith("dask.") for kind in type(array).__mro__
    )  # anndata has a kind of its own for views


def computed(array: Any) -> Any:
    """Return a lazy array in memory; what is there already, as it is.

    Examples
    --------
    >>> computed([1, 2])
    [1, 2]
    """
    return array.compute() if is_lazy(array) else array


def read_tables(data: Any) -> None:
    """Read the lazy tables of an object, or of several by name, in place: the values are the same, in memory."""
    for one in data.values() if isinstance(data, Mapping) else (data,):
        if not hasattr(one, "obs_names"):
            continue  # what is wrong with it, others say
        for part in (one, *getattr(one, "mod", {}).values()):
            for slot in ("obs", "var"):
                if _is_lazy_table(table := getattr(part, slot, None)):
                    setattr(part, slot, _read(table))
            for slot in ("obsm", "varm"):
                entries = getattr(part, slot, {})
                for name in [name for name, entry in entries.items() if _is_lazy_table(entry)]:
                    entries[name] = _read(entries[name])


def _is_lazy_table(table: Any) -> bool:
    return type(table).__name__ == "Dataset2D"


def _read(table: Any) -> Any:
    frame = table.to_memory()
    return frame.rename_axis(None) if frame.index.name == "_index" else frame  # what a file calls one without a name
