"""The numbers that a regressor predicts: read, checked, and brought to one scale by sums over sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from infl._warn import warn
from infl.data.columns import numbers_of
from infl.errors import DataError, SettingsError
from infl.models.phenotype.data import LabelledRows
from infl.sums import FINE_SCALE, FederatedSum, SiteView, State
from infl.sums.shape import Arrays

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.nn.mlp import OnPanel

N_STRATA = 4
"""Parts of a target's range, as many records in each, whose shares validation parts keep."""
LEAST_RANGE = 0.001
"""Of a target: sums of its squares are multiples of 2⁻⁴⁰."""


class MeasuredRows(LabelledRows):
    """Rows of features with numbers (n, n_targets), NaN where one was not measured."""

    @property
    def one_class(self) -> bool:
        """Whether each target is the same for all records, so that they cannot tell what goes with it."""
        if self.labels is None:
            return False
        columns = self.labels.numpy().T
        return all(len(np.unique(column[np.isfinite(column)])) < 2 for column in columns)


def targets_of(adata: AnnData | MuData, targets: Sequence[str], site: str) -> np.ndarray:
    """Return the numbers (n, n_targets). Of several a record may lack some, which is NaN, but not all of them.

    Raises
    ------
    DataError
        A column is missing, has words, or infinite values; or records have no target. They are counted, not named.
    """
    there = [name for name in targets if name in adata.obs] or targets[:1]
    several = len(targets) > 1
    y = np.full((adata.n_obs, len(targets)), np.nan)
    for number, name in enumerate(targets):
        if name in there:
            y[:, number] = numbers_of(adata, name, site, "target", partly=several)
        if wrong := int(np.isinf(y[:, number]).sum()):
            raise DataError(
                f"target {name!r} is infinite for {wrong} of {len(y)} observations at {site}: correct them, or leave those out"
            )
    if none := int(np.isnan(y).all(1).sum()):
        raise DataError(
            f"{none} of {len(y)} observations at {site} have none of the targets {', '.join(map(repr, targets))}: leave those out"
        )
    return y


def check_spread(found: Mapping[str, np.ndarray], targets: Sequence[str]) -> None:
    """Refuse a target that is the same everywhere, and warn of one that is the same at a site.

    Raises
    ------
    DataError
        It has one value, or none, at all sites, or varies by less than the sums tell.
    """
    for number, name in enumerate(targets):
        values = {site: np.unique(y[:, number][np.isfinite(y[:, number])]) for site, y in found.items()}
        everything = np.concatenate(list(values.values()))
        if len(found) > 1 and not len(everything):
            raise DataError(f"target {name!r} has no value at any site: correct the name, or leave it out")
        if len(found) > 1 and len(np.unique(everything)) < 2:
            raise DataError(
                f"target {name!r} is the same for all observations of all sites: there is nothing to learn from it"
            )
        if len(found) > 1 and np.ptp(everything) < LEAST_RANGE:
            raise DataError(
                f"target {name!r} varies by less than {LEAST_RANGE}: give it in smaller units, such as nano instead of whole ones"
            )
        for site, own in values.items():
            if len(own) == 1 and len(found[site]) > 1:
                warn(
                    f"target {name!r} is the same for all observations at {site}: they tell nothing of what goes with it"
                )


def check_ranges(ranges: Mapping[str, object] | None, targets: Sequence[str]) -> dict[str, tuple[float, float]] | None:
    """Return the lowest and the highest value that each target can have, as it was given.

    Raises
    ------
    SettingsError
        It is not a pair of numbers for each target.

    Examples
    --------
    >>> check_ranges({"age": [0, 100]}, ["age"])
    {'age': (0, 100)}
    """
    if ranges is None:
        return None
    read: dict[str, tuple[float, float]] = {}
    for name in targets:
        pair = ranges.get(name)
        if isinstance(pair, list | tuple | np.ndarray):
            pair = [v.item() if isinstance(v, np.generic) else v for v in pair]
        whole = isinstance(pair, list) and len(pair) == 2 and all(isinstance(v, int | float) for v in pair)
        if not whole or not -np.inf < pair[0] < pair[1] < np.inf:  # type: ignore[index]
            raise SettingsError(
                f"target_range= has no range for {name!r}: give the lowest and the highest value that it can have, {{{name!r}: (0, 100)}}"
            )
        read[name] = (pair[0], pair[1])  # type: ignore[index]
    if more := [name for name in ranges if name not in targets]:
        raise SettingsError(f"target_range= names {more[0]!r}, which is no target: leave it out")
    return read


def check_inside(found: Mapping[str, np.ndarray], ranges: Mapping[str, tuple[float, float]] | None) -> None:
    """Refuse targets outside the range that they were said to have: their scale would be another's.

    Raises
    ------
    DataError
        A site has such values; they are counted, and no patient named.
    """
    for number, (name, (low, high)) in enumerate((ranges or {}).items()):
        for site, y in found.items():
            own = y[:, number]
            if wrong := int(((own < low) | (own > high)).sum()):
                raise DataError(
                    f"target {name!r} is not within target_range, {low} to {high}, for {wrong} of {len(own)} observations at {site}: "
                    "widen the range, or correct them"
                )


def target_sums(n_targets: int) -> tuple[FederatedSum, FederatedSum]:
    """Return the sums of the targets, then of squared distances from their means; state: ``y_center``, ``y_scale``."""
    shape = (n_targets,)

    def measured(site: SiteView[LabelledRows, OnPanel]) -> np.ndarray:
        assert site.data.labels is not None
        return site.data.labels.numpy()[site.data.train]

    def counts(site: SiteView[LabelledRows, OnPanel], state: State) -> np.ndarray:
        return np.isfinite(measured(site)).sum(0).astype(float)

    def center(total: Arrays, state: State) -> State:
        known = total["y_known"]
        return {**state, "y_known": known, "y_center": total["y"] / np.maximum(known, 1)}

    def scale(total: Arrays, state: State) -> State:
        variance = total["y_squares"] / np.maximum(state["y_known"], 1)
        return {**state, "y_scale": np.sqrt(np.where(variance > 0, variance, 1.0))}

    return (
        FederatedSum(
            name="targets",
            shapes={"y_known": shape, "y": shape},
            local=lambda site, state: {"y_known": counts(site, state), "y": np.nansum(measured(site), 0)},
            combine=center,
            says="number of training records that have each target, and sum of its values, to bring targets to one scale",
            scale=FINE_SCALE,
            records=lambda site, state: dict.fromkeys(("y_known", "y"), counts(site, state)),
            sensitivity={"y_known": 1},
        ),
        FederatedSum(
            name="spread of targets",
            shapes={"y_squares": shape},
            local=lambda site, state: {"y_squares": np.nansum((measured(site) - state["y_center"]) ** 2, 0)},
            combine=scale,
            says="sums of squared distances from each target's mean, to bring targets to one scale",
            scale=FINE_SCALE,
            records=lambda site, state: {"y_squares": counts(site, state)},
        ),
    )


def parts_of(y: np.ndarray) -> np.ndarray:
    """Return the part of the first target's range that each record is in (n,), as many in each; those without it are the last.

    Examples
    --------
    >>> parts_of(np.array([[3.0], [1.0], [np.nan], [2.0], [4.0]])).tolist()
    [2, 0, 4, 1, 3]
    """
    first = y[:, 0]
    known = np.isfinite(first)
    part = np.full(len(y), N_STRATA)
    part[known] = np.argsort(np.argsort(first[known], kind="stable")) * N_STRATA // max(known.sum(), 1)
    return part
