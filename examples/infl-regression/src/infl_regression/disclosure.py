"""A rule of disclosure: no sum over records of one ward only."""

from __future__ import annotations

import pandas as pd

from infl.privacy import DisclosureRules


def several_wards(obs: pd.DataFrame, rules: DisclosureRules) -> bool:
    """Return whether a site withholds a sum over these records, since fewer than two wards have `rules.k` of them each.

    What a group of one ward has in common is known of everybody there. Data without a column ``ward`` are not bound.

    Examples
    --------
    >>> obs = pd.DataFrame({"ward": ["A"] * 5 + ["B"] * 2})
    >>> several_wards(obs, DisclosureRules(k=5)), several_wards(obs, DisclosureRules(k=2))
    (True, False)
    """
    if "ward" not in obs:
        return False
    return bool((obs["ward"].value_counts() >= rules.k).sum() < 2)
