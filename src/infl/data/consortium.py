"""Sites of several processes that run one function together: each holds its own, and what they tell each other.

A function of :mod:`infl.pp` that takes sites by name runs as well at every site of a consortium, on the same arguments. Each
process then holds its own site only, and all of them compute the same from the same totals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from infl.errors import DataError, SettingsError

FEWEST_NAMED = 5
"""Records of a category at a site whose name may leave it."""

T = TypeVar("T")
V = TypeVar("V")
Names = str | int | bool | None | list[str]
"""What a site may say openly: names of what it has, or their digest and number, never a value of a record."""


class Channel(Protocol):
    """How a process of a consortium reaches the others; every exchange is one that all members make, in one order.

    Attributes
    ----------
    members
        Names of all sites, in the order that all use.
    run
        Random name of this run of a function, which no other run has.
    """

    members: tuple[str, ...]
    run: str

    def number(self) -> int:
        """Return the number of the next exchange."""

    def add(self, kind: str, share: Any) -> Any:
        """Return the sum of all members' masked shares, refused where a member adds something else than `kind`."""

    def agree(self, kind: str, names: Mapping[str, Names]) -> dict[str, Names]:
        """Return what all members say, in the order of members, given what the sites of this process say."""


class Consortium(Mapping[str, T], Generic[T]):
    """What a process holds of the sites of a consortium, by name.

    Parameters
    ----------
    held
        What belongs to this process's own sites.
    channel
        To the other processes.
    key
        Key ring that sums are sealed with where a function is called without one.
    admit
        Called with what a fit is before it begins: raises unless this process's sites take part in it, and returns the fewest
        sites that must have a feature or a class.
    """

    def __init__(
        self, held: Mapping[str, T], channel: Channel, key: Any = None, admit: Callable[[Any], int] = lambda fit: 2
    ) -> None:
        if unknown := [site for site in held if site not in channel.members]:
            raise SettingsError(f"{unknown[0]} is no member of the consortium ({', '.join(channel.members)})")
        self._held, self.channel, self.key, self.admit = dict(held), channel, key, admit

    def __getitem__(self, site: str) -> T:
        return self._held[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"Consortium of {', '.join(self.channel.members)}; here: {', '.join(self._held) or 'none'}"


def alongside(sites: Mapping[str, Any], values: Mapping[str, V]) -> Mapping[str, V]:
    """Return values of the sites that can be added over the same consortium; of sites of one process, the values.

    Examples
    --------
    >>> alongside({"a": [1, 2]}, {"a": 2})
    {'a': 2}
    """
    return Consortium(values, sites.channel, sites.key) if isinstance(sites, Consortium) else values


def members(sites: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of all sites, of other processes too.

    Examples
    --------
    >>> members({"a": 1, "b": 2})
    ('a', 'b')
    """
    return sites.channel.members if isinstance(sites, Consortium) else tuple(sites)


def agreed(sites: Mapping[str, Any], kind: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every site says, by name, given what those of this process say.

    Between processes it is sent openly. So it is names only (of features, kinds of values, columns), or their digest and number.

    Parameters
    ----------
    sites
        Whose names these are.
    kind
        What is said; a member that says something else at that place is refused.
    names
        By site.

    Examples
    --------
    >>> agreed({"a": 1, "b": 2}, "kinds of values", {"a": "raw counts", "b": None})
    {'a': 'raw counts', 'b': None}
    """
    return sites.channel.agree(kind, names) if isinstance(sites, Consortium) else dict(names)


def agreed_categories(sites: Mapping[str, Any], kind: str, labels: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return which categories each site has, in order, given the label of each record of the sites of this process.

    Between processes, a category of few records is not named: what a site cannot name, it cannot take part with.

    Raises
    ------
    DataError
        A site of a consortium has a category of fewer than five records.

    Examples
    --------
    >>> agreed_categories({"a": 1, "b": 2}, "batches", {"a": ["x", "y", "x"], "b": ["y"]})
    {'a': ['x', 'y'], 'b': ['y']}
    """
    found = {}
    for site, of_site in labels.items():
        names, n = np.unique(np.asarray(of_site, dtype=str), return_counts=True)
        if isinstance(sites, Consortium) and len(names) and n.min() < FEWEST_NAMED:
            raise DataError(
                f"{kind} of {site}: {str(names[n.argmin()])!r} has {n.min()} observations, and a category of fewer than "
                f"{FEWEST_NAMED} is not named to other sites: join it with another, or leave these observations out"
            )
        found[site] = names.tolist()
    return agreed(sites, kind, found)
