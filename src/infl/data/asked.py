"""Whose records the sums of a function are about, known while it runs: names of the observations of each site here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

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
    found
        What was looked up about them, by site; filled by who needs it.
    """

    function: str
    sites: Mapping[str, Any]
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the names of the features, which all sites have."""
        if "" not in self.found:
            first = next(iter(self.sites.values()))
            self.found[""] = sha256("\n".join(map(str, first.var_names)).encode()).hexdigest()[:16]
        return self.found[""]

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


_ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)


def asked() -> Asked | None:
    """Return the call that is running, None outside of one."""
    return _ASKED.get()


@contextmanager
def asking(function: str, sites: Mapping[str, Any]) -> Iterator[None]:
    """Let sums know whose records they are about."""
    token = _ASKED.set(Asked(function, sites))
    try:
        yield
    finally:
        _ASKED.reset(token)
