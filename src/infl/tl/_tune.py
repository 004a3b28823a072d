"""Choosing options of a fit by the federated validation metric: successive halving over runs that are gone on with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from infl import _tell
from infl._parameters import Options, Whole, door
from infl.data.sites import as_sites
from infl.errors import DataError, InflWarning, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.descriptions import with_descriptions
from infl.federation.report import round_bar
from infl.federation.settings import RunSettings
from infl.models.registry import make_task
from infl.tl._trials import Trial, options_of, rungs
from infl.tl._use import check_modality

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.task import Task

OF_RUN = ("local_epochs", "aggregation", "aggregation_options", "participation", "patience", "strength", "min_sites")
"""Options of a run, beside those of its task, that may be given and tried."""
NOT_TRIED = ("validation", "stratify", "target", "strength", "min_sites")
"""What changes what trials are judged on, or how they are protected."""


@dataclass(frozen=True)
class Tuned:
    """Result of :func:`tune`.

    Attributes
    ----------
    best
        The options that won.
    run
        The run with them, to its end: as :func:`infl.tl.fit_federated` with these options returns it.
    table
        One row per trial, the best first: ``trial``, its options, ``rounds`` that were trained, ``judged`` (of how many of them the
        best was taken), the validation metrics of that round, ``sums`` that were opened, ``bytes`` that all sites sent, and a ``note``
        where a trial failed.
    history
        One row per trial and judged round, with its validation metrics; :func:`infl.pl.tune` draws it.
    disclosed
        What all trials together opened: one row per ``sum``, ``opened`` how often, ``bytes`` that all sites sent for it, and what it
        ``says``.
    metric
        By which trials were compared.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> tuned = infl.tl.tune(sites, target="tumour_class", space={"lr": [1e-3, 1e-5]}, rounds=2, eta=2, progress=False)
    >>> tuned.best, len(tuned.table), len(tuned.run.history)
    ({'lr': 0.001}, 2, 2)
    """

    best: dict[str, Any]
    run: FederatedRun = field(repr=False)
    table: pd.DataFrame
    history: pd.DataFrame = field(repr=False)
    disclosed: pd.DataFrame = field(repr=False)
    metric: str = ""


@door(space=Options(), n_trials=Whole(1, none=True), eta=Whole(2))
def tune(
    sites: Mapping[str, Data] | Data,
    model: str | Task = "classifier",
    *,
    target: str | None = None,
    site_key: str | None = None,
    key: Keyring | None = None,
    space: Mapping[str, Sequence[Any]],
    rounds: int = 20,
    n_trials: int | None = None,
    eta: int = 3,
    metric: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> Tuned:
    """Choose options of a fit by the federated validation metric, without another look at the records than fits have.

    Successive halving: all settings are fitted for a few rounds, the best 1 / `eta` of them go on where they stopped, until the last
    ones have all their rounds. A trial is a sealed and locked run of its own. It is stopped and gone on with, so that no sum is opened
    twice, and the run of the winner is to the bit the fit with its options.

    Parameters
    ----------
    sites, model, target, site_key, key
        As for :func:`infl.tl.fit_federated`. None of the objects is altered.
    space
        Values to try, by option of the model or of the run (``local_epochs``, ``aggregation``, ``participation``, …), such as
        ``{"lr": [1e-4, 1e-3], "width": [32, 64]}``.
    rounds
        Of a whole run.
    n_trials
        How many settings of the space are tried, drawn by `seed` (None: all of them).
    eta
        The share of trials that goes on is 1 / `eta`.
    metric
        Validation metric that trials are compared by, with or without ``val_`` (default: the one that the task reports first); among
        equals the task's monitor decides.
    seed
        Of all runs, which have the same validation parts, and of the draw.
    progress
        Show a progress bar.
    **options
        As for :func:`infl.tl.fit_federated`, the same for all trials; those that it does not know are the model's.

    Returns
    -------
    Tuned
        ``.best``, ``.run``, ``.table``, and ``.disclosed``, which counts what the trials opened.

    Raises
    ------
    SettingsError
        An option is not known, or its value cannot be; `privacy` is given, under which no validation metric is summed.
    DataError
        No site has validation records.

    Notes
    -----
    The winner's validation metric is the best of many, hence a little too good: judge it on other records
    (:func:`infl.tl.compare` with its options).

    References
    ----------
    Jamieson, Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> space = {"width": [8, 32], "local_epochs": [1, 2]}
    >>> tuned = infl.tl.tune(sites, target="tumour_class", space=space, rounds=3, eta=2, progress=False)
    >>> tuned.table[["trial", "rounds"]].shape, sorted(tuned.best)
    ((4, 2), ['local_epochs', 'width'])
    """
    tables = as_sites(sites, site_key)
    _check_options(space, options)
    fixed = options | ({} if target is None else {"target": target})
    tried = options_of(space, n_trials, seed)
    settings = RunSettings(rounds=rounds, seed=seed)
    if key is None:
        from infl.keys import Keyring

        key = Keyring.create()
    trials = [_trial(number, one, fixed, model, tables, key, settings) for number, one in enumerate(tried, 1)]
    metric = (metric or trials[0].task.headline).removeprefix("val_")
    ladder = rungs(len(trials), rounds, eta)
    left, done = trials, 0
    with round_bar(_n_rounds(ladder), progress) as show, _tell.once():
        for rung, (n, judged) in enumerate(ladder):
            left = sorted(left, key=lambda trial: trial.goodness(metric), reverse=True)[:n] if rung else left
            for trial in left:
                for _ in trial.advance(tables, key, judged if rung + 1 < len(ladder) else None):
                    done += 1
                    show(done, trial.run.replica.rows if trial.run else [])
            _check_judged(left, metric)
            _tell.info(f"tune: {len(left)} of {len(trials)} trials were judged after {judged} of {rounds} rounds")
    order = sorted(trials, key=lambda trial: (trial in left, trial.goodness(metric)), reverse=True)
    return _result(order, metric)


def _check_options(space: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    if options.get("privacy") is not None or "privacy" in space:
        raise SettingsError(
            "privacy= goes with no tuning: a private fit sums no validation metric to choose by, and epsilon would be spent by every "
            "trial; choose options on public data"
        )
    if "init" in options:
        raise SettingsError("init= goes with no tuning: all trials begin with fresh weights")
    if wrong := next((name for name in space if name in NOT_TRIED), None):
        raise SettingsError(
            f"space: {wrong} is no option to choose by a validation metric: it changes what trials are judged on, or their protection"
        )
    if twice := next((name for name in space if name in options), None):
        raise SettingsError(f"{twice}= is given, and in space too: leave one of them out")


def _trial(
    number: int,
    tried: Mapping[str, Any],
    fixed: Mapping[str, Any],
    model: str | Task,
    tables: Mapping[str, Data],
    key: Keyring,
    settings: RunSettings,
) -> Trial:
    """Return a trial that can begin: whatever is wrong with its options is found before any work."""
    given = dict(fixed) | dict(tried)
    of_run = {name: given.pop(name) for name in list(given) if name in OF_RUN}
    own = [f.name for f in fields(RunSettings) if f.name not in OF_RUN]
    task = make_task(model, given, (*OF_RUN, *own))
    check_modality(task, tables)
    with warnings.catch_warnings():
        if number > 1:  # what a panel warns of, it has said
            warnings.simplefilter("ignore", InflWarning)
        panel = task.agree(tables)
    agreement = Agreement.new(task, panel, tables, key, replace(settings, **of_run))
    return Trial(number, dict(tried), task, agreement)


def _n_rounds(ladder: Sequence[tuple[int, int]]) -> int:
    before = [0, *(judged for _, judged in ladder)]
    return sum(n * (judged - last) for (n, judged), last in zip(ladder, before, strict=False))


def _check_judged(trials: Sequence[Trial], metric: str) -> None:
    if all(trial.note for trial in trials):
        raise DataError(f"every trial that was left failed, the first: {trials[0].note}")
    known = next((trial.best() for trial in trials if trial.best()), None)
    if known is None:
        raise DataError(
            "no site has validation records to choose by: give validation= a share above 0, or larger sites"
        )
    if metric not in known:
        raise SettingsError(f"metric={metric!r}: the validation metrics are {', '.join(known)}")


def _result(order: Sequence[Trial], metric: str) -> Tuned:
    import pandas as pd

    winner = order[0]
    assert winner.run is not None
    rows, judged, ledgers = [], [], []
    for trial in order:
        ledger = trial.run.ledger() if trial.run else None
        row: dict[str, Any] = {
            "trial": trial.number,
            **trial.options,
            "rounds": trial.n_rounds,
            "judged": len(trial.judged()),
        }
        row |= {f"val_{name}": value for name, value in trial.best().items()}
        row["sums"] = 0 if trial.run is None else trial.run.replica.seq + 1
        row["bytes"] = 0 if ledger is None else int(ledger["bytes"].sum())
        rows.append(row | {"note": trial.note})
        judged += [{"trial": trial.number, "round": i, **metrics} for i, metrics in enumerate(trial.judged(), 1)]
        if ledger is not None:
            ledgers.append(with_descriptions(ledger, trial.task, trial.agreement.panel).assign(trial=trial.number))
    table = pd.DataFrame(rows)
    table = table[[*(c for c in table if c != "note"), "note"]]
    disclosed = _disclosed(pd.concat(ledgers, ignore_index=True))
    return Tuned(winner.options, winner.run.outcome().run, table, pd.DataFrame(judged), disclosed, metric)


def _disclosed(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return how often each sum was opened over all trials; a message of every site stands behind each."""
    opened = ledger.drop_duplicates(["trial", "kind", "round"]).groupby("sum", sort=False).size()
    by_sum = ledger.groupby("sum", sort=False)
    table = by_sum.agg(bytes=("bytes", "sum"), says=("says", "first"))
    table.insert(0, "opened", opened)
    return table.reset_index()
