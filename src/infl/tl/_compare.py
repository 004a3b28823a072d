"""What federation, lock and seal cost: one table of methods on held-out data of the same sites."""

from __future__ import annotations

import inspect
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from joblib import Parallel, delayed

from infl._parameters import door
from infl._threads import one_thread
from infl._warn import warn
from infl.data.sites import as_sites
from infl.errors import DataError, InflWarning, SettingsError
from infl.federation.agreement import Agreement, check_classes
from infl.federation.local import run_in_process
from infl.federation.report import round_bar
from infl.federation.seeds import generator
from infl.federation.settings import RunSettings
from infl.models.pooling import pool
from infl.models.registry import make_task
from infl.models.task import LOWER_IS_BETTER
from infl.tl._personalise import personalise
from infl.tl._predict import infer, open_model
from infl.tl._use import check_modality, takes_union

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.models.task import Sums, Task


METHODS = (
    "pooled",
    "alone",
    "fedavg",
    "infl",
    "infl_wrong_key",
    "infl_no_key",
    "published",
    "published_wrong_key",
    "baseline",
)
OPTIONAL = ("infl_personal",)
N_WRONG_KEYS = 10
Scores = tuple[dict[str, float], dict[str, dict[str, float]]]
"""Metrics on all held-out observations together, and by site."""


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
    n_jobs: int = 1,
    progress: bool | None = None,
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
            The same model on all sites' data in one place.
        ``"alone"``
            Each site by itself; mean over sites. A site with one class has no such model: a warning names it.
        ``"fedavg"``
            Federated, with neither lock nor seal.
        ``"infl"``, ``"infl_wrong_key"``, ``"infl_no_key"``
            The default lock and seal with the right key, ten random keys (mean), and none.
        ``"published"``, ``"published_wrong_key"``
            The published keyed method.
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
    n_jobs
        How many seeds are done at once, each in a process of its own with its part of the cores (-1: one a core). The
        figures are the same; ``seconds`` are those of processes side by side.
    progress
        Show a progress bar.
    **options
        As for :func:`infl.tl.fit_federated`; those that it does not know are the model's.

    Returns
    -------
    DataFrame
        One row a method and metric: ``method``, ``metric``, ``mean``, ``sd`` (over seeds), ``worst_site`` (mean over
        seeds of the site where it is worst; for ``"alone"``, of a site's own model on its own observations),
        ``n_seeds``, ``seconds`` (mean, of fit and prediction). ``attrs["values"]`` has a record for each method, metric,
        seed and site (``""``: overall), for paired differences; ``attrs["chance"]`` is one over the number of classes;
        ``attrs["not_computed"]`` has the metrics that a site by itself cannot have (an AUROC where it has one class).

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

    tables = as_sites(sites, site_key)
    chosen = list(METHODS if methods is None else methods)
    unknown = [m for m in chosen if m not in METHODS + OPTIONAL]
    if unknown:
        raise SettingsError(f"method {unknown[0]!r} is not known: some of {', '.join(METHODS + OPTIONAL)}")
    if holdout == "site" and "infl_personal" in chosen:
        raise SettingsError("method 'infl_personal' trains at the sites that are judged: not with holdout='site'")
    assert isinstance(seeds, list)  # the door makes one of whatever it was
    if holdout == "site" and len(tables) < 3:
        raise SettingsError(f"holdout='site' leaves one site out and needs at least 3 sites; there are {len(tables)}")
    settings = RunSettings(rounds, local_epochs, **{k: options.pop(k) for k in list(options) if k in RUN_OPTIONS})
    task = make_task(model, options | ({} if target is None else {"target": target}), OWN_OPTIONS)
    check_modality(task, tables)
    panel = task.agree(tables)
    check_classes(panel)
    n_folds = len(tables) if holdout == "site" else 1
    n_fits = n_folds * len(chosen)
    by_seed: dict[int, tuple[list[dict[str, Any]], dict[str, float]]] = {}
    with round_bar(len(seeds) * n_fits, progress, what="fit") as show:
        fits = count(1)
        one = partial(_one_seed, task, panel, tables, chosen, holdout, test_share, settings)
        if n_jobs == 1:
            by_seed = dict(one(seed, lambda: show(next(fits), [])) for seed in seeds)
        else:
            work = Parallel(n_jobs, return_as="generator_unordered")(delayed(one)(seed) for seed in seeds)
            for done, (seed, result) in enumerate(work, 1):
                by_seed[seed] = result
                show(done * n_fits, [])
    records = [record for seed in seeds for record in by_seed[seed][0]]
    if not records:
        raise DataError("no site can fit this model alone: leave 'alone' out of methods=")
    seconds = _mean([by_seed[seed][1] for seed in seeds])
    rows = [
        (method, metric, *_spread(overall), _worst(metric, sites), len(seeds), seconds[method])
        for method in chosen
        for metric, overall, sites in _by_metric(records, method)
    ]
    columns = ["method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"]
    table = Comparison(rows, columns=columns)
    table.attrs |= {"values": records, "not_computed": _not_computed(records, tables)}
    if panel.get("classes"):
        table.attrs["chance"] = 1 / len(panel["classes"])
    return table


def _one_seed(
    task: Task,
    panel: dict[str, Any],
    tables: Mapping[str, Data],
    methods: Sequence[str],
    holdout: str,
    test_share: float,
    settings: RunSettings,
    seed: int,
    tell: Callable[[], None] = lambda: None,
) -> tuple[int, tuple[list[dict[str, Any]], dict[str, float]]]:
    """Return a seed, and its records and each method's seconds; `tell` is called after each fit."""
    records: list[dict[str, Any]] = []
    seconds: dict[str, float] = defaultdict(float)
    overall: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for train, test in folds(task, tables, holdout, test_share, seed):
        bench = _Bench(task, panel, train, test, replace(settings, seed=seed))
        for method in methods:
            begun = time.perf_counter()
            together, by_site = bench.measure(method)
            seconds[method] += time.perf_counter() - begun
            overall[method].append(together)
            records += [_record(method, seed, site, m, v) for site, row in by_site.items() for m, v in row.items()]
            tell()
    judged = {method: [row for row in overall[method] if row] for method in methods}
    records += [_record(method, seed, "", m, v) for method in methods for m, v in _mean(judged[method]).items()]
    return seed, (records, dict(seconds))


RUN_OPTIONS = ("aggregation", "aggregation_options", "participation", "patience", "strength", "min_sites")
OWN_OPTIONS = (*tuple(inspect.signature(compare).parameters)[2:-1], *RUN_OPTIONS)


def folds(
    task: Task, tables: Mapping[str, Data], holdout: str, test_share: float, seed: int
) -> Iterator[tuple[dict[str, Data], dict[str, Data]]]:
    """Yield what is fitted on, at least one observation of each site, and what is judged on."""
    if holdout == "site":
        for site, adata in tables.items():
            yield {other: a for other, a in tables.items() if other != site}, {site: adata}
        return
    held = {s: task.hold_out(a, test_share, generator(seed, "held out", s)) for s, a in tables.items()}
    for rows in held.values():
        rows[0] &= not rows.all()
    if not any(rows.any() for rows in held.values()):
        raise SettingsError(
            f"test_share={test_share} holds out no observation of any site: raise it, or holdout='site'"
        )
    train = {site: adata[~held[site]].copy() for site, adata in tables.items()}
    yield train, {site: adata[held[site]].copy() for site, adata in tables.items()}


class _Bench:
    """One fold: training and test data, and the runs that several methods share."""

    def __init__(
        self,
        task: Task,
        panel: dict[str, Any],
        train: Mapping[str, Data],
        test: Mapping[str, Data],
        settings: RunSettings,
    ) -> None:
        self.task, self.panel, self.settings = task, panel, settings
        self.train = train
        self.test = {site: adata for site, adata in test.items() if adata.n_obs}
        self.join: Literal["inner", "outer"] = "outer" if takes_union(task) else "inner"
        self.together = pool(self.test, self.join)
        self.runs: dict[str, FederatedRun] = {}

    def measure(self, method: str) -> Scores:
        """Return a method's metrics on the held-out observations together, and by site."""
        from infl.keys import Keyring

        if method == "baseline":
            with one_thread():
                predict = self.task.baseline(pool(self.train, self.join), self.panel, seed=self.settings.seed)
                return self._judge(lambda site: predict(self.test[site]))
        if method == "alone":
            scores = dict(self._alone())
            if not scores:
                return {}, {}
            own = {site: scores[site][1][site] for site in self.test if site in scores}
            by_site = own or {site: _mean([s[1][site] for s in scores.values()]) for site in self.test}
            return _mean([together for together, _ in scores.values()]), by_site
        if method == "pooled":
            return self._score(self._fit({"pooled": pool(self.train, self.join)}, "none", "none"))
        kind = method.split("_")[0]
        if kind not in self.runs:
            lock = {"fedavg": "none", "infl": "field", "published": "published"}[kind]
            self.runs[kind] = self._fit(self.train, lock, "group" if kind == "infl" else "none")
        run = self.runs[kind]
        if method == "infl_personal":
            personal = personalise(self.train, run, key=run.key, seed=self.settings.seed).models
            return self._judge(lambda site: self._infer(site, personal[site], run.key))
        if method.endswith("no_key"):
            return self._judge(lambda site: self._infer(site, run.model, None))
        if method.endswith("wrong_key"):
            guesses = [self._score(run, Keyring.create()) for _ in range(N_WRONG_KEYS)]
            by_site = {site: _mean([sites[site] for _, sites in guesses]) for site in self.test}
            return _mean([together for together, _ in guesses]), by_site
        return self._score(run)

    def _alone(self) -> Iterator[tuple[str, Scores]]:
        """Yield each site's own model's scores; sites whose data cannot make one (one class, no modality) are told of."""
        for site, adata in self.train.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", InflWarning)  # of one class: an error here
                    check_classes(self.task.agree({site: adata}))
            except DataError as error:
                warn(f"'alone' is without {site}: {error}")
                continue
            yield site, self._score(self._fit({site: adata}, "none", "none"))

    def _score(self, run: FederatedRun, wrong: Keyring | None = None) -> Scores:
        key = wrong or (run.key if run.model.header.fingerprint else None)
        verify = wrong is None
        if not run.site_models:
            opened = open_model(run.model, key, verify=verify)
            return self._judge(lambda site: self._infer(site, run.model, key, verify, opened))
        models = {site: run.site_models.get(site, run.model) for site in self.test}
        return self._judge(lambda site: self._infer(site, models[site], key, verify))

    def _infer(
        self,
        site: str,
        model: LockedModel,
        key: Keyring | None,
        verify: bool = True,
        opened: tuple[nn.Module, Sums] | None = None,
    ) -> dict[str, np.ndarray]:
        return infer(self.test[site], model, key, name=site, verify=verify, judged=True, opened=opened)

    def _judge(self, outputs_for: Callable[[str], dict[str, np.ndarray]]) -> Scores:
        outputs = {site: outputs_for(site) for site in self.test}
        by_site = {site: self.task.score(adata, outputs[site], self.panel) for site, adata in self.test.items()}
        if len(outputs) == 1:
            return next(iter(by_site.values())), by_site
        names = next(iter(outputs.values()))
        joined = {name: np.concatenate([o[name] for o in outputs.values()]) for name in names}
        return self.task.score(self.together, joined, self.panel), by_site

    def _fit(self, tables: Mapping[str, Data], lock: str, seal: str) -> FederatedRun:
        from infl.keys import Keyring

        key = Keyring.create() if lock != "none" else None
        fewest = min(3, len(tables)) if seal != "none" else 1
        settings = replace(self.settings, lock=lock, seal=seal, min_sites=self.settings.min_sites or fewest)
        agreement = Agreement.new(self.task, self.panel, tables, key, settings)
        return run_in_process(agreement, self.task, tables, key).run


def _not_computed(records: Sequence[Mapping[str, Any]], sites: Iterable[str]) -> dict[str, list[str]]:
    """Return, by site, the metrics that no method has there."""
    known = {(r["site"], r["metric"]) for r in records if not np.isnan(r["value"])}
    metrics = list(dict.fromkeys(r["metric"] for r in records))
    lacking = {site: [metric for metric in metrics if (site, metric) not in known] for site in sites}
    return {site: names for site, names in lacking.items() if names}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: _known_mean([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _known_mean(values: Sequence[float]) -> float:
    """Mean without what could not be measured (an AUROC where a site has one class)."""
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def _record(method: str, seed: int, site: str, metric: str, value: float) -> dict[str, Any]:
    return {"method": method, "metric": metric, "seed": seed, "site": site, "value": value}


def _by_metric(
    records: Sequence[Mapping[str, Any]], method: str
) -> Iterator[tuple[str, list[float], dict[int, list[float]]]]:
    """Yield each metric of a method with its values by seed, overall and at the sites."""
    mine = [r for r in records if r["method"] == method]
    for metric in dict.fromkeys(r["metric"] for r in mine):
        sites: dict[int, list[float]] = defaultdict(list)
        for r in mine:
            if r["metric"] == metric and r["site"]:
                sites[r["seed"]].append(r["value"])
        yield metric, [r["value"] for r in mine if r["metric"] == metric and not r["site"]], sites


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _worst(metric: str, by_seed: Mapping[int, Sequence[float]]) -> float:
    """Return the mean over seeds of the value at the site where the metric is worst."""
    worst = max if any(word in metric for word in LOWER_IS_BETTER) else min
    known = [[v for v in values if not np.isnan(v)] for values in by_seed.values()]
    return _known_mean([worst(values) if values else float("nan") for values in known])
