"""Which counts differ, over all sites: negative binomial models with shrunken dispersions, as DESeq2 has them.

References are in :mod:`infl.tl._deseq2_sums`. Everything here is computed from what all sites know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from infl._warn import warn
from infl.data.consortium import alongside
from infl.data.design import Design
from infl.errors import DataError
from infl.keys import Keyring
from infl.sums import FederatedSum, State, run_sums
from infl.tl._deseq2_sums import (
    LEAST_DISPERSION,
    coefficients_sum,
    dispersion_sum,
    dispersions_of,
    last_sum,
    log_sum,
    moments_sum,
    samples,
    search_of,
)
from infl.tl._linear_sums import Designed, linear_fit, linear_sums
from infl.tl._markers import adjusted

_FAR = (1e-4, 15.0)  # of a dispersion to the trend, beyond which the trend is fitted without it
_LEAST_PRIOR_VAR = 0.25
_NORMAL_MAD = stats.norm.ppf(0.75)


def deseq2(
    designed: Mapping[str, Designed], model: Design, fitted: np.ndarray, key: Keyring | None, state: State
) -> State:
    """Return the state after all sums of DESeq2, which :func:`deseq2_table` reads; `fitted` are the coefficients of the sums."""
    n_vars = len(next(iter(designed.values())).matrix.present)
    state = run_sums([log_sum(n_vars)], designed, key, state=state, about="deseq2")
    if not np.isfinite(state["log_mean"]).any():
        raise DataError(
            "every feature has a count of 0 in some sample, so 'deseq2' has no size factors: leave out samples with few counts, or "
            "take method='voom'"
        )
    counts = alongside(designed, {site: samples(of_site, state["log_mean"]) for site, of_site in designed.items()})
    normed = alongside(designed, {site: _as_normed(designed[site], of_site.size) for site, of_site in counts.items()})
    logs = alongside(designed, {site: _as_logs(designed[site], of_site.size) for site, of_site in counts.items()})
    p = len(fitted)
    model_of_logs, model_of_counts = linear_models(p, n_vars)
    state = run_sums([model_of_logs], logs, key, state=state, about="deseq2")
    state = {**state, "start": state["beta"]}
    state = run_sums(model_of_counts, normed, key, state=state, about="deseq2")
    fit = linear_fit(state)
    state = {**state, "normed": fit.beta, "mean": fit.mean, "n_terms": len(model.names)}
    first, means, genewise, last = deseq2_sums(p, n_vars, linear=saturated(model))
    state = run_sums([first, *means], counts, key, state=state, about="deseq2")
    state = {**state, "mean_beta": state["beta"], "mean_dispersion": state["dispersion"]}
    state = run_sums([genewise], counts, key, state={**state, "search": search_of(n_vars, state)}, about="deseq2")
    state = with_prior(state)
    state = run_sums([replace(genewise, name="dispersions")], counts, key, state=state, about="deseq2")
    state = with_dispersions(state)
    return run_sums(last, counts, key, state={**state, "beta": state["start"]}, about="deseq2")


def linear_models(p: int, n_vars: int) -> tuple[FederatedSum, list[FederatedSum]]:
    """Return the sums of what the fits begin with: a model of logarithms, and one of normalised counts."""
    logs = linear_sums(p, n_vars, name="models of logarithms of counts")[0]
    return logs, linear_sums(p, n_vars, name="models of normalised counts")


def deseq2_sums(
    p: int, n_vars: int, *, linear: bool
) -> tuple[FederatedSum, list[FederatedSum], FederatedSum, list[FederatedSum]]:
    """Return the sums of first dispersions, of means (unless a linear model gives them), of dispersions, and of coefficients."""
    means = [] if linear else [coefficients_sum(p, n_vars, name="means of counts")]
    genewise = dispersion_sum(p, n_vars, linear=linear, name="dispersions of features")
    return (
        moments_sum(p, n_vars),
        means,
        genewise,
        [coefficients_sum(p, n_vars, name="coefficients"), last_sum(p, n_vars)],
    )


def saturated(model: Design) -> bool:
    """Return whether there is a coefficient for each group of samples, so that means are those of the groups."""
    groups = [len(known) if known is not None else np.inf for known in model.levels.values()]
    return bool(np.prod(groups) == len(model.names))


def _as_normed(site: Designed, size: np.ndarray) -> Designed:
    return replace(site, values=lambda y, at: y / size[at, None])


def _as_logs(site: Designed, size: np.ndarray) -> Designed:
    return replace(site, values=lambda y, at: np.log(y / size[at, None] + 0.1))


def with_prior(state: State) -> State:
    """Return the state with dispersions of features, their trend by mean, and the variance about it."""
    found, first, mean = dispersions_of(state["search"], state), state["mean_dispersion"], state["mean"]
    # less varied than chance: stays there, as in DESeq2
    genewise = np.where(first > LEAST_DISPERSION, found, LEAST_DISPERSION)
    seen = mean > 0
    trend = np.ones(len(mean))
    trend[seen] = dispersion_trend(mean[seen], genewise[seen])
    left = (np.log(genewise) - np.log(trend))[seen & (genewise >= 100 * LEAST_DISPERSION)]
    df = state["n_obs"] - state["n_terms"]
    square = float((np.median(np.abs(left - np.median(left))) / _NORMAL_MAD) ** 2) if len(left) else 0.0
    var = max(square - float(special.polygamma(1, df / 2)), _LEAST_PRIOR_VAR)
    prior = {"genewise": genewise, "trend": trend, "spread": square, "prior": np.log(trend), "prior_var": var}
    return {**state, **prior, "search": search_of(len(mean), state)}


def dispersion_trend(mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Return a₀ + a₁ / mean, fitted by gamma likelihoods without dispersions far from it; their trimmed mean, where that fails.

    Examples
    --------
    >>> mean = np.geomspace(1, 1000, 50)
    >>> found = dispersion_trend(mean, 0.1 + 2 / mean)
    >>> bool(np.allclose(found, 0.1 + 2 / mean, rtol=1e-3))
    True
    """
    basis = np.column_stack([np.ones(len(mean)), 1 / mean])
    used, old, new = np.ones(len(mean), dtype=bool), np.full(2, 0.1), np.ones(2)
    while (np.log(new / old) ** 2).sum() >= 1e-6:
        old, x, y = new, basis[used], dispersion[used]
        result = optimize.minimize(
            _gamma_loss, np.ones(2), args=(x, y), jac=True, method="L-BFGS-B", bounds=[(1e-12, None)] * 2
        )
        new = result.x
        if not result.success or (new <= 1e-10).any():
            warn("deseq2: dispersions follow no curve of the mean, so all are drawn to their trimmed mean")
            return np.full(len(mean), stats.trim_mean(dispersion[dispersion > 10 * LEAST_DISPERSION], 0.001))
        ratio = dispersion / (basis @ new)
        used &= (ratio >= _FAR[0]) & (ratio < _FAR[1])
    return basis @ new


def _gamma_loss(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    mean = x @ weights
    return float((y / mean + np.log(mean)).mean()), -(((y / mean - 1) / mean)[:, None] * x).mean(axis=0)


def with_dispersions(state: State) -> State:
    """Return the state with the dispersions that are used: shrunken ones, but for features far above the trend."""
    shrunken, genewise = dispersions_of(state["search"], state), state["genewise"]
    far = np.log(genewise) > state["prior"] + 2 * np.sqrt(state["spread"])
    return {**state, "dispersion": np.where(far, genewise, shrunken)}


def deseq2_table(state: State, contrast: np.ndarray, names: pd.Index) -> pd.DataFrame:
    """Return the table of Wald tests."""
    information, p = state["information"], state["beta"].shape[1]
    inverse = np.linalg.inv(information + 1e-6 * np.eye(p))
    turned = inverse @ contrast
    se = np.sqrt(np.einsum("vi,vij,vj->v", turned, information, turned))
    seen = state["mean"] > 0
    effect = np.where(seen, state["beta"] @ contrast, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(seen, effect / se, np.nan)
    p_value = 2 * stats.norm.sf(np.abs(z))
    table = pd.DataFrame(
        {
            "variable": names.to_numpy(),
            "log_fc": effect / np.log(2),
            "se": np.where(seen, se, np.nan) / np.log(2),
            "t_value": z,
            "df": np.where(seen, np.inf, np.nan),
            "p_value": p_value,
            "adj_p_value": adjusted(p_value, "benjamini-hochberg"),
            "mean": state["mean"],
            "n_obs": state["n_obs"],
            "dispersion": np.where(seen, state["dispersion"], np.nan),
        }
    )
    return table.sort_values("p_value", kind="stable", ignore_index=True)
