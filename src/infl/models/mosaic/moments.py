"""The moments of each modality's features over sites: imputed values have the units of measured ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infl.models.mosaic.spots import MosaicSpots
from infl.nn.mosaic import MosaicNet
from infl.sums import FederatedSum, SiteView, State
from infl.sums.shape import Arrays, Records


def moments(n_features: Sequence[int]) -> FederatedSum:
    """Return the sum of features' moments, given how many features each modality has; state: ``center_<m>``, ``scale_<m>``."""
    shapes: dict[str, tuple[int, ...]] = {"n": (len(n_features),)}
    for m, p in enumerate(n_features):
        shapes |= {f"center_{m}": (p,), f"square_{m}": (p,)}

    def local(site: SiteView[MosaicSpots, MosaicNet], state: State) -> Arrays:
        sums = {name: np.zeros(shape) for name, shape in shapes.items()}
        for m, table in site.data.measured.items():
            n = len(table.rows)
            sums["n"][m] = n
            sums[f"center_{m}"], sums[f"square_{m}"] = n * table.center, n * table.scale**2
        return sums

    def combine(total: Arrays, state: State) -> State:
        found = dict(state)
        for m, n in enumerate(total["n"]):
            found[f"center_{m}"] = total[f"center_{m}"] / max(n, 1)
            found[f"scale_{m}"] = np.sqrt(np.maximum(total[f"square_{m}"] / max(n, 1), 0))
        return found

    def records(site: SiteView[MosaicSpots, MosaicNet], state: State) -> Records:
        n = local(site, state)["n"]
        return {"n": n} | {f"{what}_{m}": n[m] for m in range(len(n)) for what in ("center", "square")}

    return FederatedSum(
        name="moments",
        shapes=shapes,
        local=local,
        combine=combine,
        says="for each modality: number of records, and sums and sums of squares of each feature, to bring features "
        "to one scale",
        records=records,
        sensitivity={"n": 1},
    )
