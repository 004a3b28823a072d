"""From the records of a comparison to its table: means, deviations, and the site where a metric is worst."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._tables import LOWER_IS_BETTER

if TYPE_CHECKING:
    from infl.models.task import Task


def rows_of(
    records: Sequence[Mapping[str, Any]], methods: Sequence[str], n_seeds: int, seconds: Mapping[str, float]
) -> list[tuple[Any, ...]]:
    """Return the rows of the table: method, metric, mean, deviation, worst site, number of seeds, seconds."""
    return [
        (method, metric, *_spread(overall), worst_site(metric, sites), n_seeds, seconds[method])
        for method in methods
        for metric, overall, sites in _by_metric(records, method)
    ]


def not_computed(records: Sequence[Mapping[str, Any]], sites: Iterable[str]) -> dict[str, list[str]]:
    """Return, by site, the metrics that no method has there."""
    known = {(r["site"], r["metric"]) for r in records if not np.isnan(r["value"])}
    metrics = list(dict.fromkeys(r["metric"] for r in records))
    lacking = {site: [metric for metric in metrics if (site, metric) not in known] for site in sites}
    return {site: names for site, names in lacking.items() if names}


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each name over rows, of those values that could be measured.

    Examples
    --------
    >>> mean_of([{"auroc": 0.5}, {"auroc": float("nan")}, {"auroc": 1.0}])
    {'auroc': 0.75}
    """
    return {name: _known_mean([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _known_mean(values: Sequence[float]) -> float:
    """Mean without what could not be measured (an AUROC where a site has one class)."""
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def record(method: str, seed: int, site: str, metric: str, value: float) -> dict[str, Any]:
    """Return one value of a comparison with what it is of."""
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


def worst_site(metric: str, by_seed: Mapping[int, Sequence[float]]) -> float:
    """Return the mean over seeds of the value at the site where the metric is worst."""
    worst = max if any(word in metric for word in LOWER_IS_BETTER) else min
    known = [[v for v in values if not np.isnan(v)] for values in by_seed.values()]
    return _known_mean([worst(values) if values else float("nan") for values in known])


def goodness(task: Task, metrics: Mapping[str, float], metric: str | None = None) -> tuple[float, float]:
    """Return what is larger for the better model: by a metric (default: the task's headline), among equals by what chooses rounds."""
    metric = metric or task.headline
    monitored = metrics[task.monitor] if task.maximise else -metrics[task.monitor]
    if metric not in metrics or metric == task.monitor:
        return 0.0, monitored
    lower = any(word in metric for word in LOWER_IS_BETTER)
    return (-metrics[metric] if lower else metrics[metric]), monitored
