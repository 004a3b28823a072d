"""Functions of sums under rules of disclosure: what is open has the bits that it has without them, what is closed is NaN."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from tests.threads import at_every_site

import infl
import infl.sums.over_sites as over_sites
from infl.errors import DataError, SettingsError
from infl.keys import Keyring
from infl.pp._median import federated_median
from infl.privacy import Disclosure, DisclosureRules

pytestmark = pytest.mark.filterwarnings("ignore:zero-centering a sparse matrix")
KEY = Keyring.create()
NOTHING = DisclosureRules(
    k=1, dominance=1, min_holders=1, colluders=0, features_per_record=np.inf, records_per_parameter=0
)
LOOSE = DisclosureRules(features_per_record=np.inf)


def counts(n_obs: int = 80, n_vars: int = 20) -> dict[str, AnnData]:
    """Counts at three sites, sparse at one; the last feature is rare."""
    rng = np.random.default_rng(0)
    depth = rng.gamma(4.0, 1.0, (3, n_obs, 1))
    kind = rng.integers(0, 2, (3, n_obs, 1))
    x = rng.poisson(depth * np.linspace(0.3, 3.0, n_vars) * np.where(np.arange(n_vars) < 5, 1 + 4 * kind, 1)).astype(
        "f4"
    )
    x[:, :, -1] = 0
    names = pd.DataFrame(index=[f"gene {i}" for i in range(n_vars)])
    return {
        f"site_{s}": AnnData(
            sparse.csr_matrix(x[s]) if s == 1 else x[s],
            obs=pd.DataFrame(index=[f"{s} {i}" for i in range(n_obs)]),
            var=names.copy(),
        )
        for s in range(3)
    }


def logarithms() -> dict[str, AnnData]:
    sites = counts()
    infl.pp.normalize_total(sites, target_sum=20)
    infl.pp.log1p(sites)
    return sites


def with_components() -> dict[str, AnnData]:
    sites = logarithms()
    infl.pp.pca(sites, n_comps=4)
    return sites


Step = Callable[[Any], Any]
STEPS: dict[str, tuple[Callable[[], dict[str, AnnData]], Step]] = {
    "qc_summary": (counts, lambda sites: infl.pp.qc_summary(sites, inplace=True, key=KEY)),
    "normalize_total": (
        counts,
        lambda sites: infl.pp.normalize_total(sites, exclude_highly_expressed=True, max_fraction=0.5, key=KEY),
    ),
    "log1p": (counts, lambda sites: infl.pp.log1p(sites, key=KEY)),
    "hvg seurat": (logarithms, lambda sites: infl.pp.highly_variable_genes(sites, n_top_genes=5, key=KEY)),
    "hvg cell_ranger": (
        logarithms,
        lambda sites: infl.pp.highly_variable_genes(sites, n_top_genes=5, flavor="cell_ranger", key=KEY),
    ),
    "hvg seurat_v3": (
        counts,
        lambda sites: infl.pp.highly_variable_genes(sites, n_top_genes=5, flavor="seurat_v3", span=1.0, key=KEY),
    ),
    "scale": (logarithms, lambda sites: infl.pp.scale(sites, key=KEY)),
    "pca": (logarithms, lambda sites: infl.pp.pca(sites, n_comps=4, key=KEY)),
    "pca of directions": (
        logarithms,
        lambda sites: infl.pp.pca(sites, n_comps=4, svd_solver="randomized", key=KEY),
    ),
    "pca uncentred": (logarithms, lambda sites: infl.pp.pca(sites, n_comps=4, zero_center=False, key=KEY)),
    "cluster": (with_components, lambda sites: infl.tl.cluster(sites, 3, use_rep="X_pca", n_init=2, key=KEY)),
}


def state(adata: AnnData) -> dict[str, Any]:
    """All that a function may have written."""
    x = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    tables = {f"obs {c}": adata.obs[c].to_numpy() for c in adata.obs} | {
        f"var {c}": adata.var[c].to_numpy() for c in adata.var
    }
    found = (
        {"X": x, **tables}
        | {f"obsm {k}": v for k, v in adata.obsm.items()}
        | {f"varm {k}": v for k, v in adata.varm.items()}
    )
    return found | {
        f"uns {k} {n}": v for k, of in adata.uns.items() for n, v in of.items() if isinstance(v, np.ndarray)
    }


def assert_same(found: AnnData, expected: AnnData) -> None:
    a, b = state(found), state(expected)
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("name", STEPS)
def test_rules_that_ask_for_nothing_change_no_bit(name: str) -> None:
    make, step = STEPS[name]
    plain, ruled = make(), make()
    step(plain)
    with Disclosure(NOTHING):
        step(ruled)
    for site in plain:
        assert_same(ruled[site], plain[site])


@pytest.mark.parametrize("name", ["normalize_total", "hvg seurat", "pca", "cluster"])
def test_each_process_computes_what_one_process_computes(name: str) -> None:
    make, step = STEPS[name]
    together, apart = make(), make()
    with Disclosure(LOOSE):
        step(together)
    with Disclosure(LOOSE):
        found, _ = at_every_site(step, apart, KEY)
    assert not any(isinstance(of_site, BaseException) for of_site in found.values()), found
    for site in together:
        assert_same(apart[site], together[site])


def test_the_median_stops_before_it_tells_of_fewer_than_k() -> None:
    rng = np.random.default_rng(0)
    values = {f"site_{s}": rng.gamma(4.0, 100.0, (500, 1)) for s in range(3)}
    objects = {
        site: AnnData(column, obs=pd.DataFrame(index=[f"{site} {i}" for i in range(500)]))
        for site, column in values.items()
    }
    from infl.data.asked import asking

    exact = float(np.median(np.concatenate(list(values.values()))))
    with Disclosure(LOOSE), asking("median", objects):
        found = float(federated_median(values, KEY)[0])
    assert found != exact and found == pytest.approx(exact, rel=0.05)
    values["site_0"][:3] = [[1e-9], [1e9], [-5.0]]  # a few that are far off do not move it
    with Disclosure(LOOSE), asking("median", objects):
        assert float(federated_median(values, KEY)[0]) == pytest.approx(exact, rel=0.05)
    rounded = {
        site: np.clip(np.round(column, -2), 200, 600) for site, column in values.items()
    }  # many have the same value
    with Disclosure(LOOSE), asking("median", objects):
        assert federated_median(rounded, KEY)[0] == np.median(np.concatenate(list(rounded.values())))


def test_empty_observations_are_too_few_to_be_told_of() -> None:
    sites = counts()
    sites["site_0"].X[:2] = 0
    with Disclosure(LOOSE), pytest.raises(DataError, match="nothing is opened"):
        infl.pp.normalize_total(sites, key=KEY)


def test_a_feature_that_one_record_has_is_closed_in_all_functions() -> None:
    sites = logarithms()
    sites["site_0"].X[3, -1] = 2.0
    with Disclosure(LOOSE):
        quality = infl.pp.qc_summary(sites, key=KEY).features.loc["gene 19"]
        infl.pp.highly_variable_genes(sites, n_top_genes=20, key=KEY)
        infl.pp.pca(sites, n_comps=4, key=KEY)
        infl.pp.scale(sites, key=KEY)
    assert quality[["n_cells_by_counts", "mean_counts", "total_counts"]].isna().all()
    for adata in sites.values():
        assert np.isnan(adata.var.loc["gene 19", ["means", "mean", "std"]].astype(float)).all()
        assert not adata.var.loc["gene 19", "highly_variable"]
        assert not adata.varm["PCs"][-1].any() and np.isfinite(adata.obsm["X_pca"]).all()
        x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
        assert not x[:, -1].any() and np.isfinite(x).all()
        assert adata.var["means"].isna().sum() == 1


def test_few_values_above_the_bound_of_the_regression_are_not_told_of() -> None:
    sites = counts()
    sites["site_0"].X[:2, 7] = 400.0
    open_, closed = sites, {site: adata.copy() for site, adata in sites.items()}
    STEPS["hvg seurat_v3"][1](open_)
    with Disclosure(LOOSE):
        STEPS["hvg seurat_v3"][1](closed)
    norm = closed["site_1"].var["variances_norm"]
    assert np.isnan(norm["gene 7"]) and not closed["site_1"].var["highly_variable"]["gene 7"]
    pd.testing.assert_series_equal(norm.drop("gene 7"), open_["site_1"].var["variances_norm"].drop("gene 7"))


def test_components_of_too_few_records_are_not_computed() -> None:
    sites = {site: adata[:50].copy() for site, adata in logarithms().items()}
    with (
        Disclosure(LOOSE),
        pytest.raises(DataError, match="pca: products: nothing is opened, since fewer than 3 sites"),
    ):
        infl.pp.pca(sites, n_comps=4, key=KEY)
    assert "X_pca" not in sites["site_0"].obsm


def test_clusters_move_by_k_and_can_be_asked_about_afterwards() -> None:
    plain, ruled = with_components(), with_components()
    STEPS["cluster"][1](plain)
    with Disclosure(LOOSE) as rules:
        STEPS["cluster"][1](ruled)
        infl.tl.rank_genes_groups(ruled, "infl_cluster", key=KEY)
    scores = pd.DataFrame(ruled["site_0"].uns["rank_genes_groups"]["scores"])
    assert scores.notna().any().all()
    same = [
        (plain[s].obs["infl_cluster"].astype(str) == ruled[s].obs["infl_cluster"].astype(str)).mean() for s in plain
    ]
    assert np.mean(same) > 0.8
    for site in ruled:
        atoms = np.unique(rules.register(site)._records.atom, return_counts=True)[1]
        assert atoms.min() >= 5


def test_numbers_and_coordinates_of_clusters_go_in_one_exchange_and_are_closed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A round of k-means between hospitals costs a question and an answer; what is closed was never sent."""
    asked, original = [], over_sites._added

    def watched(shares: Any, *rest: Any) -> Any:
        parts = dict(shares)
        asked.append((rest[2], parts))
        return original(parts.items(), *rest)

    monkeypatch.setattr(over_sites, "_added", watched)
    sites = with_components()
    with Disclosure(LOOSE):
        infl.tl.cluster(sites, 6, use_rep="X_pca", n_init=2, key=KEY)
    rounds, closed = [parts for purpose, parts in asked if purpose == "cluster: sums"], 0
    assert rounds and not any("numbers" in purpose or "changed" in purpose for purpose, _ in asked)
    for parts in rounds:
        n = np.array([of_site["n"][:, 0] for of_site in parts.values()])
        assert ((n == 0) | (n >= 5)).all()
        assert np.isin((n > 0).sum(axis=0), (0, len(sites))).all()
        closed += (n == 0).all(axis=0).sum()
        for of_site in parts.values():
            assert (of_site["sum"][of_site["n"][:, 0] == 0] == 0).all()
    assert closed


REFUSED = r"not yet under disclosure rules, since .*: (take .*|leave batch_key out|compare groups .*), or run it where infl.settings.disclosure is None"


@pytest.mark.parametrize(
    "ask",
    [
        lambda sites: infl.pp.highly_variable_genes(sites, batch_key="site"),
        lambda sites: infl.pp.harmony_integrate(sites, "site", basis="X_pca"),
        lambda sites: infl.tl.rank_genes_groups(sites, "group", method="logreg"),
        lambda sites: infl.tl.de(sites, "~ group", method="voom"),
        lambda sites: infl.tl.cox(sites, "months", "died", "~ age"),
        lambda sites: infl.tl.cluster(sites, 3, use_rep="X_pca", method="gmm"),
        lambda sites: infl.tl.cluster(sites, use_rep="X_pca", method="leiden"),
    ],
    ids=["batches", "harmony", "logreg", "voom", "cox", "mixture", "leiden"],
)
def test_options_without_rules_are_refused_before_any_work(ask: Step) -> None:
    sites = with_components()
    with Disclosure(LOOSE) as rules, pytest.raises(SettingsError, match=REFUSED):
        ask(sites)
    assert not rules._registers


def cases() -> dict[str, AnnData]:
    """Logarithms of 60 people at each of three sites, with a condition, an age and an outcome."""
    rng = np.random.default_rng(3)
    sites = {}
    for s in range(3):
        obs = pd.DataFrame(index=[f"{s} {i}" for i in range(60)])
        obs["condition"] = np.where(np.arange(60) % 3 == 0, "case", "control")
        obs["age"] = rng.normal(50, 10, 60).round(1)
        obs["rare"] = np.where(np.arange(60) < 3, "yes", "no")
        obs["few_at_one"] = np.where(np.arange(60) < (3 if s == 1 else 20), "yes", "no")
        obs["died"] = rng.integers(0, 2, 60)
        x = rng.gamma(4.0, 1.0, (60, 6)) + (obs["condition"] == "case").to_numpy()[:, None] * np.arange(6)
        sites[f"site_{s}"] = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene {j}" for j in range(6)]))
    return sites


MODELS: dict[str, Step] = {
    "glm": lambda sites: infl.tl.glm(sites, "died ~ condition + age", family="binomial", key=KEY).table,
    "linear glm": lambda sites: infl.tl.glm(sites, "age ~ condition", key=KEY).table,
    "de": lambda sites: infl.tl.de(sites, "~ condition + age", contrast=("condition", "case", "control"), key=KEY),
    "de without site effects": lambda sites: infl.tl.de(sites, "~ condition", site_effects=False, key=KEY),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_have_the_same_bits_under_rules(name: str) -> None:
    plain = MODELS[name](cases())
    for rules in (NOTHING, LOOSE):
        with Disclosure(rules):
            pd.testing.assert_frame_equal(MODELS[name](cases()), plain, check_exact=True)


@pytest.mark.parametrize(
    "ask",
    [
        lambda sites: infl.tl.glm(sites, "died ~ rare", family="binomial", key=KEY),
        lambda sites: infl.tl.glm(sites, "age ~ few_at_one", key=KEY),
        lambda sites: infl.tl.de(sites, "~ rare", contrast=("rare", "yes", "no"), key=KEY),
        lambda sites: infl.tl.de({s: a[:10].copy() for s, a in sites.items()}, "~ condition + age", key=KEY),
    ],
    ids=["rare", "rare at one site", "de of rare", "three people a parameter"],
)
def test_a_model_that_tells_of_few_people_is_not_fitted(ask: Step) -> None:
    with Disclosure(LOOSE), pytest.raises(DataError, match="nothing is opened"):
        ask(cases())


def test_an_outcome_of_few_people_is_not_told_of() -> None:
    sites = cases()
    for adata in sites.values():
        adata.obs["died"] = (np.arange(60) % 20 == 0).astype(int)
    with Disclosure(LOOSE), pytest.raises(DataError, match="glm: normal equations 1: nothing is opened"):
        infl.tl.glm(sites, "died ~ age", family="binomial", key=KEY)


def test_a_feature_of_one_person_or_with_few_gaps_is_left_out_of_the_models() -> None:
    sites = cases()
    sites["site_0"].X[:, 2] = 0
    sites["site_0"].X[4, 2] = 3.0
    sites["site_1"].X[:2, 3] = np.nan
    sites["site_1"].X[:15, 4] = np.nan  # five cases, and ten controls
    with Disclosure(LOOSE):
        table = MODELS["de"](sites).set_index("variable")
    assert table.index[table["t_value"].isna()].tolist() == ["gene 2", "gene 3"]
    assert table.loc[["gene 2", "gene 3"], "n_obs"].tolist() == [0, 0]
    expected = MODELS["de"](sites).set_index("variable")
    pd.testing.assert_series_equal(
        table["log_fc"].drop(["gene 2", "gene 3"]), expected.loc[table.index, "log_fc"].drop(["gene 2", "gene 3"])
    )


@pytest.mark.parametrize("level", ["case", "control"], ids=["first level", "second level"])
def test_a_feature_is_left_out_for_one_person_of_a_group_whichever_level_it_is(level: str) -> None:
    sites = cases()
    of_level = np.flatnonzero(sites["site_0"].obs["condition"] == level)
    sites["site_0"].X[of_level, 2] = 0  # those of the other level have values, so that no one has most of all of it
    sites["site_0"].X[of_level[0], 2] = 3.0
    sites["site_1"].X[:12, 3] = np.nan  # four cases and eight controls
    with Disclosure(LOOSE):
        table = infl.tl.de(sites, "~ condition", site_effects=False, key=KEY).set_index("variable")["t_value"]
    assert table.index[table.isna()].tolist() == ["gene 2", "gene 3"]


def test_a_feature_is_left_out_where_too_few_sites_measured_it_in_the_first_level() -> None:
    sites = cases()
    for name in ("site_3", "site_4"):
        sites[name] = sites["site_0"][sites["site_0"].obs["condition"] == "control"].copy()
        sites[name].obs_names = [f"{name} {i}" for i in range(40)]
    for name in ("site_1", "site_2"):  # a case's values of gene 2 are those of site_0 alone
        sites[name].var["infl_present"] = np.arange(6) != 2
    plain, rules = (infl.tl.de(sites, "~ condition", site_effects=False, key=KEY), Disclosure(LOOSE))
    with rules:
        table = infl.tl.de(sites, "~ condition", site_effects=False, key=KEY).set_index("variable")["t_value"]
    assert plain["t_value"].notna().all() and table.index[table.isna()].tolist() == ["gene 2"]


def test_priors_by_peptides_are_those_without_rules_and_a_feature_of_two_sites_is_closed() -> None:
    def made() -> dict[str, AnnData]:
        rng, sites = np.random.default_rng(0), {}
        for s in range(3):
            obs = pd.DataFrame(
                {"arm": np.where(np.arange(40) % 2, "case", "control")}, index=[f"{s} {i}" for i in range(40)]
            )
            var = pd.DataFrame({"peptides": np.arange(80) % 20 + 1 + s}, index=[f"protein {j}" for j in range(80)])
            sites[f"site_{s}"] = AnnData(rng.normal(20, 1 + 1 / np.sqrt(var["peptides"]), (40, 80)), obs=obs, var=var)
        sites["site_2"] = sites["site_2"][:, 1:].copy()
        infl.pp.harmonise(sites, features="union")
        sites["site_2"].var["peptides"] = sites["site_2"].var["peptides"].fillna(1)
        return sites

    def asked(sites: dict[str, AnnData]) -> pd.DataFrame:
        return infl.tl.de(sites, "~ arm", method="deqms", counts_key="peptides", key=KEY).set_index("variable")

    free = {site: adata[:, 1:].copy() for site, adata in made().items()}
    with Disclosure(LOOSE):
        ruled = asked(made())
    assert np.isnan(ruled.loc["protein 0", "t_value"])
    pd.testing.assert_series_equal(
        ruled["t_value"].drop("protein 0"), asked(free)["t_value"].reindex(ruled.index.drop("protein 0"))
    )
