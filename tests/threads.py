"""A consortium in one process: a thread for each site, which holds that site's object only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, is_dataclass
from threading import Condition
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from infl.data.consortium import Consortium
from infl.errors import FederationError
from infl.keys import Keyring
from infl.privacy.seal import add


class Room:
    """Where threads meet. An exchange ends when all have said something, or one has left."""

    def __init__(self, members: tuple[str, ...]) -> None:
        self.members, self.run = members, os.urandom(16).hex()
        self.said: list[dict[str, tuple[str, Any]]] = []
        self.left: set[str] = set()
        self.changed = Condition()

    def exchange(self, number: int, site: str, kind: str, value: Any) -> dict[str, Any]:
        with self.changed:
            if number == len(self.said):
                self.said.append({})
            said = self.said[number]
            said[site] = (kind, value)
            self.changed.notify_all()
            self.changed.wait_for(lambda: len(said) == len(self.members) or self.left - set(said))
            if gone := sorted(self.left - set(said)):
                raise FederationError(f"{gone[0]} left before {kind!r}: its own message says why")
            for other, (theirs, _) in said.items():
                if theirs != kind:
                    raise FederationError(f"{other} adds {theirs!r} where {site} adds {kind!r}")
            return {member: said[member][1] for member in self.members}

    def leave(self, site: str) -> None:
        with self.changed:
            self.left.add(site)
            self.changed.notify_all()


class Seat:
    """A site's channel."""

    def __init__(self, room: Room, site: str) -> None:
        self.room, self.site, self.exchanges = room, site, 0
        self.members, self.run = room.members, room.run
        self.kinds: list[str] = []

    def number(self) -> int:
        return self.exchanges

    def add(self, kind: str, share: Any) -> Any:
        total = None
        for part in self._exchange(f"sum {kind}", share).values():
            total = add(total, part)
        return total

    def agree(self, kind: str, names: Mapping[str, Any]) -> dict[str, Any]:
        return self._exchange(f"names {kind}", names[self.site])

    def _exchange(self, kind: str, value: Any) -> dict[str, Any]:
        self.kinds.append(kind)
        self.exchanges += 1
        return self.room.exchange(self.exchanges - 1, self.site, kind, value)


def at_every_site(
    function: Callable[[Consortium], Any], sites: Mapping[str, Any], key: Keyring | None
) -> tuple[dict[str, Any], dict[str, Seat]]:
    """Run a function in a thread for each site; return what it gave there, an error where it raised one, and the channels."""
    room = Room(tuple(sites))
    seats = {site: Seat(room, site) for site in sites}

    def at(site: str) -> Any:
        try:
            return function(Consortium({site: sites[site]}, seats[site], key))
        finally:
            room.leave(site)

    with ThreadPoolExecutor(len(sites)) as pool:
        futures = {site: pool.submit(at, site) for site in sites}
    return {site: future.exception() or future.result() for site, future in futures.items()}, seats


def apart_as_together(
    before: Callable[[Any], Any] | None, step: Callable[[Any], Any], sites: Mapping[str, AnnData], key: Keyring | None
) -> tuple[dict[str, AnnData], dict[str, Seat]]:
    """Run a step in one process with all sites, and at each site of a consortium; it has to give the same to the last bit.

    Return what each site of the consortium then has, and the channels.
    """
    if before is not None:
        before(sites)
    apart = {site: adata.copy() for site, adata in sites.items()}
    expected = step(sites)
    found, seats = at_every_site(step, apart, key)
    for of_site in found.values():
        if isinstance(of_site, BaseException):
            raise of_site
        assert same(of_site, expected)
    return apart, seats


def same(a: Any, b: Any) -> bool:
    """Whether two objects, tables, matrices or results are alike to the last bit."""
    if isinstance(a, AnnData):
        parts = [same(a.X, b.X), same(a.obs, b.obs), same(a.var, b.var), same(dict(a.uns), dict(b.uns))]
        return all([*parts, same(dict(a.obsm), dict(b.obsm)), same(dict(a.varm), dict(b.varm))])
    if is_dataclass(a) and not isinstance(a, type):
        return type(a) is type(b) and all(same(x, y) for x, y in zip(astuple(a), astuple(b), strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
        return True
    if sparse.issparse(a):
        return a.dtype == b.dtype and same(a.indptr, b.indptr) and same(a.indices, b.indices) and same(a.data, b.data)
    if isinstance(a, np.recarray):
        return a.dtype == b.dtype and all(same(a[name], b[name]) for name in a.dtype.names)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return type(a) is type(b) and (a == b or (isinstance(a, float) and a != a and b != b))
