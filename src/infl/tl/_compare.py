"""What federation, lock and seal cost: one table of methods on held-out data of the same sites."""

from __future__ import annotations

import inspect
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from joblib import Parallel, delayed

from infl import _tell
from infl._device import device_named
from infl._parameters import door
from infl.data.sites import as_sites
from infl.errors import DataError, SettingsError
from infl.federation.agreement import check_classes
from infl.federation.held_out import folds
from infl.federation.report import round_bar
from infl.federation.settings import RunSettings
from infl.models.registry import make_task
from infl.tl._comparison import mean_of, not_computed, record, rows_of
from infl.tl._fold import Fold
from infl.tl._use import check_modality

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.models.task import Task


METHODS = (
    "pooled",
    "alone",
    "alone_own",
    "alone_others",
    "fedavg",
    "infl",
    "infl_wrong_key",
    "infl_no_key",
    "published",
    "published_wrong_key",
    "baseline",
)
OPTIONAL = ("infl_personal", "published_own_epochs", "published_own_epochs_wrong_key")


@door()
def compare(
    sites: Mapping[str, Data] | Data,
    model: str | Task = "classifier",
    *,
    target: str | None = None,
    site_key: str | None = None,
    seeds: int | Iterable[int] = 5,
    methods: Sequence[str] | None = None,
    test_share: float = 0.3,
    holdout: Literal["observations", "site"] = "observations",
    rounds: int = 20,
    local_epochs: int = 1,
    key_seed: int = 0,
    n_jobs: int = 1,
    progress: bool | None = None,
    device: str = "auto",
    **options: Any,
) -> pd.DataFrame:
    """Compare a locked and sealed federated fit with what else could be done with the same data.

    For each seed every site holds out `test_share` of its observations; all methods are fitted on the rest (which
    they split into training and validation themselves) and judged on the held-out observations of all sites together.
    With ``holdout="site"`` each site in turn is left out of the fit and judged on, as a hospital that joins later.

    Parameters
    ----------
    sites, model, target, site_key
        As for :func:`infl.tl.fit_federated`. None of the objects is altered.
    seeds
        How many, or which: a list, a range or an array of whole numbers.
    methods
        Some of

        ``"pooled"``
            The same model on all sites' data in one place, where classifiers, regressors and survival models have the sites' validation parts.
        ``"alone"``
            Each site by itself, judged on everybody's held-out observations; mean over sites. A site with one class has
            no such model: a warning names it.
        ``"alone_own"``, ``"alone_others"``
            The same models, judged on the site's own held-out observations, and on those of the other sites. There are
            no own ones of a site that is left out, and no row of them with ``holdout="site"``.
        ``"fedavg"``
            Federated, with neither lock nor seal.
        ``"infl"``, ``"infl_wrong_key"``, ``"infl_no_key"``
            The default lock and seal with the right key, ten random keys (mean), and none.
        ``"published"``, ``"published_wrong_key"``
            The published keyed method at the strength that it prescribes for the task (:data:`infl.nn.published.STRENGTH`),
            whatever `strength` is, with `local_epochs` as everybody else.
        ``"published_own_epochs"``, ``"published_own_epochs_wrong_key"``
            The same with the number of local epochs that it prescribes (:data:`infl.nn.published.LOCAL_EPOCHS`; 50 for a
            classifier, which takes its time): only when they are named.
        ``"infl_personal"``
            ``"infl"`` with each site's model fine-tuned there (:func:`infl.tl.personalise`); only when it is named.
        ``"baseline"``
            What practitioners would try first, on pooled data (multinomial logistic regression for a classifier).
    test_share
        Share of each site's observations that is held out. One of each class stays in training, so very small sites may
        have none that are held out: they are trained on, and not judged.
    holdout
        ``"observations"``, or ``"site"``: all of a site, each in turn; a metric is then the mean over sites.
    rounds, local_epochs
        As for :func:`infl.tl.fit_federated`.
    key_seed
        Of all keys, right and wrong: with another one, each method gets others. What a method reaches may depend on its key
        (the published one does): its spread over keys is the spread over tables of several `key_seed`.
    n_jobs
        How many seeds run at the same time, each in a process of its own with its part of the cores (-1: one per core). The
        figures are the same; ``seconds`` are those of processes side by side.
    progress
        Show a progress bar.
    device
        Where models are trained and judged: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` for ``infl.settings.device``, by default a CUDA device where
        there is one and else the processor.
    **options
        As for :func:`infl.tl.fit_federated`; those that it does not know are the model's.

    Returns
    -------
    DataFrame
        One row per method and metric: ``method``, ``metric``, ``mean``, ``sd`` (over seeds), ``worst_site`` (mean over
        seeds of the site where it is worst; for ``"alone"``, of a site's own model on its own observations; for
        ``"alone_others"``, of the model of the site),
        ``n_seeds``, ``seconds`` (mean, of fit and prediction). ``attrs["values"]`` has a record for each method, metric,
        seed and site (``""``: overall), for paired differences; ``attrs["chance"]`` is what a guess gets, where that is known;
        ``attrs["not_computed"]`` has the metrics that a site by itself cannot have (an AUROC where it has one class), and
        ``attrs["n_test"]`` how many observations each site held out; where they are fewer than ten, the table says so.
        ``table.by_site()`` has a row per method and site, and ``table.difference("infl", "pooled")`` the difference of two
        methods on the same splits, with an interval.

    Raises
    ------
    SettingsError
        Unknown method or holdout, fewer than one seed, too few sites to leave one out, or nothing that is held out.

    Examples
    --------
    >>> import infl
    >>> table = infl.tl.compare(
    ...     infl.datasets.khan_sites(), target="tumour_class", seeds=1, methods=["fedavg", "baseline"], rounds=2
    ... )
    >>> sorted(set(table["method"]))
    ['baseline', 'fedavg']
    """
    from infl._tables import Comparison

    assert isinstance(seeds, list)  # the door makes one of whatever it was
    tables = as_sites(sites, site_key)
    device_named(device)  # an error before any work
    chosen = list(METHODS if methods is None else methods)
    _check_methods(chosen, holdout, len(tables))
    settings = RunSettings(rounds, local_epochs, **{k: options.pop(k) for k in list(options) if k in RUN_OPTIONS})
    task = make_task(model, options | ({} if target is None else {"target": target}), OWN_OPTIONS)
    check_modality(task, tables)
    panel = task.agree(tables)
    check_classes(panel)
    one = partial(_one_seed, task, panel, tables, chosen, holdout, test_share, settings, key_seed, device)
    n_fits = (len(tables) if holdout == "site" else 1) * len(chosen)
    by_seed = _all_seeds(one, seeds, n_fits, n_jobs=n_jobs, progress=progress)
    records = [found for seed in seeds for found in by_seed[seed][0]]
    if not records:
        raise DataError("no site can fit this model alone: leave 'alone' out of methods=")
    seconds = mean_of([by_seed[seed][1] for seed in seeds])
    columns = ["method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"]
    table = Comparison(rows_of(records, chosen, len(seeds), seconds), columns=columns)
    n_test = {site: min(by_seed[seed][2][site] for seed in seeds) for site in tables}
    table.attrs |= {"values": records, "not_computed": not_computed(records, tables), "n_test": n_test}
    table.attrs |= {"holdout": holdout, "test_share": test_share}
    if (chance := task.chance(panel)) is not None:
        table.attrs["chance"] = chance
    return table


def _check_methods(methods: Sequence[str], holdout: str, n_sites: int) -> None:
    unknown = [m for m in methods if m not in METHODS + OPTIONAL]
    if unknown:
        raise SettingsError(f"method {unknown[0]!r} is not known: some of {', '.join(METHODS + OPTIONAL)}")
    if holdout == "site" and "infl_personal" in methods:
        raise SettingsError("method 'infl_personal' trains at the sites that are judged: not with holdout='site'")
    if holdout == "site" and n_sites < 3:
        raise SettingsError(f"holdout='site' leaves one site out and needs at least 3 sites; there are {n_sites}")


OfSeed = tuple[list[dict[str, Any]], dict[str, float], dict[str, int]]
"""Records of a seed, each method's seconds, and how many observations each site held out."""


def _all_seeds(
    one: Callable[..., tuple[int, OfSeed]], seeds: Sequence[int], n_fits: int, *, n_jobs: int, progress: bool | None
) -> dict[int, OfSeed]:
    """Return what each seed gives, here or in processes side by side, with a bar over all fits."""
    with round_bar(len(seeds) * n_fits, progress, what="fit") as show, _tell.once():
        if n_jobs == 1:
            fits = count(1)
            return dict(one(seed, lambda: show(next(fits), [])) for seed in seeds)
        by_seed: dict[int, OfSeed] = {}
        work = Parallel(n_jobs, return_as="generator_unordered")(delayed(one)(seed) for seed in seeds)
        for done, (seed, result) in enumerate(work, 1):
            by_seed[seed] = result
            show(done * n_fits, [])
        return by_seed


def _one_seed(
    task: Task,
    panel: dict[str, Any],
    tables: Mapping[str, Data],
    methods: Sequence[str],
    holdout: str,
    test_share: float,
    settings: RunSettings,
    key_seed: int,
    device: str,
    seed: int,
    tell: Callable[[], None] = lambda: None,
) -> tuple[int, OfSeed]:
    """Return a seed, its records, each method's seconds and the sites' held-out observations; `tell` is called after each fit."""
    records: list[dict[str, Any]] = []
    seconds: dict[str, float] = defaultdict(float)
    overall: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    n_test: dict[str, int] = {}
    for train, test in folds(task, tables, holdout, test_share, seed):
        n_test |= {site: adata.n_obs for site, adata in test.items()}
        fold = Fold(task, panel, train, test, replace(settings, seed=seed), key_seed, device)
        for method in methods:
            begun = time.perf_counter()
            together, by_site = fold.measure(method)
            seconds[method] += time.perf_counter() - begun
            overall[method].append(together)
            records += [record(method, seed, site, m, v) for site, row in by_site.items() for m, v in row.items()]
            tell()
    judged = {method: [row for row in overall[method] if row] for method in methods}
    records += [record(method, seed, "", m, v) for method in methods for m, v in mean_of(judged[method]).items()]
    return seed, (records, dict(seconds), n_test)


RUN_OPTIONS = ("aggregation", "aggregation_options", "participation", "patience", "strength", "min_sites", "bits")
OWN_OPTIONS = (*tuple(inspect.signature(compare).parameters)[2:-1], *RUN_OPTIONS)
