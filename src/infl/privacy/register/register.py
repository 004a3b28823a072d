"""The register of a site: names in, verdicts out, releases written down."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from infl.errors import FederationError
from infl.privacy.register.file import RegisterFile
from infl.privacy.register.judging import Question, Verdict, verdict
from infl.privacy.register.records import Records, digest_of, distinct
from infl.privacy.rules import DisclosureRules


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
    >>> register.release(rows, first[None], rules, Question("mean"))
    >>> register.judge(rows, second[None], rules, Question("mean")).reasons
    ('differencing',)
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._records = Records()
        self._file = RegisterFile(self.folder, self._records.replay)

    @property
    def head(self) -> str:
        """Digest of all that was written down."""
        return self._file.head

    def alone(self) -> AbstractContextManager[bool]:
        """Keep other processes of the site away."""
        return self._file.alone()

    def had(self, head: str) -> bool:
        """Whether this was the digest of all that was written down, now or before; a backup had no later ones."""
        with self._file.alone():
            return head in self._file.heads

    @property
    def n_released(self) -> int:
        """Number of releases."""
        return self._records.n_released

    def rows(self, names: Sequence[str], persons: Sequence[str] | None = None) -> np.ndarray:
        """Return where records are in the register; those that it does not know are added."""
        named = [self._file.digest(name) for name in names]
        who = named if persons is None else [self._file.digest(f"person {person}") for person in persons]
        index = self._records.index
        with self._file.alone():
            if new := {name: own for name, own in zip(named, who, strict=True) if name not in index}:
                self._file.append([{"records": list(new.items())}])
                self._records.add(list(new.items()))
        return np.array([index[name] for name in named], dtype=np.int64)

    def hold_back(self, rows: np.ndarray, sets: np.ndarray) -> None:
        """Note that sets, (n_sets, n_obs), stay closed under any name, since too few sites have what they would give away.

        Examples
        --------
        >>> register, rules = Register(), DisclosureRules(k=3)
        >>> rows = register.rows([f"cell {i}" for i in range(10)])
        >>> register.hold_back(rows, np.ones((1, 10), dtype=bool))
        >>> register.judge(rows, np.ones((1, 10), dtype=bool), rules, Question("mean")).reasons
        ('sites',)
        """
        with self._file.alone():
            of = [digest_of(rows[chosen]) for chosen in sets]
            if new := [digest for digest in dict.fromkeys(of) if digest not in self._records.held]:
                self._file.append([{"held": new}])
                self._records.held.update(new)

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
        return verdict(self._records, rows, sets, rules, question, range(len(sets)) if order is None else order)

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
        n = self._records.n_persons(place, rows, len(atoms) * len(names)).reshape(len(atoms), len(names))
        few = n.ravel()[place] < k
        return np.where(few, names[n.argmax(axis=1)[atom]], groups)

    def release(
        self,
        rows: np.ndarray,
        sets: np.ndarray,
        rules: DisclosureRules,
        question: Question,
        *,
        order: Sequence[int] | None = None,
    ) -> None:
        """Note that sets are released, in one write, before anything of them is sent.

        Parameters
        ----------
        rows, sets, rules, question
            As they were judged; they are judged again if another study has released something meanwhile.
        order
            Which of the sets are released (default: all).

        Raises
        ------
        FederationError
            With what another study has released meanwhile, they cannot be.
        FileError
            It cannot be written down; nothing may be sent.
        """
        numbers = range(len(sets)) if order is None else order
        if not len(numbers):
            return
        with self._file.alone() as changed:
            if changed:
                reasons = self.judge(rows, sets, rules, question, order=numbers).reasons
                if reason := next(filter(None, reasons), ""):
                    raise FederationError(
                        f"{question.about}: another study has released sums about these records meanwhile ({reason}); nothing was "
                        "sent, ask again"
                    )
            self._release([distinct(rows[sets[number]]) for number in numbers], numbers, question)

    def _release(self, released: Sequence[np.ndarray], numbers: Sequence[int], question: Question) -> None:
        entries, listed = [], set[str]()
        for found, number in zip(released, numbers, strict=True):
            about = {
                "about": question.about,
                "label": question.label(number),
                "members": list(question.members),
                "features": question.features,
                "panel": question.panel,
                "statistic": question.statistic,
                **({"bins": question.bins} if question.bins else {}),
            }
            entries.append(self._records.entry(found, about, listed))
        self._file.append(entries)
        for entry, found in zip(entries, released, strict=True):
            self._records.release(entry, found)
