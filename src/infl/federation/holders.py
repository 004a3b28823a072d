"""Sums to which few sites have something: of a name that one site alone has, the sum is that site's own number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from infl import _tell
from infl.errors import FederationError
from infl.federation.packings import HELD_PREFIX


def rare(names: Mapping[str, Sequence[str]], arrays: Mapping[str, np.ndarray], fewest: int) -> dict[str, list[str]]:
    """Return the names that some sites have, but fewer than `fewest`, by what they are.

    Parameters
    ----------
    names
        By what they are.
    arrays
        Opened numbers of sites.
    fewest
        Sites that must have a name.

    Examples
    --------
    >>> rare({"class": ["a", "b", "c"]}, {"held.class": np.array([3.0, 1.0, 0.0])}, 2)
    {'class': ['b']}
    """
    found = {}
    for group, of in names.items():
        number = np.rint(arrays.get(f"{HELD_PREFIX}{group}", np.zeros(0)))
        few = [name for name, n in zip(of, number, strict=False) if 0 < n < fewest]
        if few:
            found[group] = few
    return found


def check_holders(
    names: Mapping[str, Sequence[str]], arrays: Mapping[str, np.ndarray], fewest: int, n_sites: int
) -> None:
    """Refuse a run in which fewer sites than that have a name; warn of what one site alone has, where others share the rest.

    Raises
    ------
    FederationError
        Which names, and what to do.
    """
    if few := rare(names, arrays, min(fewest, n_sites)):
        raise FederationError(
            f"{_listed(few)}: fewer than {fewest} sites have it, so what is summed of it is nearly one site's own number; leave it "
            "out of the panel (features='intersection', site_effect='local'), or set min_holders = 1 in this site's policy.toml"
        )
    alone = {group: of for group, of in rare(names, arrays, min(2, n_sites)).items() if len(of) < len(names[group])}
    if alone:
        _tell.warning(f"{_listed(alone)}: one site alone has it, so what is summed of it is that site's own number")


def _listed(found: Mapping[str, Sequence[str]]) -> str:
    """Return names in a line: the first of each kind, and how many more there are.

    Examples
    --------
    >>> _listed({"class": ["b"], "feature": ["g1", "g2", "g3"]})
    "class 'b', feature 'g1' and 2 more"
    """
    rest = {group: f" and {len(of) - 1} more" if len(of) > 1 else "" for group, of in found.items()}
    return ", ".join(f"{group} {of[0]!r}{rest[group]}" for group, of in found.items())
