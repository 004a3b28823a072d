"""What a register knows of a site's records: in which released sets they were, of whom they are, what was released about them."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class Records:
    """Records in the order in which they came, each of them with a number; see the attributes.

    Attributes
    ----------
    index
        Number of each record, by its digest.
    person
        Number of the person of each.
    atom
        Of each; records of one atom were in the same released sets. 0: in no set.
    by_statistic
        Atoms of the sets of one statistic.
    by_bins
        Which records' values were counted in some bins.
    load
        Released features per record, by panel of features.
    members
        Members that each released set was released to, by the set's digest.
    labels
        What was released before.
    held
        Digests of sets that stay closed.
    n_released
        Releases.
    """

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.person = self.atom = np.zeros(0, dtype=np.int64)
        self.by_statistic: dict[str, np.ndarray] = {}
        self.by_bins: dict[str, np.ndarray] = {}
        self.load: dict[str, np.ndarray] = {}
        self.members: dict[str, list[tuple[str, ...]]] = {}
        self.labels: set[str] = set()
        self.held: set[str] = set()
        self.n_released = 0
        self._persons: dict[str, int] = {}
        self._sets: dict[str, np.ndarray] = {}  # as they were read

    def add(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Add records that are not known yet, digests of each and of its person."""
        for name, person in pairs:
            if name not in self.index:
                self.index[name] = len(self.index)
                self._persons.setdefault(person, len(self._persons))
        new = dict(pairs)
        numbers = np.array([self._persons[person] for person in new.values()], dtype=np.int64)
        zeros = np.zeros(len(new))
        self.person = np.concatenate([self.person, numbers])
        self.atom = np.concatenate([self.atom, zeros.astype(np.int64)])
        self.by_statistic = {
            name: np.concatenate([of_one, zeros.astype(np.int64)]) for name, of_one in self.by_statistic.items()
        }
        self.by_bins = {bins: np.concatenate([of, zeros.astype(bool)]) for bins, of in self.by_bins.items()}
        self.load = {panel: np.concatenate([load, zeros]) for panel, load in self.load.items()}

    def replay(self, entry: dict[str, Any]) -> None:
        """Take what a line of the file says."""
        if "records" in entry:
            self.add([(str(name), str(person)) for name, person in entry["records"]])
            return
        if "held" in entry:
            self.held.update(map(str, entry["held"]))
            return
        if "set" in entry:
            self._sets[entry["of"]] = _unpacked(entry["set"], len(self.atom))
        self.release(entry, self._sets[entry["of"]])

    def entry(self, found: np.ndarray, about: dict[str, Any], listed: set[str]) -> dict[str, Any]:
        """Return what the file says of a released set; `listed` are those that lines before it have, which it is added to."""
        of = digest_of(found)
        packed = {} if of in self.members or of in listed else {"set": _packed(found, len(self.atom))}
        listed.add(of)
        return about | {"n": len(found)} | packed | {"of": of}

    def release(self, entry: dict[str, Any], found: np.ndarray) -> None:
        """Note that a set is released."""
        if "set" in entry:
            self.atom = parted(self.atom, found)
        known = self.members.setdefault(entry["of"], [])
        if (members := tuple(entry["members"])) not in known:
            known.append(members)
        self.labels.add(entry["label"])
        self.n_released += 1
        if entry["statistic"]:
            self.by_statistic[entry["statistic"]] = parted(self.of_statistic(entry["statistic"]), found)
        if bins := entry.get("bins"):  # registers of earlier versions have none
            self.by_bins.setdefault(bins, np.zeros(len(self.atom), dtype=bool))[found] = True
        if entry["features"]:
            n = len(distinct(self.person[found]))
            load = self.load.setdefault(entry["panel"], np.zeros(len(self.atom)))
            load[found] = np.maximum(load[found], entry["features"] / n)

    def of_statistic(self, statistic: str) -> np.ndarray:
        """Return the atoms of the sets of one statistic."""
        return self.by_statistic.get(statistic, np.zeros_like(self.atom))

    def n_persons(self, place: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
        """Return how many persons' records are at each of `n` places; each of `rows` is there once."""
        n_persons = len(self._persons)
        if n_persons == len(self.person):  # each record is a person
            return np.bincount(place, minlength=n)
        return np.bincount(np.unique(place * n_persons + self.person[rows]) // n_persons, minlength=n)


def digest_of(rows: np.ndarray) -> str:
    """Return the digest of a set of records."""
    return hashlib.sha256(distinct(rows).tobytes()).hexdigest()


def distinct(numbers: np.ndarray) -> np.ndarray:
    """Return the different ones of numbers from 0 on, in their order, as ``numpy.unique`` does by sorting.

    Examples
    --------
    >>> distinct(np.array([4, 1, 4])).tolist()
    [1, 4]
    """
    return np.flatnonzero(np.bincount(numbers)) if len(numbers) else numbers


def parted(atom: np.ndarray, released: np.ndarray) -> np.ndarray:
    """Return the atoms after a set is released, which was judged before.

    Examples
    --------
    >>> parted(np.array([0, 0, 0, 1, 1]), np.array([2, 3])).tolist()
    [0, 0, 2, 4, 3]
    """
    part = 2 * atom
    part[released] += 1
    rank = np.cumsum(np.bincount(part, minlength=1) > 0)
    return np.where(part == 0, 0, rank[part])


def _packed(rows: np.ndarray, n: int) -> str:
    inside = np.zeros(n, dtype=bool)
    inside[rows] = True
    return base64.b64encode(zlib.compress(np.packbits(inside).tobytes())).decode()


def _unpacked(text: str, n: int) -> np.ndarray:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return np.flatnonzero(np.unpackbits(bits, count=min(8 * len(bits), n)))
