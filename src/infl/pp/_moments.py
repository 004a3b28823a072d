"""Means and variances over all sites, from sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from infl._parameters import LAYER
from infl.data.consortium import alongside
from infl.data.copy import own
from infl.data.sites import over_sites
from infl.data.units import warn_of_units
from infl.pp._largest import contributions
from infl.pp._matrix import SiteMatrix, kinds, matrices
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State, run_sums
from infl.sums.cells import Cells, Sizes
from infl.sums.disclosure import persons_of

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring
    from infl.privacy.rules import DisclosureRules
    from infl.sums.shape import Arrays

Transform = Callable[[Any], Any]
"""Values to values, 0 to 0, applied to a block before it is summed."""


@over_sites(between=True, ruled=True, layer=LAYER)
def moments(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    layer: str | None = None,
    inplace: bool = True,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> pd.DataFrame:
    """Mean and variance of every feature over the observations of all sites.

    Two rounds of sums: first the means, then squared distances from them, each feature on a scale that follows from the
    first round. So the result is as exact for counts in the millions as for fractions of a millionth.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; dense, sparse or backed. A site that did not measure a feature
        (``var["infl_present"]``) has no part in its moments.
    inplace
        Write ``var["mean"]``, ``var["var"]`` and ``var["std"]`` at every site.

    Returns
    -------
    One row per feature: ``n_obs``, ``mean``, ``var`` (unbiased, as scanpy's) and ``std``.

    Warns
    -----
    infl.errors.InflWarning
        Sites have different kinds of values, such as counts and logarithms.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.moments(sites).n_obs.iloc[0]
    np.int64(83)
    """
    at = matrices(sites, layer, key)
    warn_of_units(kinds(at))
    found = federated_moments(at, key)
    index = next(iter(at.values())).adata.var_names
    table = pd.DataFrame(
        {"n_obs": whole_numbers(found.n), "mean": found.mean, "var": found.var, "std": np.sqrt(found.var)},
        index=index.copy(),
    )
    if inplace:
        for matrix in at.values():
            for name in ("mean", "var", "std"):
                own(matrix.adata).var[name] = table[name].to_numpy()
    return table


@dataclass(frozen=True)
class Moments:
    """Over all sites, for each feature: number of observations, mean, unbiased variance; (n_vars,) each."""

    n: np.ndarray
    mean: np.ndarray
    var: np.ndarray


def federated_moments(
    at: Mapping[str, SiteMatrix],
    key: Keyring | None,
    *,
    transform: Transform | None = None,
    rows: Mapping[str, np.ndarray] | None = None,
    purpose: str = "moments",
    textbook: bool = False,
) -> Moments:
    """Moments of transformed values.

    Parameters
    ----------
    at
        Matrices by site.
    key
        Key ring or None.
    transform
        Applied to each block.
    rows
        For each site, which observations to use, (n_obs,) booleans.
    purpose
        What the seal is bound to.
    textbook
        Variances by E[x²] − E[x]² with squares in the type of the values: less exact, but what scanpy ranks features by.
    """
    chosen = alongside(
        at, {site: Rows(matrix, None if rows is None else rows[site], transform) for site, matrix in at.items()}
    )
    n_vars = len(next(iter(at.values())).present)
    return moments_of(run_sums(moment_sums(n_vars, textbook=textbook), chosen, key, about=purpose))


def known_means(at: Mapping[str, SiteMatrix], key: Keyring | None, *, about: str) -> tuple[np.ndarray, np.ndarray]:
    """Return how many values of each feature are known over all sites, and their mean, 0 without any; (n_vars,) each."""
    n_vars = len(next(iter(at.values())).present)
    found = run_sums(moment_sums(n_vars)[:1], known_rows(at), key, about=about)
    return found["n"], found["mean"]


def known_rows(at: Mapping[str, SiteMatrix]) -> Mapping[str, Rows]:
    """Return all observations of each site, in which NaN is a value that is missing."""
    return alongside(at, {site: Rows(matrix, masked=True) for site, matrix in at.items()})


@dataclass(frozen=True)
class Rows:
    """Chosen observations of a site's matrix (None: all), transformed; `masked`: NaN is a value that is missing."""

    matrix: SiteMatrix
    chosen: np.ndarray | None = None
    transform: Transform | None = None
    masked: bool = False

    @property
    def n(self) -> np.ndarray:
        """Number of observations of each feature, 0 where it was not measured. ``(n_vars,)``"""
        n: Any = self.matrix.n_obs if self.chosen is None else int(self.chosen.sum())
        if self.masked:
            n = n - sum(column_sums(is_missing(block)) for block in self.blocks())
        return np.where(self.matrix.present, n, 0).astype(float)

    def sets(self) -> np.ndarray:
        """Which observations are chosen, (1, n_obs)."""
        return np.ones((1, self.matrix.n_obs), dtype=bool) if self.chosen is None else self.chosen[None]

    def largest(self, rules: DisclosureRules) -> tuple[np.ndarray, np.ndarray]:
        """Largest contribution of one record to each sum, and all of them, (n_vars,) each."""
        persons = persons_of(self.matrix.site, rules)
        persons = persons if persons is None or self.chosen is None else persons[self.chosen]
        starts, blocks = 0, []
        for block in self.blocks():
            blocks.append((np.arange(starts, starts + block.shape[0]), np.zeros(block.shape[0], dtype=int), block))
            starts += block.shape[0]
        largest, whole = contributions(blocks, 1, len(self.matrix.present), persons)
        return largest[0], whole[0]

    def blocks(self) -> Iterator[Any]:
        """Their values, block by block."""
        for rows, whole in self.matrix.blocks():
            yield taken(whole, rows, self.chosen, self.transform)


def moment_sums(n_vars: int, *, textbook: bool = False) -> list[FederatedSum]:
    """Return the sums that moments follow from; sites are :class:`Rows`, state: ``n``, ``mean``, ``scale``, ``squares``."""

    def centre(total: Arrays, state: State) -> State:
        n = np.maximum(total["n"], 1)
        scale = power_of_two(total["size"] / n)
        return {**state, "n": total["n"], "mean": total["sum"] / n, "scale": scale, "textbook": textbook}

    def squared(site: Rows, state: State) -> Arrays:
        return {"square": _squares(site, None if textbook else state["mean"]) / state["scale"] ** 2}

    def cells(*names: str, **more: Any) -> Cells:
        return Cells(
            sets=lambda site, state: site.sets(),
            measured=lambda site: site.matrix.present,
            on_features=names,
            features=n_vars,
            partly=True,
            **more,
        )

    def sizes(site: Rows, state: State, rules: DisclosureRules) -> Sizes:
        return dict.fromkeys(("sum", "size"), site.largest(rules))

    about = "zero" if textbook else "the mean"
    return [
        FederatedSum(
            name="sums",
            shapes=dict.fromkeys(("n", "sum", "size"), (n_vars,)),
            local=lambda site, state: _first_sums(site),
            combine=centre,
            says="for each feature: number of observations, sum of its values, and of their sizes",
            scale={"n": COUNT_SCALE, "sum": FINE_SCALE, "size": FINE_SCALE},
            records=lambda site, state: dict.fromkeys(("n", "sum", "size"), site.n),
            sensitivity={"n": 1},
            cells=cells("n", "sum", "size", sizes=sizes, dominated=("sum", "size")),
        ),
        FederatedSum(
            name="squares",
            shapes={"square": (n_vars,)},
            local=squared,
            combine=lambda total, state: {**state, "squares": total["square"] * state["scale"] ** 2},
            says=f"for each feature: sum of squared distances from {about}",
            scale=FINE_SCALE,
            records=lambda site, state: {"square": site.n},
            cells=cells("square", closed=lambda state: {"square": np.isnan(state["mean"])}),
        ),
    ]


def moments_of(state: State) -> Moments:
    """Return the moments after the sums for them."""
    n, mean, squares = np.maximum(state["n"], 1), state["mean"], state["squares"]
    if state["textbook"]:
        var = (squares / n - mean**2) * (n / np.maximum(n - 1, 1))
    else:
        var = np.maximum(squares, 0) / np.maximum(n - 1, 1)
    return Moments(state["n"], mean, var)


def whole_numbers(n: np.ndarray) -> np.ndarray:
    """Return numbers as int64; as they are where rules of disclosure have closed some, which are NaN."""
    return n if np.isnan(n).any() else np.rint(n).astype(np.int64)


def power_of_two(size: np.ndarray) -> np.ndarray:
    """Return the power of two next above each value (1 for 0)."""
    with np.errstate(divide="ignore"):
        return np.where(size > 0, np.exp2(np.ceil(np.log2(size))), 1.0)


def taken(block: Any, rows: slice, chosen: np.ndarray | None, transform: Transform | None) -> Any:
    """The chosen observations of a block, transformed."""
    if chosen is not None:
        block = block[np.flatnonzero(chosen[rows])]
    return block if transform is None else transform(block)


def column_sums(block: Any) -> np.ndarray:
    """Sums of columns in float64, whatever the block's type."""
    if sparse.issparse(block):
        return np.bincount(block.indices, weights=block.data, minlength=block.shape[1])
    return block.sum(axis=0, dtype=np.float64)


def is_missing(block: Any) -> Any:
    """1 where a value is NaN, stored as the block is."""
    if not sparse.issparse(block):
        return np.isnan(block).astype(np.float64)
    return sparse.csr_matrix((np.isnan(block.data).astype(np.float64), block.indices, block.indptr), shape=block.shape)


def without_missing(block: Any, value: np.ndarray | float = 0.0) -> Any:
    """Return a block with a value of each feature, (n_vars,), in place of NaN; itself, if it has none.

    Examples
    --------
    >>> without_missing(np.array([[1.0, np.nan], [np.nan, 2.0]]), np.array([7.0, 8.0])).tolist()
    [[1.0, 8.0], [7.0, 2.0]]
    """
    stored = block.data if sparse.issparse(block) else block
    gaps = np.isnan(stored)
    if not gaps.any():
        return block
    if not sparse.issparse(block):
        return np.where(gaps, value, block)
    filled = np.where(gaps, value if np.isscalar(value) else np.asarray(value)[block.indices], stored)
    return sparse.csr_matrix((filled, block.indices, block.indptr), shape=block.shape)


def _first_sums(site: Rows) -> Arrays:
    """Number of observations, Σx and Σ|x|, (n_vars,) each."""
    present = site.matrix.present
    sums, sizes = np.zeros(len(present)), np.zeros(len(present))
    for block in site.blocks():
        block = without_missing(block) if site.masked else block
        sums += column_sums(block)
        sizes += column_sums(abs(block))
    return {"n": site.n, "sum": sums * present, "size": sizes}


def _squares(site: Rows, center: np.ndarray | None) -> np.ndarray:
    """Σ(x − center)², (n_vars,); without a center Σx², of squares in the type of real values."""
    n_vars = len(site.matrix.present)
    squares = np.zeros(n_vars)
    for block in site.blocks():
        block = without_missing(block, 0.0 if center is None else center) if site.masked else block
        if center is None:
            block = block if block.dtype.kind == "f" else block.astype(np.float64)
            squares += column_sums(block.multiply(block).tocsr() if sparse.issparse(block) else block * block)
        elif sparse.issparse(block):
            stored = (block.data - center[block.indices]) ** 2
            squares += np.bincount(block.indices, weights=stored, minlength=n_vars)
            squares += (block.shape[0] - np.bincount(block.indices, minlength=n_vars)) * center**2
        else:
            squares += ((block - center) ** 2).sum(axis=0)
    return np.where(site.matrix.present, squares, 0)
