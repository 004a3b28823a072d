"""Whose data differential privacy protects at a site: its training records, or the patients that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infl.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.models.task import SiteData, Task
    from infl.privacy.dp import DP


@dataclass(frozen=True)
class Units:
    """The units of a site's training data.

    Attributes
    ----------
    records
        Indices of each unit's training records.
    names
        What a budget for life is kept for: names of the records, and of the donors where those are the units. Never sent.
    """

    records: Sequence[np.ndarray]
    names: Sequence[str]

    @classmethod
    def of(cls, dp: DP, task: Task, adata: AnnData | MuData, data: SiteData, site: str) -> Units:
        """Return the units of what a site trains on.

        Raises
        ------
        DataError
            The column of donors is missing, or it has missing values.
        """
        obs, train = task.observations(adata, site), np.asarray(data.train)
        if len(train) and int(train.max()) >= len(obs):
            raise DataError(
                f"{site}: model {task.name!r} does not say which observations it trains on; privacy= cannot be used"
            )
        records = [f"record {name}" for name in obs.index[train]]
        if dp.donor_key is None:
            return cls([np.array([i]) for i in train], records)
        donors = donors_of(obs, dp.donor_key, site).to_numpy()[train]
        names, first = np.unique(donors, return_inverse=True)
        order = np.argsort(first, kind="stable")
        groups = np.split(train[order], np.flatnonzero(np.diff(first[order])) + 1) if len(train) else []
        return cls(groups, [*records, *(f"donor {name}" for name in names)])


def donors_of(obs: pd.DataFrame, donor_key: str, site: str) -> pd.Series:
    """Return whose each observation is, as text.

    Examples
    --------
    >>> donors_of(pd.DataFrame({"patient": [7, 7, 8]}), "patient", "site_1").tolist()
    ['7', '7', '8']
    """
    from anndata import AnnData

    from infl.data.columns import obs_column
    from infl.data.labels import label_text

    table = AnnData(obs=obs[[donor_key]] if donor_key in obs else obs)
    return label_text(obs_column(table, donor_key, where=site, role="donor_key"))
