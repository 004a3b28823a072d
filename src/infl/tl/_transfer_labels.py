"""Labels that some sites have, given to the observations of all, by what is near in a common space."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infl._parameters import COLUMN, Key, Names, Text, Whole
from infl._warn import warn
from infl.data.columns import missing_values
from infl.data.consortium import FEWEST_NAMED, agreed, alongside
from infl.data.coordinates import coordinates
from infl.data.copy import own
from infl.data.labels import holders, label_text, near_misses
from infl.data.sites import over_sites
from infl.errors import DataError
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State, run_sums

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.keys import Keyring


@over_sites(
    between=True,
    target=COLUMN,
    use_rep=Text(says="the name of an array in obsm"),
    exclude=Names(empty=True, says="labels, each of them once"),
    min_obs=Whole(FEWEST_NAMED),
    key_added=Key(none=True),
)
def transfer_labels(
    sites: Mapping[str, AnnData | MuData] | AnnData | MuData,
    target: str,
    *,
    use_rep: str = "X_pca_harmony",
    exclude: Collection[str] = (),
    min_obs: int = 10,
    key_added: str | None = None,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> None:
    """Give observations the label whose mean is nearest in a common space; one annotated site can teach all others.

    Sites that have labels add up, for each label, number, coordinates and squared lengths of its observations; all others take
    part with zeros and get the means. Labels count alike, however many observations they have.

    Parameters
    ----------
    sites
        Objects by site name.
    target
        Column of ``obs`` with the labels, which some sites have. Where it is missing nothing is taught.
    use_rep
        Key of ``obsm`` with coordinates that are in common, and in which sites are mixed: ``"X_pca_harmony"`` of
        :func:`infl.pp.harmony_integrate`, ``"X_infl_domain"`` of :func:`infl.tl.spatial_domains`.
    exclude
        Labels that are not known, such as ``("undetermined",)``.
    min_obs
        A label of fewer observations at a site is not taught by it, and not named to others.
    key_added
        Name of the fields (None: the target's, with ``_transferred``).
    key
        Key ring: with it, and three sites or more, sums are sealed.

    Returns
    -------
    None. At every site are written ``obs["region_transferred"]`` (of the target ``region``; categories alike everywhere),
    ``obs["region_transferred_probability"]``, which takes labels as equally likely and spread alike, and
    ``uns["region_transferred"]`` with ``params``, ``labels``, ``means`` (labels × coordinates), ``n_obs`` of each label and
    the ``variance`` within them.

    Raises
    ------
    infl.errors.DataError
        No site has the column, or fewer than two labels are taught; coordinates are missing.

    Warns
    -----
    infl.errors.InflWarning
        One site alone teaches, so that the sums are its own; labels look alike; a label has too few observations.

    Examples
    --------
    >>> import infl, numpy as np, anndata as ad
    >>> types = np.repeat(["B", "T"], 20)
    >>> x = {site: np.random.default_rng(i).normal(4.0 * (types == "T"), 1) for i, site in enumerate("abc")}
    >>> sites = {site: ad.AnnData(obsm={"X": z[:, None]}, shape=(40, 0)) for site, z in x.items()}
    >>> sites["a"].obs["type"] = sites["b"].obs["type"] = types
    >>> infl.tl.transfer_labels(sites, "type", use_rep="X")
    >>> bool((sites["c"].obs["type_transferred"] == types).mean() > 0.9)
    True
    """
    latents = coordinates(sites, use_rep, role="use_rep")
    labels, notes = _labels(sites, target, exclude, min_obs)
    names, more = _names(sites, labels, target)
    number = {name: i for i, name in enumerate(names)}
    codes = {site: np.array([number.get(name, -1) for name in of], dtype=int) for site, of in labels.items()}
    d = next(iter(latents.values())).shape[1]
    rows = alongside(sites, {site: (x, codes[site]) for site, x in latents.items()})
    state = run_sums([label_sums(len(names), d)], rows, key, about="transfer labels")
    means, variance = state["means"], max(state["variance"], np.finfo(float).tiny)
    for note in [*notes, *more]:
        warn(note)
    field = f"{target}_transferred" if key_added is None else key_added
    params = {"target": target, "use_rep": use_rep, "min_obs": min_obs}
    for site, adata in sites.items():
        squares = ((latents[site][:, None] - means) ** 2).sum(2)
        likely = np.exp(-(squares - squares.min(1, keepdims=True)) / (2 * variance))
        nearest = squares.argmin(1)
        whole = own(adata)
        whole.obs[field] = pd.Categorical.from_codes(nearest, categories=names)
        whole.obs[f"{field}_probability"] = 1 / likely.sum(1)
        whole.uns[field] = {
            "params": dict(params),
            "labels": np.array(names),
            "means": means.copy(),
            "n_obs": state["n_obs"].copy(),
            "variance": variance,
        }


def _labels(
    sites: Mapping[str, AnnData | MuData], target: str, exclude: Collection[str], min_obs: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """What each observation teaches, (n_obs,), "" for nothing; and what to warn of."""
    found, notes = {}, []
    for site, adata in sites.items():
        labels = np.full(adata.n_obs, "", dtype=object)
        if target in adata.obs:
            column = adata.obs[target]
            known = ~np.asarray(missing_values(column), dtype=bool)
            labels[known] = label_text(column[known]).to_numpy()
            labels[np.isin(labels, list(exclude))] = ""
            names, n = np.unique(labels[labels != ""].astype(str), return_counts=True)
            if few := names[n < min_obs].tolist():
                labels[np.isin(labels, few)] = ""
                notes.append(f"{site} does not teach {', '.join(map(repr, few))}: fewer than {min_obs} observations")
        found[site] = labels
    return found, notes


def _names(
    sites: Mapping[str, AnnData | MuData], labels: Mapping[str, np.ndarray], target: str
) -> tuple[list[str], list[str]]:
    """Labels that are taught, in order, and what to warn of."""
    here = {site: sorted(set(of.tolist()) - {""}) for site, of in labels.items()}
    of_site = agreed(sites, f"labels of {target!r}", here)
    at = holders(of_site)
    if not at:
        raise DataError(
            f"no site has labels in obs[{target!r}] with enough observations: give target=, a column that a site has, or "
            "lower min_obs="
        )
    if len(at) < 2:
        raise DataError(f"{next(iter(at))!r} is the only label in obs[{target!r}] that is taught: two are needed")
    notes = [
        f"labels {a!r} ({at[a][0]}) and {b!r} ({at[b][0]}) in {target!r} look like one; if they are, spell them alike"
        for a, b in near_misses(at)
    ]
    teachers = [site for site, names in of_site.items() if names]
    if len(teachers) == 1:
        notes.append(
            f"{teachers[0]} alone has labels in {target!r}: numbers and means of its labels are known to all sites"
        )
    return sorted(at), notes


def label_sums(k: int, d: int) -> FederatedSum:
    """Return means of labels and the variance within them; a site is coordinates (n_obs, d) and labels' numbers, −1 for none."""

    def local(site: tuple[np.ndarray, np.ndarray], _: State) -> dict[str, np.ndarray]:
        x, code = site[0][site[1] >= 0], site[1][site[1] >= 0]
        of = np.eye(k)[code]
        return {"n": of.sum(0), "sum": of.T @ x, "squares": np.asarray((x**2).sum())}

    def combine(total: Mapping[str, np.ndarray], state: State) -> State:
        n = total["n"]
        means = total["sum"] / n[:, None]
        within = float(total["squares"] - (n[:, None] * means**2).sum())
        return {**state, "means": means, "n_obs": n.astype(int), "variance": max(within, 0.0) / (n.sum() * d)}

    def records(site: tuple[np.ndarray, np.ndarray], _: State) -> dict[str, np.ndarray]:
        n = np.bincount(site[1][site[1] >= 0], minlength=k)
        return {"n": n, "sum": n[:, None], "squares": n.sum()}

    return FederatedSum(
        name="labels",
        shapes={"n": (k,), "sum": (k, d), "squares": ()},
        local=local,
        combine=combine,
        says="number of observations of each label that is taught, sums of their coordinates, and of the squares of all",
        scale={"n": COUNT_SCALE, "sum": FINE_SCALE, "squares": FINE_SCALE},
        records=records,
        sensitivity={"n": 1},
    )
