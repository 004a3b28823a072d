"""Whose records the sums of a function are about, known while it runs: names of the observations of each site here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from scipy import sparse

from infl._lazy import computed
from infl.data.columns import layer_names
from infl.errors import DataError


@dataclass(frozen=True)
class Asked:
    """A call of a function, and the records that it is about.

    Attributes
    ----------
    function
        Its name.
    sites
        The objects of the sites of this process, by name.
    told
        Digest of its other arguments.
    found
        What was looked up about them, by site; filled by who needs it.
    notes
        What happened, by kind.
    """

    function: str
    sites: Mapping[str, Any]
    told: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def closed(self) -> list[Any] | None:
        """What rules of disclosure have closed so far, see :data:`infl.sums.closed.Row`; None where no sum was judged by any."""
        return self.notes.get("closed")

    @property
    def digest(self) -> str:
        """Digest of the names of the features, which all sites have."""
        if "" not in self.found:
            first = next(iter(self.sites.values()))
            self.found[""] = sha256("\n".join(map(str, first.var_names)).encode()).hexdigest()[:16]
        return self.found[""]

    def values(self, site: str) -> str:
        """Digest of a site's values, which other steps may have changed since the last call."""
        name = f"values of {site}"
        if name not in self.found:
            digest = sha256()
            for table in getattr(self.sites[site], "mod", {"": self.sites[site]}).values():
                if not getattr(table, "isbacked", False):
                    layers = {name: table.layers[name] for name in layer_names(table)}
                    for key, array in {"X": table.X, **layers, **table.obsm}.items():
                        digest.update(key.encode())
                        for part in _parts(array):
                            digest.update(np.ascontiguousarray(part).ravel().view(np.uint8).data)  # no copy
            self.found[name] = digest.hexdigest()[:16]
        return self.found[name]

    def names(self, site: str) -> list[str]:
        """Return the names of a site's observations.

        Raises
        ------
        DataError
            Two of them have one name.
        """
        names = self.sites[site].obs_names
        if not names.is_unique:
            raise DataError(
                f"obs_names of {site} are not unique, and rules of disclosure know a record by its name: give each its own"
            )
        return [str(name) for name in names]


def _parts(array: Any) -> list[np.ndarray]:
    array = computed(array)
    if sparse.issparse(array):
        whole = array.tocsr()
        return [whole.data, whole.indices, whole.indptr]
    found = np.asarray(array)
    return [] if found.dtype.kind == "O" else [found]


_ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)


def asked() -> Asked | None:
    """Return the call that is running, None outside of one."""
    return _ASKED.get()


@contextmanager
def asking(function: str, sites: Mapping[str, Any], *told: Any) -> Iterator[Asked]:
    """Let sums know whose records they are about, and the function's other arguments."""
    call = Asked(function, sites, sha256(repr(told).encode()).hexdigest()[:16])
    token = _ASKED.set(call)
    try:
        yield call
    finally:
        _ASKED.reset(token)
