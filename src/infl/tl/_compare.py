"""What federation, lock and seal cost: one table of methods on held-out data of the same sites."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.errors import SettingsError
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.federation.report import round_bar
from infl.federation.seeds import generator
from infl.models.registry import make_task
from infl.tl._fit import as_sites
from infl.tl._predict import infer

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.models.task import Task


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
N_WRONG_KEYS = 10


def compare(
    sites: Mapping[str, Data] | Data,
    model: str | Task = "classifier",
    *,
    target: str | None = None,
    site_key: str | None = None,
    seeds: int | Sequence[int] = 5,
    methods: Sequence[str] | None = None,
    test_share: float = 0.3,
    rounds: int = 20,
    local_epochs: int = 1,
    progress: bool | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Compare a locked and sealed federated fit with what else could be done with the same data.

    For each seed every site holds out `test_share` of its observations; all methods are fitted on the rest (which
    they split into training and validation themselves) and judged on the held-out observations of all sites together.

    Parameters
    ----------
    sites, model, target, site_key
        As for :func:`infl.tl.fit_federated`. None of the objects is altered.
    seeds
        How many, or which.
    methods
        Some of

        ``"pooled"``
            The same model on all sites' data in one place.
        ``"alone"``
            Each site by itself; mean over sites.
        ``"fedavg"``
            Federated, with neither lock nor seal.
        ``"infl"``, ``"infl_wrong_key"``, ``"infl_no_key"``
            The default lock and seal with the right key, ten random keys (mean), and none.
        ``"published"``, ``"published_wrong_key"``
            The published keyed method.
        ``"baseline"``
            What practitioners would try first, on pooled data (multinomial logistic regression for a classifier).
    test_share
        Share of each site's observations that is held out.
    rounds, local_epochs, **options
        As for :func:`infl.tl.fit_federated`; options that it does not know are the model's.
    progress
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row a method and metric: ``method``, ``metric``, ``mean``, ``sd`` (over seeds), ``n_seeds``, ``seconds``
        (mean, of fit and prediction). ``attrs["chance"]`` is one over the number of classes.

    Raises
    ------
    SettingsError
        Unknown method, or fewer than one seed.

    Examples
    --------
    >>> import infl
    >>> table = infl.tl.compare(
    ...     infl.datasets.khan_sites(), target="tumour_class", seeds=1, methods=["fedavg", "baseline"], rounds=2
    ... )
    >>> sorted(set(table["method"]))
    ['baseline', 'fedavg']
    """
    import pandas as pd

    tables = as_sites(sites, site_key)
    chosen = list(METHODS if methods is None else methods)
    unknown = [m for m in chosen if m not in METHODS]
    if unknown:
        raise SettingsError(f"method {unknown[0]!r} is not known: some of {', '.join(METHODS)}")
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seeds or not chosen:
        raise SettingsError("seeds= and methods= need at least one entry each")
    run_options = {k: options.pop(k) for k in list(options) if k in RUN_OPTIONS}
    task = make_task(model, options | ({} if target is None else {"target": target}))
    panel = task.agree(tables)
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    with round_bar(len(seeds) * len(chosen), progress, what="fit") as show:
        for number, seed in enumerate(seeds):
            bench = _Bench(
                task, panel, tables, seed, test_share, run_options | {"rounds": rounds, "local_epochs": local_epochs}
            )
            for position, method in enumerate(chosen):
                begun = time.perf_counter()
                metrics = bench.measure(method)
                seconds[method].append(time.perf_counter() - begun)
                for name, value in metrics.items():
                    values[method, name].append(value)
                show(number * len(chosen) + position + 1, [])
    rows = [
        (
            method,
            metric,
            float(np.mean(v)),
            float(np.std(v, ddof=1)) if len(v) > 1 else 0.0,
            len(v),
            float(np.mean(seconds[method])),
        )
        for (method, metric), v in values.items()
    ]
    table = pd.DataFrame(rows, columns=["method", "metric", "mean", "sd", "n_seeds", "seconds"])
    if panel.get("classes"):
        table.attrs["chance"] = 1 / len(panel["classes"])
    return table


RUN_OPTIONS = ("aggregation", "aggregation_options", "participation", "patience", "strength", "min_sites")


class _Bench:
    """One seed: the split, and the runs that several methods share."""

    def __init__(
        self,
        task: Task,
        panel: dict[str, Any],
        tables: Mapping[str, Data],
        seed: int,
        test_share: float,
        run_options: Mapping[str, Any],
    ) -> None:
        self.task, self.panel, self.seed, self.options = task, panel, seed, dict(run_options)
        held = {s: task.hold_out(a, test_share, generator(seed, "held out", s)) for s, a in tables.items()}
        self.train = {site: adata[~held[site]].copy() for site, adata in tables.items()}
        self.test = pool({site: adata[held[site]].copy() for site, adata in tables.items()})
        self.runs: dict[str, FederatedRun] = {}

    def measure(self, method: str) -> dict[str, float]:
        """Return a method's metrics on the held-out observations."""
        from infl.keys import Keyring

        if method == "baseline":
            outputs = self.task.baseline(pool(self.train), self.test, self.panel, seed=self.seed)
            return self.task.score(self.test, outputs, self.panel)
        if method == "alone":
            runs = [self._fit({site: adata}, "none", "none") for site, adata in self.train.items()]
            return _mean([self._score(run) for run in runs])
        if method == "pooled":
            return self._score(self._fit({"pooled": pool(self.train)}, "none", "none"))
        kind = method.split("_")[0]
        if kind not in self.runs:
            lock = {"fedavg": "none", "infl": "field", "published": "published"}[kind]
            self.runs[kind] = self._fit(self.train, lock, "group" if kind == "infl" else "none")
        run = self.runs[kind]
        if method.endswith("no_key"):
            return self.task.score(self.test, infer(self.test, run.model, None), self.panel)
        if method.endswith("wrong_key"):
            keys = [Keyring.create() for _ in range(N_WRONG_KEYS)]
            guesses = [infer(self.test, run.model, key, verify=False) for key in keys]
            return _mean([self.task.score(self.test, guess, self.panel) for guess in guesses])
        return self._score(run)

    def _score(self, run: FederatedRun) -> dict[str, float]:
        key = run.key if run.model.header.fingerprint else None
        return self.task.score(self.test, infer(self.test, run.model, key), self.panel)

    def _fit(self, tables: Mapping[str, Data], lock: str, seal: str) -> FederatedRun:
        from infl.keys import Keyring

        key = Keyring.create() if lock != "none" else None
        minimum = min(3, len(tables)) if seal != "none" else 1
        agreement = Agreement.new(
            self.task,
            self.panel,
            tables,
            key,
            lock=lock,
            seal=seal,
            seed=self.seed,
            **{"min_sites": minimum, **self.options},
        )
        return run_in_process(agreement, self.task, tables, key).run


def pool(tables: Mapping[str, Data]) -> Data:
    """Return all sites' observations in one object."""
    import anndata
    import mudata

    first = next(iter(tables.values()))
    if len(tables) == 1:
        return first
    if isinstance(first, mudata.MuData):
        parts = {
            name: anndata.concat([t.mod[name] for t in tables.values() if name in t.mod], join="outer")
            for name in first.mod
        }
        pooled = mudata.MuData(parts)
        import pandas as pd

        obs = pd.concat([t.obs for t in tables.values()])
        for column in obs:
            pooled.obs[column] = obs[column].reindex(pooled.obs_names)
        return pooled
    return anndata.concat(list(tables.values()), join="inner", index_unique=None)


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
