"""Trials of :func:`infl.tl.tune`: runs that are stopped and gone on with, and which of them go on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._device import device_named
from infl.errors import FederationError, SettingsError
from infl.federation.local import LocalRun
from infl.tl._comparison import goodness

if TYPE_CHECKING:
    from infl._types import Data
    from infl.federation.agreement import Agreement
    from infl.keys import Keyring
    from infl.models.task import Task

WORST = (-np.inf, -np.inf)


@dataclass
class Trial:
    """One setting of the options that are tuned.

    Attributes
    ----------
    number
        From 1 on, in the order of the space.
    options
        What is tried.
    task, agreement
        Of its run.
    run
        As far as it has come; made when it begins.
    n_rounds
        How many rounds were trained.
    note
        Why it ended before its time.
    """

    number: int
    options: dict[str, Any]
    task: Task
    agreement: Agreement
    run: LocalRun | None = None
    n_rounds: int = 0
    note: str = ""
    _rounds: Iterator[int] = field(default_factory=lambda: iter(()), repr=False)

    def advance(self, tables: Mapping[str, Data], key: Keyring | None, rounds: int | None) -> Iterator[int]:
        """Go on until `rounds` rounds are judged (None: to the end of the run), yielding after each.

        A round is judged with the sum of the next one, so one round more is trained than is judged.
        """
        try:
            if self.run is None:
                self.run = LocalRun(self.agreement, self.task, tables, key, device=device_named())
                self._rounds = self.run.rounds()
            while rounds is None or len(self.judged()) < rounds:
                self.n_rounds = next(self._rounds)
                yield self.n_rounds
        except StopIteration:
            return
        except FederationError as error:  # it diverges: so much is known of these options
            self.note = str(error)

    def judged(self) -> list[dict[str, float]]:
        """Return the validation metrics of the rounds that were judged."""
        rows = [] if self.run is None else self.run.replica.rows
        judged = [{k.removeprefix("val_"): v for k, v in row.items() if k.startswith("val_")} for row in rows]
        return [row for row in judged if row]

    def best(self) -> dict[str, float]:
        """Return the metrics of the round that a fit would return, the best by the task's monitor; empty where there is none.

        Of a trial that failed there is none.
        """
        known = [row for row in self.judged() if not np.isnan(row[self.task.monitor])]
        sign = 1 if self.task.maximise else -1
        return {} if self.note or not known else max(known, key=lambda row: sign * row[self.task.monitor])

    def goodness(self, metric: str | None) -> tuple[float, float]:
        """Return what is larger for the better trial."""
        best = self.best()
        return goodness(self.task, best, metric) if best else WORST


def options_of(space: Mapping[str, Sequence[Any]], n_trials: int | None, seed: int) -> list[dict[str, Any]]:
    """Return the settings to try: all combinations, or `n_trials` of them, drawn.

    Raises
    ------
    SettingsError
        The space is empty, or an option has no values, or one twice.

    Examples
    --------
    >>> options_of({"lr": [0.1, 0.01], "width": [8]}, None, 0)
    [{'lr': 0.1, 'width': 8}, {'lr': 0.01, 'width': 8}]
    """
    if not space:
        raise SettingsError("space={}: give the values to try by option, such as {'lr': [1e-3, 1e-2]}")
    for name, values in space.items():
        if not isinstance(values, list | tuple | range | np.ndarray) or not len(values):
            raise SettingsError(f"space: give {name} as a list of values to try")
        if any(one == other for one, other in itertools.combinations(list(values), 2)):
            raise SettingsError(f"space: {name} has a value twice")
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*(list(v) for v in space.values()))]
    if n_trials is None or n_trials >= len(grid):
        return grid
    chosen = np.sort(np.random.default_rng(seed).choice(len(grid), n_trials, replace=False))
    return [grid[i] for i in chosen]


def rungs(n_trials: int, rounds: int, eta: int) -> list[tuple[int, int]]:
    """Return of each rung how many trials are in it, and after how many rounds they are compared; the last is the whole run.

    References
    ----------
    Jamieson, Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016.

    Examples
    --------
    >>> rungs(9, 20, 3), rungs(1, 20, 3), rungs(4, 2, 3)
    ([(9, 2), (3, 7), (1, 20)], [(1, 20)], [(4, 1), (1, 2)])
    """
    n_rungs = int(log(n_trials, eta) + 1e-9)
    found: list[tuple[int, int]] = []
    for rung in range(n_rungs):
        judged = max(1, round(rounds / eta ** (n_rungs - rung)))
        if (found[-1][1] if found else 0) < judged < rounds:
            found.append((n_trials // eta ** len(found), judged))
    return [*found, (n_trials // eta ** len(found), rounds)]
