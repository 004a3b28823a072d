"""Principal components over all sites."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from anndata import AnnData

from infl._parameters import LAYER, SEED, Choice, Flag, Key, Whole
from infl._renamed import spelled
from infl.data.columns import known_truths
from infl.data.consortium import agreed, alongside
from infl.data.copy import own
from infl.data.sites import over_sites
from infl.data.units import warn_of_units
from infl.errors import DataError, SettingsError
from infl.pp._components import exact_components
from infl.pp._matrix import SiteMatrix, copies, kinds, matrices, real_type
from infl.pp._moments import Rows, moment_sums, moments_of
from infl.pp._pca_sums import covariance_of, direction_sums, frame_from, product_sums, scores_of
from infl.pp._preset import scanpy_default
from infl.sums import n_observations, run_sums

if TYPE_CHECKING:
    from infl.keys import Keyring

Solver = Literal["auto", "arpack", "full", "covariance_eigh", "randomized"]
SOLVERS = ("auto", "arpack", "full", "covariance_eigh", "randomized")

LARGEST_EXACT = 5000
"""Most features for which all products of features are summed."""
_N_COMPS = 50


@spelled(random_state="seed")
@over_sites(
    between=True,
    ruled=True,
    n_comps=Whole(1, none=True),
    layer=LAYER,
    zero_center=Flag(),
    svd_solver=Choice(SOLVERS, none=True),
    seed=SEED,
    key_added=Key(none=True),
)
def pca(
    sites: Mapping[str, AnnData] | AnnData,
    n_comps: int | None = None,
    *,
    layer: str | None = None,
    zero_center: bool = True,
    svd_solver: Solver | None = None,
    seed: int = 0,
    mask_var: str | np.ndarray | EllipsisType | None = ...,
    dtype: str = "float32",
    key_added: str | None = None,
    copy: bool = False,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Principal components of the observations of all sites, as :func:`scanpy.pp.pca` finds them in the pooled data.

    Up to 5,000 features, the products of all pairs of features are summed over sites, once, and the components are exact.
    Beyond that, a block of random directions is multiplied by the covariance until the components converge
    (randomised subspace iteration), one sum per round. Either way each site computes its own scores.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised. A site may have fewer observations than there are components. A feature that a
        site did not measure is at its mean there.
    n_comps
        Number of components (None: 50, or one less than there are observations or features).
    layer
        Layer to use instead of ``X``; sparse is never made dense but for blocks of rows.
    zero_center
        Subtract means; if False, the singular vectors of the data as they are.
    svd_solver
        ``"covariance_eigh"``, ``"full"``: by all products. ``"randomized"``: by blocks. None, ``"auto"``, ``"arpack"``:
        whichever suits the number of features.
    seed
        Seed of the random directions, the same at all sites; ``random_state``, as scanpy calls it, is taken too.
    mask_var
        Features to use: a column of ``var`` with truth values (alike at all sites that have a value) or an array. Unless
        given, ``"highly_variable"`` where it exists.
    dtype
        Of the scores.
    key_added
        Name of the fields instead of scanpy's (``"pca"`` unless given, under its preset ``ScanpyV2Preview``).

    Returns
    -------
    None, or the copies by site name, or that of the one object. At every site are written ``obsm["X_pca"]`` (its own scores), ``varm["PCs"]``,
    ``uns["pca"]["variance"]``, ``["variance_ratio"]`` and ``["params"]``, which but for the scores are alike everywhere.

    Raises
    ------
    infl.errors.DataError
        The mask differs between sites, or nothing varies.
    infl.errors.SettingsError
        More components than observations or features.

    Warns
    -----
    infl.errors.InflWarning
        Sites have different kinds of values, such as counts and logarithms.

    References
    ----------
    Halko, Martinsson and Tropp (2011), Finding structure with randomness. SIAM Review 53:217.
    Musco and Musco (2015), Randomized block Krylov methods. NeurIPS 28.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.pca(sites, n_comps=20)
    >>> sites["site_2"].obsm["X_pca"].shape[1]
    20
    """
    real_type(dtype)
    sites = copies(sites, copy)
    at = matrices(sites, layer, key)
    names = next(iter(at.values())).adata.var_names
    mask_name, columns = _columns(at, mask_var)
    n_obs = n_observations(alongside(at, {site: matrix.n_obs for site, matrix in at.items()}), key, about="pca")
    n_comps = _n_comps(n_comps, len(columns), n_obs)
    warn_of_units(kinds(at))
    exact = len(columns) <= LARGEST_EXACT if svd_solver in (None, "auto", "arpack") else svd_solver != "randomized"
    frame_of = partial(frame_from, columns=columns, n_obs=n_obs, zero_center=zero_center)
    sums = product_sums(len(columns), frame_of) if exact else direction_sums(len(columns), n_comps, seed, frame_of)
    rows = alongside(at, {site: Rows(matrix) for site, matrix in at.items()})
    state = run_sums([*moment_sums(len(names)), *sums], rows, key, about="pca")
    found, frame = moments_of(state), frame_of(state)
    if exact:
        values, vectors = exact_components(covariance_of(state["products"], frame), n_comps, n_obs)
    else:
        values, vectors = state["found"]
    variance = values
    if not zero_center:  # as scikit-learn's TruncatedSVD: variance of the scores, whose mean is not 0
        variance = (values * (n_obs - 1) - n_obs * (np.nan_to_num(found.mean[columns]) @ vectors) ** 2) / n_obs
    total = np.nansum(found.var[columns]) * (1 if zero_center else (n_obs - 1) / n_obs)
    loadings = np.zeros((len(found.mean), n_comps))
    loadings[columns] = vectors
    scores = {site: scores_of(matrix, frame, vectors).astype(dtype) for site, matrix in at.items()}

    key_added = scanpy_default("pca", "key_added", None) if key_added is None else key_added
    params = {"zero_center": zero_center, "use_highly_variable": mask_name == "highly_variable", "mask_var": mask_name}
    params |= {} if layer is None else {"layer": layer}
    _write(sites, scores, loadings, {"variance": variance, "variance_ratio": variance / total}, params, key_added)
    return dict(sites) if copy else None


def _write(
    sites: Mapping[str, AnnData],
    scores: Mapping[str, np.ndarray],
    loadings: np.ndarray,
    variances: Mapping[str, np.ndarray],
    params: Mapping[str, Any],
    key_added: str | None,
) -> None:
    """Write scores, loadings and what is known of the components at every site, where scanpy has them."""
    obsm, varm, uns = ("X_pca", "PCs", "pca") if key_added is None else (key_added,) * 3
    for site, adata in sites.items():
        own(adata).obsm[obsm] = scores[site]
        adata.varm[varm] = loadings.copy()
        adata.uns[uns] = {"params": dict(params), **{name: values.copy() for name, values in variances.items()}}


def _columns(at: Mapping[str, SiteMatrix], mask_var: str | np.ndarray | EllipsisType | None) -> tuple[Any, np.ndarray]:
    """The mask as scanpy notes it, and positions of the features to use."""
    names = next(iter(at.values())).adata.var_names
    if mask_var is ...:
        is_there = {site: "highly_variable" in matrix.adata.var for site, matrix in at.items()}
        is_there = agreed(at, "var['highly_variable']", is_there)
        has = [site for site, there in is_there.items() if there]
        if has and len(has) < len(is_there):
            lacks = next(site for site in is_there if site not in has)
            raise DataError(
                f"var['highly_variable'] is at {has[0]} and not at {lacks}: call infl.pp.highly_variable_genes on all sites, "
                "or give mask_var=None"
            )
        mask_var = "highly_variable" if has else None
    if mask_var is None:
        return None, np.arange(len(names))
    if not isinstance(mask_var, str):
        found = known_truths(mask_var) if np.shape(mask_var) == (len(names),) else None
        if found is None:
            raise SettingsError(f"mask_var must be truth values, one for each of the {len(names)} features")
        mask = found[0]
    else:
        mask, known, chosen_at = np.zeros(len(names), dtype=bool), np.zeros(len(names), dtype=bool), {}
        for site, matrix in at.items():
            if mask_var not in matrix.adata.var:
                raise DataError(f"mask_var {mask_var!r} is missing in var of {matrix.site}")
            if (found := known_truths(matrix.adata.var[mask_var])) is None:
                raise DataError(f"mask_var {mask_var!r} must be truth values, at {matrix.site}")
            chosen_at[site] = [np.packbits(truths).tobytes().hex() for truths in found]
        masks = agreed(at, "chosen features", chosen_at)
        for site, told in masks.items():
            chosen, here = (_bits(text, len(names)) for text in told)
            both = known & here  # a site has no value for a feature that it did not measure
            if not np.array_equal(mask[both], chosen[both]):
                raise DataError(
                    f"var[{mask_var!r}] of {site} is not that of {next(iter(masks))}: compute it on all sites together"
                )
            mask, known = mask | chosen, known | here
    if not mask.any():
        raise DataError("mask_var leaves no feature: choose some, or give mask_var=None")
    return mask_var, np.flatnonzero(mask)


def _bits(text: str, n: int) -> np.ndarray:
    """Truth values from their packed bits in hexadecimal."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=n).astype(bool)


def _n_comps(n_comps: int | None, n_columns: int, n_obs: int) -> int:
    smallest = min(n_columns, n_obs)
    if n_comps is None:
        n_comps = _N_COMPS if smallest > _N_COMPS else smallest - 1
    if not 0 < n_comps <= smallest:
        raise SettingsError(
            f"n_comps must be from 1 to {smallest}, as there are {n_obs} observations and {n_columns} features, not {n_comps}"
        )
    return int(n_comps)
