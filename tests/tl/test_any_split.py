"""However the pooled rows are dealt out, sites get the pooled answer: with sites of one row, of one group, and without a feature's values."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import infl

N = 36
DEALS = st.lists(st.integers(0, 4), min_size=N, max_size=N)
pytestmark = pytest.mark.filterwarnings("ignore")


def pooled() -> AnnData:
    """Return counts, their logarithms and columns of `obs`; the first feature is 0 in one group, the last in all but three rows."""
    rng = np.random.default_rng(3)
    group = np.array(["a", "b", "c"])[np.arange(N) % 3]
    counts = rng.poisson(rng.lognormal(2, 1, 20) * (1 + (group == "a"))[:, None]).astype(float)
    counts[group == "b", 0] = 0
    counts[3:, 19] = 0
    obs = pd.DataFrame({"group": group, "age": rng.normal(60, 9, N)}, index=[f"r{i}" for i in range(N)])
    obs["plate"] = np.array(["p", "q"])[np.arange(N) // 3 % 2]
    adata = AnnData(np.log1p(counts), obs=obs, layers={"counts": counts})
    adata.var["peptides"] = 1 + np.arange(20) % 6
    return adata


def dealt(adata: AnnData, deal: list[int]) -> dict[str, AnnData]:
    """Return sites with these rows each; the first row is a site of its own."""
    where = np.array([9, *deal[1:]])
    return {f"s{i}": adata[where == i].copy() for i in np.unique(where)}


def of_rows(sites: dict[str, AnnData], value: Callable[[AnnData], pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([value(adata) for adata in sites.values()]).loc[[f"r{i}" for i in range(N)]]


def compare(deal: list[int], step: Callable, value: Callable[[AnnData], pd.DataFrame], rtol: float = 1e-8) -> None:
    """Run a step on the sites and on all rows in one place, and compare what it wrote of each row."""
    sites, whole = dealt(pooled(), deal), {"all": pooled()}
    step(sites)
    step(whole)
    pd.testing.assert_frame_equal(of_rows(sites, value), of_rows(whole, value), rtol=rtol, atol=1e-8)


BATCHES = {
    "combat": lambda s: infl.pp.combat(s, "plate", covariates=["age"]),
    "remove_batch_effect": lambda s: infl.pp.remove_batch_effect(s, "plate", covariates="group"),
    "regress_out": lambda s: infl.pp.regress_out(s, ["age"]),
    "regress_out, groups": lambda s: infl.pp.regress_out(s, "group"),
    "filter_genes": lambda s: infl.pp.filter_genes(s, min_cells=4),
}


@pytest.mark.parametrize("name", BATCHES)
@given(DEALS)
@settings(max_examples=4)
def test_matrices_are_the_pooled_ones(name: str, deal: list[int]) -> None:
    compare(deal, BATCHES[name], AnnData.to_df)


@given(DEALS, st.sampled_from(["mean", "low"]))
@settings(max_examples=4)
def test_imputed_values_are_the_pooled_ones(deal: list[int], method: str) -> None:
    def step(sites: dict[str, AnnData]) -> None:
        for adata in sites.values():  # the second feature has no value in a group, so that sites may have none of it
            adata.X[adata.obs["group"] == "a", 1] = np.nan
        infl.pp.impute(sites, method=method)

    compare(deal, step, AnnData.to_df)


@given(DEALS)
@settings(max_examples=4)
def test_scores_are_the_pooled_ones(deal: list[int]) -> None:
    compare(
        deal,
        lambda s: infl.tl.score_genes(s, ["1", "2"], ctrl_size=3, n_bins=3, score_name="score"),
        lambda adata: adata.obs[["score"]],
    )


@pytest.mark.parametrize("method", ["voom", "deqms"])
@given(DEALS)
@settings(max_examples=4)
def test_differential_expression_is_the_pooled_one(method: str, deal: list[int]) -> None:
    options = {"layer": "counts"} if method == "voom" else {"counts_key": "peptides"}
    want, found = (
        infl.tl.de(sites, "~ group + age", contrast="age", method=method, site_effects=False, **options).set_index(
            "variable"
        )
        for sites in ({"all": pooled()}, dealt(pooled(), deal))
    )
    columns = ["log_fc", "se", "t_value", "df", "mean"]
    pd.testing.assert_frame_equal(found.loc[want.index, columns], want[columns], rtol=1e-7, atol=1e-9)


@given(DEALS)
@settings(max_examples=4)
def test_quantiles_are_the_pooled_ones(deal: list[int]) -> None:
    found, want = (infl.pp.quantiles(sites, [0.25, 0.9]) for sites in (dealt(pooled(), deal), {"all": pooled()}))
    pd.testing.assert_frame_equal(pd.DataFrame(found), pd.DataFrame(want), rtol=1e-12)
