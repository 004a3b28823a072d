"""The sums that every run has, whatever its task: of records, of a training round, of the last model's metrics, and of nothing.

Each is a :class:`~infl.sums.FederatedSum` but for that of a training round, which says itself why it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from infl.errors import SettingsError
from infl.federation.messages import CLOSE_KIND
from infl.federation.packings import CONTROL_EXPONENT, HELD_PREFIX, update_exponent
from infl.federation.rules import rule
from infl.models.task import SiteData
from infl.privacy.dp import grid_exponent
from infl.privacy.seal import Field, Packing
from infl.privacy.seal.narrow import FULL, width_of
from infl.sums import COUNT_SCALE, FederatedSum, Scale, SiteView, State
from infl.sums.lanes import LEFT_OUT_COUNT, METRIC_PREFIX, MOST_STEPS_AT_ONCE, WIDER_COUNT, sums_packing

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement
    from infl.models.task import Sums, Task
    from infl.nn.flat import Layout


@dataclass(frozen=True)
class RunView(SiteView[SiteData, nn.Module]):
    """What the sums of a run are computed from at a site: those of its task, and those of every run.

    Attributes
    ----------
    n_records
        Training records; under differential privacy units of privacy.
    judge
        Returns the validation sums of the global model.
    """

    n_records: int
    judge: Callable[[], Sums]


@dataclass(frozen=True)
class TrainingSum:
    """The sum of a training round: how it is laid into a message, and what it tells.

    It is no :class:`~infl.sums.FederatedSum`. The update is one float32 vector as large as the model, divided before the sum by
    what all sites weigh, on scales that follow from the rounds before; it is computed by training and combined by a rule that
    has a state. :class:`~infl.federation.training.Trainer` and :class:`~infl.federation.replica.Replica` do that.

    Attributes
    ----------
    packing
        Arrays, on their first scales.
    marked
        Whether sites say inside the sum that their part counts as zero.
    name, says
        As of a federated sum.

    Examples
    --------
    >>> TrainingSum(Packing(()), marked=False).exchanges
    ['train']
    """

    packing: Packing
    marked: bool
    name: str = "train"
    says: str = (
        "how training at the site changed the model's weights, times its share of the records; training loss; "
        "results on its validation records; all as parts of sums"
    )

    @property
    def exchanges(self) -> list[str]:
        """Name of the exchange."""
        return [self.name]


def count_sum(task: Task, panel: Mapping[str, Any], *, private: bool = False) -> FederatedSum:
    """Return the first sum: training records, and of each name of the panel how many sites have it; state: ``n_total``.

    Parameters
    ----------
    task, panel
        The run's.
    private
        Under differential privacy: records alone, since whether a site has a class follows from its records.
    """
    names = {} if private else task.held_names(panel)
    shapes = {f"{HELD_PREFIX}{group}": (len(of),) for group, of in names.items()}

    def local(site: RunView, state: State) -> dict[str, Any]:
        held = {} if private else task.held(site.data, panel)
        return {"n": site.n_records} | {f"{HELD_PREFIX}{group}": has for group, has in held.items()}

    return FederatedSum(
        name="count",
        shapes={"n": (), **shapes},
        scale=COUNT_SCALE,
        local=local,
        combine=lambda total, state: {**state, "n_total": int(total["n"])},
        says="how many training records the site has, as part of a sum",
        records=lambda site, state: {"n": site.n_records},
        sensitivity=dict.fromkeys(["n", *shapes], 1),
        marked=False,  # whole numbers of this size always fit
    )


def judge_sum(task: Task, panel: Mapping[str, Any]) -> FederatedSum:
    """Return the sum of the last model's validation metrics; state: ``metrics``."""
    return FederatedSum(
        name="judge",
        shapes=metric_shapes(task, panel),
        scale=metric_scales(task, panel),
        local=lambda site, state: metric_arrays(site.judge()),
        combine=lambda total, state: {**state, "metrics": summarised(task, panel, total)},
        says="results of the last model on the site's validation records, as parts of sums",
        records=lambda site, state: len(site.data.validation),
    )


def close_sum() -> FederatedSum:
    """Return the last sum, of nothing."""
    return FederatedSum(
        name=CLOSE_KIND,
        shapes={},
        local=lambda site, state: {},
        combine=lambda total, state: state,
        says="nothing of the data: that the last sum opens shows that all sites had the same sums before",
        marked=False,
    )


def training_sum(task: Task, agreement: Agreement, shared: Layout) -> TrainingSum:
    """Return the sum of a training round: update, training loss and validation metrics.

    Under differential privacy the update is a sum of clipped gradients with noise, on the grid that the noise lies on, and
    nothing else is sent: loss, counts, metrics and marks would need noise too.
    """
    dp = agreement.dp
    if dp is not None:
        exponent = grid_exponent(dp.clip_norm, shared.total)
        return TrainingSum(
            Packing(tuple(Field(entry.name, entry.shape, exponent) for entry in shared.entries)), marked=False
        )
    width = FULL if agreement.bits is None else width_of(agreement.bits, agreement.cohort_size)
    exponent = update_exponent(task.lr, agreement.local_epochs, width)
    update = tuple(Field(entry.name, entry.shape, exponent) for entry in shared.entries)
    chosen = rule(agreement.aggregation, agreement.aggregation_options)
    sums: dict[str, tuple[int, ...]] = {"train_loss": ()}
    if chosen.importance is not None:
        sums["importance"] = ()
    if chosen.control:
        update += tuple(Field(f"control.{entry.name}", entry.shape, CONTROL_EXPONENT) for entry in shared.entries)
    some = agreement.cohort_size < len(agreement.sites)  # else all are asked, and weigh what was counted first
    counts = (
        *([Field("n", (), 0, bits=64, of_all=True)] if some else []),
        Field(LEFT_OUT_COUNT, (), 0, bits=64),
        Field(WIDER_COUNT, (len(update), MOST_STEPS_AT_ONCE if width == FULL else 1), 0, bits=64),
    )
    shapes = sums | metric_shapes(task, agreement.panel)
    of_all = sums_packing(shapes, metric_scales(task, agreement.panel), marked=False)
    return TrainingSum(Packing((*update, *counts, *of_all.fields), width), marked=True)


def metric_shapes(task: Task, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays by which metrics are summed."""
    return {f"{METRIC_PREFIX}{name}": tuple(shape) for name, shape in task.metric_shapes(panel).items()}


def metric_scales(task: Task, panel: Mapping[str, Any]) -> dict[str, Scale]:
    """Return the scales of those that do not have the usual one: one limb where a record adds about 1 at most."""
    bounded = [f"{METRIC_PREFIX}{name}" for name in task.bounded_metrics]
    return {name: Scale(limbs=1) for name in metric_shapes(task, panel) if name in bounded}


def metric_arrays(sums: Sums) -> dict[str, np.ndarray]:
    """Return a site's validation sums under the names that they have in a message."""
    return {f"{METRIC_PREFIX}{name}": value for name, value in sums.items()}


def summarised(task: Task, panel: Mapping[str, Any], total: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics of a total; not a number where a site was missing, so that their sums stayed closed."""
    sums = {name.removeprefix(METRIC_PREFIX): value for name, value in total.items() if name.startswith(METRIC_PREFIX)}
    if sums:
        found = task.summarise(sums)
        if task.monitor not in found:
            raise SettingsError(
                f"model {task.name!r}: summarise returns {', '.join(found) or 'nothing'}, without {task.monitor!r}, by which the best "
                "round is chosen: add it, or set monitor= in the class"
            )
        return found
    nothing = {name: np.zeros(shape) for name, shape in task.metric_shapes(panel).items()}
    return dict.fromkeys(task.summarise(nothing), float("nan"))
