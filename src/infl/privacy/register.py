"""A site's register of released sets of records, by record, over all its data sets and for life.

Who has the sums over several sets of records can add and subtract them. What comes out is a sum with one weight for all
records that were in the same sets: an atom. So as long as each atom has at least k records, no question can be asked whose
answer is of fewer, however many sums are combined. Two released sets then differ by no record or by k at least, and no single
record is a combination of what was released. Records that were in no set are behind no number and may be fewer.

Records are known by their names; on disk there are keyed digests of them, under a secret of the site. The file is only ever
added to, each line with the digest of all lines before.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from infl._files import explained, locked, write_atomic
from infl.errors import FederationError, FileError
from infl.privacy.rules import DisclosureRules

_NO_HEAD = "0" * 32


@dataclass(frozen=True)
class Question:
    """What is asked about sets of records.

    Attributes
    ----------
    about
        The sum, as all members see it.
    members
        Of the run.
    labels
        What each set is, such as a group's name.
    features, panel
        Of how many features means are released, and the digest of their names.
    parameters
        Of the model that is fitted to the first set; the others are groups in it.
    statistic
        Which sum of which values it is. Sums of other transformations of the same few values together give the values back.
    """

    about: str
    members: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    features: int = 0
    panel: str = ""
    parameters: int = 0
    statistic: str = ""

    def label(self, number: int) -> str:
        """Return what a set is, to know it again."""
        return self.labels[number] if self.labels else f"{self.about}: {number}"


@dataclass(frozen=True)
class Verdict:
    """What a site answers about each set: one of :data:`infl.privacy.rules.REASONS`, and where others may not go on without it.

    Attributes
    ----------
    reasons
        By set; "" where the site gives.
    against
        By set: the site gave it before and cannot now, so what the others give would be the difference.
    """

    reasons: tuple[str, ...]
    against: np.ndarray

    @property
    def given(self) -> np.ndarray:
        """Which sets the site gives."""
        return np.array([not reason for reason in self.reasons], dtype=bool)


@dataclass
class _Records:
    """What is known of records, in the order in which they came: atoms (0: in no released set), persons, features by panel."""

    atom: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    person: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    load: dict[str, np.ndarray] = field(default_factory=dict)
    by_statistic: dict[str, np.ndarray] = field(default_factory=dict)
    """Atoms of the sets of one statistic."""


class Register:
    """What a site has released, about which of its records.

    Parameters
    ----------
    folder
        Where it is kept, made if it is missing. None: in memory.

    Examples
    --------
    >>> register, rules = Register(), DisclosureRules(k=3)
    >>> rows = register.rows([f"cell {i}" for i in range(10)])
    >>> first, second = np.arange(10) < 10, np.arange(10) < 8
    >>> register.judge(rows, first[None], rules, Question("mean")).reasons
    ('',)
    >>> register.release(rows, first, Question("mean"), 0)
    >>> register.judge(rows, second[None], rules, Question("mean")).reasons
    ('differencing',)
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.head, self.n_released = _NO_HEAD, 0
        self._index: dict[str, int] = {}
        self._persons: dict[str, int] = {}
        self._records = _Records()
        self._n_lines, self._n_bytes = 0, 0  # that were read or written
        self._members: dict[str, list[tuple[str, ...]]] = {}  # by released set
        self._labels: set[str] = set()
        self._sets: dict[str, np.ndarray] = {}  # as they were read
        self._secret = os.urandom(32) if self.folder is None else self._opened()

    def rows(self, names: Sequence[str], persons: Sequence[str] | None = None) -> np.ndarray:
        """Return where records are in the register; those that it does not know are added."""
        named = [self._digest(name) for name in names]
        who = named if persons is None else [self._digest(f"person {person}") for person in persons]
        with self._alone():
            if new := {name: own for name, own in zip(named, who, strict=True) if name not in self._index}:
                self._write({"records": list(new.items())})
                self._add(list(new.items()))
        return np.array([self._index[name] for name in named], dtype=np.int64)

    def judge(
        self,
        rows: np.ndarray,
        sets: np.ndarray,
        rules: DisclosureRules,
        question: Question,
        *,
        order: Sequence[int] | None = None,
    ) -> Verdict:
        """Return which of several sets of records can be released together, and why others cannot; nothing is changed.

        Parameters
        ----------
        rows
            Of the site's observations in the register, (n_obs,).
        sets
            Truth values, (n_sets, n_obs).
        rules, question
            What is asked by which rules.
        order
            In which order sets are tried; one that leaves fewer than k records between those before it is not released.
        """
        atom, reasons = self._records.atom, [""] * len(sets)
        own = self._records.by_statistic.get(question.statistic, np.zeros_like(atom))
        for number in range(len(sets)) if order is None else order:
            chosen = rows[sets[number]]
            of_model = question.parameters if number == 0 else 0
            reason, split = self._one(chosen, atom, rules, replace(question, parameters=of_model))
            if not reason and question.statistic and not self._bears(chosen, own, rules, question):
                reason, split = "statistics", atom
            reasons[number], atom = reason, split
            own = own if reason else _parted(own, chosen)
        # A site that gave these records under any name, and cannot now, would be the rest of a total that others open. Of fewer
        # than k records it never gave a sum.
        labels = np.array([question.label(number) in self._labels for number in range(len(sets))], dtype=bool)
        given = np.array([bool((self._records.atom[rows[chosen]] > 0).any()) for chosen in sets], dtype=bool)
        given &= np.array([reason not in ("records", "empty") for reason in reasons], dtype=bool)
        refused = np.array([bool(reason) for reason in reasons])
        return Verdict(tuple(reasons), refused & (labels | given))

    def settled(self, rows: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
        """Return groups of records, (n_obs,), whose sets can be released, as near to those given as it is simple.

        Of records that were in the same sets so far, fewer than k in a group of their own go with the group that has most of them.

        Examples
        --------
        >>> register, rules = Register(), DisclosureRules(k=3)
        >>> rows = register.rows([f"cell {i}" for i in range(8)])
        >>> register.settled(rows, np.array([0, 0, 0, 0, 1, 1, 1, 2]), 3).tolist()
        [0, 0, 0, 0, 1, 1, 1, 0]
        """
        names, group = np.unique(groups, return_inverse=True)
        atoms, atom = np.unique(self._records.atom[rows], return_inverse=True)
        place = atom * len(names) + group
        n = self._n_persons(place, rows, len(atoms) * len(names)).reshape(len(atoms), len(names))
        few = n.ravel()[place] < k
        return np.where(few, names[n.argmax(axis=1)[atom]], groups)

    def _one(
        self, chosen: np.ndarray, atom: np.ndarray, rules: DisclosureRules, question: Question
    ) -> tuple[str, np.ndarray]:
        """Return why a set is not released, and the atoms if it is."""
        if not len(chosen):
            return "empty", atom
        n = len(np.unique(self._records.person[chosen]))
        if n < rules.k:
            return "records", atom
        if n < rules.records_per_parameter * question.parameters:
            return "parameters", atom
        if question.features and self._load_with(chosen, n, question) > rules.features_per_record:
            return "features", atom
        for members in self._members.get(_digest_of(chosen), ()):
            if 0 < len(set(members) ^ set(question.members)) < rules.min_holders:
                return "members", atom
        split = self._split(chosen, atom, rules.k)
        return ("differencing", atom) if split is None else ("", split)

    def _bears(self, chosen: np.ndarray, own: np.ndarray, rules: DisclosureRules, question: Question) -> bool:
        """Whether no record was, or is now, in a small set under more different statistics than the set has room for."""
        atoms = [of for name, of in self._records.by_statistic.items() if name != question.statistic]
        sizes = []
        for of_one in [*atoms, _parted(own, chosen)]:
            n = np.bincount(of_one).astype(float)
            n[0] = np.inf  # in no set
            sizes.append(n[of_one[chosen]])
        fewest_first = np.sort(sizes, axis=0)
        room = np.maximum(2, fewest_first / max(rules.records_per_parameter, 1e-9))
        return bool((np.arange(1, len(sizes) + 1)[:, None] <= room).all())

    def _split(self, chosen: np.ndarray, atom: np.ndarray, k: int) -> np.ndarray | None:
        """Return the atoms after a set is released; None where one would have fewer than k."""
        inside = np.zeros(len(atom), dtype=bool)
        inside[chosen] = True
        touched = np.unique(atom[chosen])
        affected = np.isin(atom, touched)
        place = np.searchsorted(touched, atom[affected])
        n_in, n_out = (
            self._n_persons(place[side], np.flatnonzero(affected)[side], len(touched))
            for side in (inside[affected], ~inside[affected])
        )
        n_out[touched == 0] = 0  # in no set: behind no number
        cut = (n_out > 0) | (touched == 0)
        if (cut & (n_in < k)).any() or ((n_out > 0) & (n_out < k)).any():
            return None
        split = atom.copy()
        fresh = int(atom.max()) + 1 + np.arange(len(touched))
        split[chosen] = np.where(cut, fresh, touched)[np.searchsorted(touched, atom[chosen])]
        return split

    def _n_persons(self, place: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
        """Return how many persons' records are at each of `n` places."""
        n_persons = len(self._persons)
        return np.bincount(np.unique(place * n_persons + self._records.person[rows]) // n_persons, minlength=n)

    def _load_with(self, chosen: np.ndarray, n: int, question: Question) -> float:
        """Return the most features per record that any of a set's records would have had."""
        load = np.zeros(len(chosen))
        for panel, of_panel in self._records.load.items():
            if panel != question.panel:
                load += of_panel[chosen]
        known = self._records.load.get(question.panel)
        return float((load + np.maximum(0 if known is None else known[chosen], question.features / n)).max())

    def release(
        self,
        rows: np.ndarray,
        chosen: np.ndarray,
        question: Question,
        number: int,
        rules: DisclosureRules | None = None,
    ) -> None:
        """Note that a set is released, before anything of it is sent.

        Parameters
        ----------
        rows, chosen
            Of the site's observations in the register, and which of them the set has, (n_obs,) each.
        question, number
            What was asked, and which of its sets this is.
        rules
            By which it was judged; it is judged again if another study has released something meanwhile.

        Raises
        ------
        FederationError
            With what another study has released meanwhile, it cannot be.
        FileError
            It cannot be written down; nothing may be sent.
        """
        with self._alone() as changed:
            if changed and rules is not None:
                (reason,) = self.judge(rows, chosen[None], rules, replace(question, labels=())).reasons
                if reason:
                    raise FederationError(
                        f"{question.about}: another study has released sums about these records meanwhile ({reason}); nothing was "
                        "sent, ask again"
                    )
            self._release(rows, chosen, question, number)

    def _release(self, rows: np.ndarray, chosen: np.ndarray, question: Question, number: int) -> None:
        found = np.unique(rows[chosen])
        entry = {
            "about": question.about,
            "label": question.label(number),
            "members": list(question.members),
            "features": question.features,
            "panel": question.panel,
            "statistic": question.statistic,
            "n": len(found),
        }
        if _digest_of(found) not in self._members:
            entry["set"] = _packed(found, len(self._records.atom))
        self._write(entry | {"of": _digest_of(found)})
        self._take(entry, found)

    def _take(self, entry: dict[str, Any], found: np.ndarray) -> None:
        if "set" in entry:
            self._records.atom = _parted(self._records.atom, found)
        known = self._members.setdefault(_digest_of(found), [])
        if (members := tuple(entry["members"])) not in known:
            known.append(members)
        self._labels.add(entry["label"])
        self.n_released += 1
        if entry["statistic"]:
            of_one = self._records.by_statistic.get(entry["statistic"], np.zeros_like(self._records.atom))
            self._records.by_statistic[entry["statistic"]] = _parted(of_one, found)
        if entry["features"]:
            n = len(np.unique(self._records.person[found]))
            load = self._records.load.setdefault(entry["panel"], np.zeros(len(self._records.atom)))
            load[found] = np.maximum(load[found], entry["features"] / n)

    def _add(self, pairs: Sequence[tuple[str, str]]) -> None:
        for name, person in pairs:
            if name not in self._index:
                self._index[name] = len(self._index)
                self._persons.setdefault(person, len(self._persons))
        new = dict(pairs)
        numbers = np.array([self._persons[person] for person in new.values()], dtype=np.int64)
        records, zeros = self._records, np.zeros(len(new))
        records.person = np.concatenate([records.person, numbers])
        records.atom = np.concatenate([records.atom, zeros.astype(np.int64)])
        records.by_statistic = {
            name: np.concatenate([of_one, zeros.astype(np.int64)]) for name, of_one in records.by_statistic.items()
        }
        records.load = {panel: np.concatenate([load, zeros]) for panel, load in records.load.items()}

    # -- on disk ------------------------------------------------------------------------------------------------------

    def _digest(self, name: str) -> str:
        return hashlib.blake2b(name.encode(), key=self._secret, digest_size=16, person=b"infl register").hexdigest()

    def _opened(self) -> bytes:
        """Make the folder, or read what it has, and return the secret."""
        assert self.folder is not None
        with explained(self.folder, "make"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / "secret"
        with locked(self.folder), explained(path, "read"):
            if not path.exists():
                if self._path.exists():
                    raise FileError(
                        f"{path} is missing, and without it no record is known again: restore it from a backup"
                    )
                write_atomic(path, os.urandom(32), mode=0o600)
            secret = path.read_bytes()
            self._catch_up()
        return secret

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Keep other processes of the site away, and yield whether they have written something since."""
        if self.folder is None:
            yield False
            return
        with locked(self.folder):
            head = self.head
            self._catch_up()
            yield self.head != head

    def _catch_up(self) -> None:
        """Read what was written since the register was read last."""
        path = self._path
        if not path.exists():
            return
        with explained(path, "read"), path.open("rb") as file:
            file.seek(self._n_bytes)
            content = file.read()
        for line in content.splitlines(keepends=True):
            try:
                self._replay(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError):
                raise FileError(
                    f"{path}, line {self._n_lines + 1} is damaged: restore the file from a backup"
                ) from None
            self._n_lines, self._n_bytes = self._n_lines + 1, self._n_bytes + len(line)

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / "register.jsonl"

    def _replay(self, entry: dict[str, Any]) -> None:
        head = entry.pop("head")
        if head != self._next_head(entry):
            raise ValueError
        self.head = head
        if "records" in entry:
            self._add([(str(name), str(person)) for name, person in entry["records"]])
            return
        if "set" in entry:
            bits = np.frombuffer(zlib.decompress(base64.b64decode(entry["set"])), dtype=np.uint8)
            n = min(8 * len(bits), len(self._records.atom))
            self._sets[entry["of"]] = np.flatnonzero(np.unpackbits(bits, count=n))
        self._take(entry, self._sets[entry["of"]])

    def _next_head(self, entry: dict[str, Any]) -> str:
        return hashlib.sha256((self.head + json.dumps(entry, sort_keys=True)).encode()).hexdigest()[:32]

    def _write(self, entry: dict[str, Any]) -> None:
        head = self._next_head(entry)
        line = (json.dumps(entry | {"head": head}) + "\n").encode()
        if self.folder is not None:
            with explained(self._path, "write"):
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    os.write(handle, line)
                    os.fsync(handle)
                finally:
                    os.close(handle)
        self.head, self._n_lines, self._n_bytes = head, self._n_lines + 1, self._n_bytes + len(line)


def _digest_of(rows: np.ndarray) -> str:
    return hashlib.sha256(np.unique(rows).tobytes()).hexdigest()


def _packed(rows: np.ndarray, n: int) -> str:
    inside = np.zeros(n, dtype=bool)
    inside[rows] = True
    return base64.b64encode(zlib.compress(np.packbits(inside).tobytes())).decode()


def _parted(atom: np.ndarray, released: np.ndarray) -> np.ndarray:
    """Return the atoms after a set is released, which was judged before."""
    inside = np.zeros(len(atom), dtype=np.int64)
    inside[released] = 1
    _, parted = np.unique(2 * atom + inside, return_inverse=True)
    return np.where((atom == 0) & (inside == 0), 0, parted.ravel() + 1)
