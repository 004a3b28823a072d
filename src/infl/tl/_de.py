"""Differential expression over all sites: linear models of each feature with moderated variances, as limma has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from infl._parameters import LAYER, Choice, Flag, Text
from infl.data.columns import shortlist
from infl.data.consortium import alongside, members
from infl.data.copy import own
from infl.data.design import SITE, Contrast, Design, agree_on_design, aliased, own_levels, read_formula, with_site
from infl.data.sites import over_sites
from infl.data.units import check_units
from infl.errors import DataError, SettingsError
from infl.pp._matrix import SiteMatrix, kinds, matrices, refuse_negative
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State, run_sums
from infl.sums.cells import everyone
from infl.sums.disclosure import refuse_groups_of
from infl.tl._deseq2 import deseq2, deseq2_table
from infl.tl._linear_sums import Designed, LinearFit, design_sum, linear_fit, linear_sums
from infl.tl._markers import adjusted
from infl.tl._moderation import moderate, moderate_by_counts
from infl.tl._voom import counted, voom_sums

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring

COUNTS = ("raw counts", "normalised counts")
FOR_COUNTS = ("voom", "deseq2")


@over_sites(
    between=True,
    ruled=True,
    design=Text(says="a formula, e.g. '~ condition + age'"),
    method=Choice(("limma", "voom", "deqms", "deseq2")),
    counts_key=Text(none=True, says="the name of a var column with numbers of peptides"),
    trend=Flag(),
    site_effects=Flag(),
    layer=LAYER,
)
def de(
    sites: Mapping[str, AnnData] | AnnData,
    design: str,
    *,
    contrast: Contrast | None = None,
    method: Literal["limma", "voom", "deqms", "deseq2"] = "limma",
    trend: bool = False,
    counts_key: str | None = None,
    site_effects: bool = True,
    layer: str | None = None,
    key_added: str = "infl_de",
    inplace: bool = True,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> pd.DataFrame:
    """Which features differ, over all sites: a linear model of each feature, with variances moderated as in R's limma.

    Rows are samples: patients, or their pseudobulk (:func:`infl.pp.pseudobulk`). Sites send products of the columns of the
    design with each other and with the values of each feature, and once more with what the model leaves of them; all sites compute
    the same table from the totals, the one that the pooled samples give. With a level for each site, every site takes its own means
    off first, so the sums do not tell them.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised, with logarithms, or with counts for ``"voom"`` and ``"deseq2"``. NaN is a missing value; a
        feature that a site did not measure (``var["infl_present"]``) is missing there.
    design
        Formula of columns of ``obs``: ``"~ condition + age"``. ``site`` is each sample's site, where ``obs`` has no such column.
        Words are groups, with the first level for baseline; ``C(batch)`` makes groups of numbers.
    contrast
        What is tested: ``("condition", "case", "control")``, the name of a coefficient, or weights by coefficient. None: the first
        term of the formula, if that has one coefficient.
    method
        ``"limma"`` for logarithms; ``"voom"`` for raw counts, with weights from how their variance follows their mean (no
        normalisation beside the totals); ``"deseq2"`` for raw counts, negative binomial models with shrunken dispersions, as PyDESeq2
        has them without Cook's distances and without filtering. For counts, all sites have to have measured all features.
        ``"deqms"`` is limma with a prior variance that follows the number of peptides, for proteomics.
    trend
        The prior variance follows the mean of a feature (limma-trend).
    counts_key
        Column of ``var`` with numbers of peptides or spectra, for ``"deqms"``; their mean over the sites that measured a feature counts.
    site_effects
        Add ``+ site`` to a formula that has no such term. Sites differ in machines and patients; without it, these
        differences count as those of the condition.
    key_added
        Name of the field in ``uns``.
    inplace
        Write ``uns["infl_de"]`` at every site: ``table``, and ``params`` with the formula and the coefficients.

    Returns
    -------
    One row per feature, smallest p-value first: ``variable``, ``log_fc``, ``se``, ``t_value``, ``df``, ``p_value``, ``adj_p_value``
    (Benjamini-Hochberg), ``mean``, ``n_obs`` and ``sigma``, the residual standard deviation before it is moderated. NaN where a
    feature's values do not determine the contrast. With ``"deseq2"`` there is ``dispersion`` instead of ``sigma``; ``t_value`` is
    Wald's z, and ``mean`` that of normalised counts.

    Raises
    ------
    infl.errors.DataError
        The design is not of full rank over all sites, or has more terms than there are samples; a column is missing; values are
        counts.
    infl.errors.SettingsError
        The formula or the contrast names what is not there.

    References
    ----------
    Smyth (2004), Statistical Applications in Genetics and Molecular Biology 3:3. Ritchie et al. (2015), limma powers
    differential expression analyses. Nucleic Acids Research 43:e47. Law et al. (2014), voom. Genome Biology 15:R29. Love et al. (2014),
    DESeq2. Genome Biology 15:550. Zhu et al. (2020), DEqMS. Molecular & Cellular Proteomics 19:1047.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> table = infl.tl.de(sites, "~ tumour_class", contrast=("tumour_class", "class_2", "class_1"))
    >>> table["variable"][:2].tolist()
    ['clone_1388', 'clone_0']
    """
    _check_options(method, trend, counts_key)
    of_counts = method in FOR_COUNTS
    at = matrices(sites, layer, key, masked=not of_counts)
    units = kinds(at)
    check_units(units)
    _check_kind(units, layer, method)
    if of_counts:
        _check_measured(at, method)
        for matrix in at.values():
            refuse_negative(matrix, repr(method))
    formula = with_site(design) if site_effects and len(members(sites)) > 1 else read_formula(design)[0]
    model, rows = agree_on_design(sites, formula)
    refuse_groups_of(*(name for name, levels in model.levels.items() if levels is not None and name != SITE))
    weights = model.contrast(contrast)
    names = next(iter(at.values())).adata.var_names
    fitted = np.array(model.within)
    within = own_levels(model, rows) and not np.delete(weights, fitted).any()
    fitted = fitted if within else np.arange(len(model.names))
    designed = alongside(at, {site: Designed(matrix, rows[site][:, fitted], within) for site, matrix in at.items()})
    state = run_sums([design_sum(len(fitted))], designed, key, about="de")
    check_design(model, fitted, state)
    shape = len(fitted), len(names)
    if method == "deseq2":
        state = deseq2(designed, model, fitted, key, state)
        table, df_prior = deseq2_table(state, weights[fitted], names), np.nan
    else:
        if method == "voom":
            counts = alongside(at, {site: counted(of_site) for site, of_site in designed.items()})
            state = run_sums(voom_sums(*shape), counts, key, state=state, about="de")
        else:
            state = run_sums(linear_sums(*shape), designed, key, state=state, about="de")
        fit = linear_fit(state)
        peptides = None
        if counts_key is not None:
            peptides = run_sums([peptide_sum(len(names))], _peptides(at, counts_key), key, about="de")["peptides"]
        table, df_prior = limma_table(fit, weights[fitted], names, state["n"], trend=trend, peptides=peptides)
    used = {name: float(w) for name, w in zip(model.names, weights, strict=True) if w}
    params: dict[str, Any] = {
        "design": formula,
        "contrast": used,
        "method": method,
        "trend": trend,
        "layer": layer or "",
    }
    params |= {"coefficients": list(model.names), "n_obs": state["n_obs"], "df_prior": df_prior}
    if inplace:
        for adata in sites.values():
            own(adata).uns[key_added] = {"params": dict(params), "table": table.copy()}
    return table


def _check_options(method: str, trend: bool, counts_key: str | None) -> None:
    if trend and method in ("deseq2", "deqms"):
        raise SettingsError(
            f"trend=True is for limma and voom, and {method!r} has a trend of its own: leave trend= out"
        )
    if (counts_key is not None) != (method == "deqms"):
        raise SettingsError(
            f"counts_key={counts_key!r} and method={method!r}: 'deqms', and it alone, needs the column of var with numbers of peptides"
        )


def _check_kind(units: Mapping[str, str | None], layer: str | None, method: str) -> None:
    """Refuse counts, whose variance is no constant, where logarithms are due, and the reverse."""
    of_counts = method in FOR_COUNTS
    wrong = [site for site, kind in units.items() if kind and (kind != "raw counts" if of_counts else kind in COUNTS)]
    if wrong and of_counts:
        raise DataError(
            f"{layer or 'X'} of {wrong[0]} has {units[wrong[0]]}, and {method!r} is for raw counts: give the layer with them"
        )
    if wrong:
        raise DataError(
            f"{layer or 'X'} of {wrong[0]} has {units[wrong[0]]}, and the model is for logarithms: call infl.pp.normalize_total and "
            "infl.pp.log1p first, give the layer with logarithms, or take method='voom' for raw counts"
        )


def _check_measured(at: Mapping[str, SiteMatrix], method: str) -> None:
    """Refuse sites whose totals are not of all features."""
    for site, matrix in at.items():
        if not matrix.present.all():
            name = matrix.adata.var_names[~matrix.present][0]
            raise DataError(
                f"{site} did not measure {name!r}, so its totals are no sums of the same features: harmonise with "
                f"features='intersection' for {method!r}"
            )


def _peptides(at: Mapping[str, SiteMatrix], column: str) -> Mapping[str, tuple[np.ndarray, np.ndarray, int]]:
    """Return numbers of peptides at each site, which features it measured, and its number of observations."""
    found = {}
    for site, matrix in at.items():
        if column not in matrix.adata.var:
            raise DataError(
                f"counts_key {column!r} is missing in var of {site}; it has {shortlist(list(matrix.adata.var))}"
            )
        values = pd.to_numeric(matrix.adata.var[column], errors="coerce").to_numpy(dtype=float)
        wrong = ~(values >= 1) & matrix.present
        if wrong.any():
            raise DataError(
                f"counts_key {column!r} of {site} is no number of at least 1 for {int(wrong.sum())} features (first: "
                f"{matrix.adata.var_names[wrong][0]!r}): correct them, or leave those features out"
            )
        found[site] = np.where(matrix.present, values, 0), matrix.present, matrix.n_obs
    return alongside(at, found)


def peptide_sum(n_vars: int) -> FederatedSum:
    """Return the sum of numbers of peptides, and of sites that have a feature; state: ``peptides``, means over sites."""
    return FederatedSum(
        name="peptides",
        shapes={"peptides": (n_vars,), "sites": (n_vars,)},
        local=lambda site, state: {"peptides": site[0], "sites": site[1].astype(float)},
        combine=lambda total, state: {**state, "peptides": total["peptides"] / np.maximum(total["sites"], 1)},
        says="for each feature: its column of numbers of peptides, and at how many sites it was measured",
        sensitivity={"peptides": 0, "sites": 0},
        scale={"peptides": FINE_SCALE, "sites": COUNT_SCALE},
        cells=everyone(
            lambda site: site[2], measured=lambda site: site[1], on_features=("peptides", "sites"), partly=True
        ),
    )


def check_design(model: Design, fitted: np.ndarray, state: State) -> None:
    """Refuse designs that do not determine their coefficients over all sites; `fitted` are those that sums are about."""
    names, terms = [model.names[j] for j in fitted], [model.terms[j] for j in fitted]
    if state["n_obs"] <= len(model.names):
        raise DataError(
            f"design {model.formula!r} has {len(model.names)} coefficients and all sites together have {state['n_obs']} samples: "
            "leave terms out, or add samples"
        )
    extra = aliased(state["products"])
    if not extra:
        return
    same = [
        term for term, n_sites in zip(terms, state["varies"], strict=True) if n_sites < 0.5 and term not in ("1", SITE)
    ]
    if SITE in model.terms and same:
        raise DataError(
            f"{same[0]!r} is constant at every site, so it cannot be told from 'site'. design={without_site(model)!r} with "
            f"site_effects=False can be fitted, and differences between sites then count as those of {same[0]!r}"
        )
    j = extra[0]
    raise DataError(
        f"design {model.formula!r} is not of full rank over all sites: {names[j]!r} is made up of "
        f"{', '.join(repr(names[i]) for i in made_of(state['products'], j))}{' within sites' * (len(fitted) < len(model.names))}; "
        "leave one of these terms out"
    )


def without_site(model: Design) -> str:
    """Return a formula of the terms that have nothing to do with sites."""
    terms = dict.fromkeys(term for term in model.terms if term != "1" and SITE not in term.split(":"))
    return f"~ {' + '.join(terms)}" + ("" if "1" in model.terms else " - 1")


def made_of(products: np.ndarray, j: int) -> list[int]:
    """Return the columns before column j that make it up, from the products of all pairs."""
    weights = np.linalg.lstsq(products[:j, :j], products[:j, j], rcond=1e-10)[0]
    size = np.sqrt(np.diag(products)[:j] / products[j, j])
    return [int(i) for i in np.flatnonzero(np.abs(weights) * size > 1e-6)]


def limma_table(
    fit: LinearFit,
    contrast: np.ndarray,
    names: pd.Index,
    n: np.ndarray,
    *,
    trend: bool,
    peptides: np.ndarray | None = None,
) -> tuple[pd.DataFrame, float]:
    """Return the table of moderated t-tests, and the prior's degrees of freedom."""
    with np.errstate(divide="ignore", invalid="ignore"):
        var = np.where(fit.df > 0, fit.squares / fit.df, np.nan)
    if peptides is None:
        found = moderate(var, fit.df, fit.mean if trend else None)
    else:
        found = moderate_by_counts(var, fit.df, peptides)
    effect, unscaled = fit.estimate(contrast)
    df = np.minimum(fit.df + found.df_prior, fit.df[fit.df > 0].sum())
    se = np.sqrt(unscaled * found.var)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = effect / se
    p_value = 2 * stats.t.sf(np.abs(t), df)
    table = pd.DataFrame(
        {"variable": names.to_numpy(), "log_fc": effect, "se": se, "t_value": t, "df": df, "p_value": p_value}
        | {"adj_p_value": adjusted(p_value, "benjamini-hochberg"), "mean": fit.mean, "n_obs": n.astype(int)}
        | {"sigma": np.sqrt(var)}
    )
    return table.sort_values("p_value", kind="stable", ignore_index=True), float(found.df_prior)
