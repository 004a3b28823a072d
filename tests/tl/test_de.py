"""Differential expression over sites is R's limma on the pooled samples; ``tests/vectors/limma.R`` wrote what limma says."""

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import infl
from infl.errors import DataError, InflError, SettingsError
from infl.keys import Keyring
from infl.tl._moderation import moderate

LIMMA = json.loads((Path(__file__).parents[1] / "vectors" / "limma.json").read_text())
DESIGN = "~ condition + age + site"


def cohort(values: str = "x") -> AnnData:
    x = np.array(LIMMA[values], dtype=float).T
    obs = pd.DataFrame(
        {"condition": pd.Categorical(LIMMA["condition"], categories=["control", "case"]), "age": LIMMA["age"], "site": LIMMA["site"]},
        index=[f"sample_{i}" for i in range(len(x))],
    )  # fmt: skip
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"p{i}" for i in range(x.shape[1])]))


def split(adata: AnnData, codes: Any) -> dict[str, AnnData]:
    return {str(code): adata[np.asarray(codes) == code].copy() for code in np.unique(codes)}


def by_feature(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("variable").loc[[f"p{i}" for i in range(len(table))]]


def assert_is_limma(table: pd.DataFrame, answer: dict[str, Any]) -> None:
    want = {name: np.array(answer[name], dtype=float) for name in ("log_fc", "t", "p")}
    found = by_feature(table)
    np.testing.assert_allclose(found["log_fc"], want["log_fc"], rtol=1e-8)
    np.testing.assert_allclose(found["t_value"], want["t"], rtol=1e-8)
    np.testing.assert_allclose(np.log10(found["p_value"]), np.log10(want["p"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize(
    ("values", "trend", "answer"),
    [("x", False, "plain"), ("x", True, "trend"), ("holes", False, "missing"), ("holes", True, "missing_trend")],
)
def test_as_limma_on_the_pooled_samples(values: str, trend: bool, answer: str, storage: Any) -> None:
    pooled = cohort(values)
    sites = split(pooled, pooled.obs["site"])
    for adata in sites.values():
        adata.X = storage(adata.X)
    table = infl.tl.de(sites, DESIGN, trend=trend, key=Keyring.create())
    assert_is_limma(table, LIMMA[answer])
    found = by_feature(table)
    np.testing.assert_allclose(found["adj_p_value"], np.array(LIMMA[answer]["adj_p"], float), rtol=1e-8)
    np.testing.assert_allclose(found["df"], np.array(LIMMA[answer]["df_total"], float), rtol=1e-10)
    pd.testing.assert_frame_equal(sites["b"].uns["infl_de"]["table"], table)
    assert sites["b"].uns["infl_de"]["params"]["contrast"] == {"condition[T.case]": 1.0}


@pytest.mark.parametrize("by", ["site", "row"])
def test_counts_are_weighted_as_limmas_voom_does(by: str) -> None:
    pooled = cohort("counts")
    sites = split(pooled, pooled.obs["site"] if by == "site" else np.arange(24) % 4)
    assert_is_limma(infl.tl.de(sites, DESIGN, method="voom", key=Keyring.create()), LIMMA["voom"])
    sites = {site: adata.copy() for site, adata in sites.items()}
    for adata in sites.values():
        del adata.uns["infl_de"]
    first = next(iter(sites))
    sites[first].var["infl_present"] = np.arange(40) > 0
    refused(DataError, f"{first} did not measure 'p0'", sites, method="voom")
    infl.pp.log1p(sites)
    refused(DataError, "and 'voom' is for raw counts", sites, method="voom")


def test_contrasts_between_groups_are_limmas() -> None:
    pooled = cohort()
    pooled.obs["arm"] = LIMMA["contrast"]["groups"]
    for design, contrast in (
        ("~ 0 + arm", {"arm[x]": 1, "arm[y]": -1}),
        ("~ arm", ("arm", "x", "y")),
        ("~ arm", {"arm[T.y]": -1.0}),
    ):
        table = infl.tl.de(split(pooled, LIMMA["site"]), design, contrast=contrast, site_effects=False)
        assert_is_limma(table, LIMMA["contrast"])


@given(st.lists(st.integers(0, 5), min_size=24, max_size=24), st.sampled_from(["x", "holes"]), st.booleans())
@settings(max_examples=25)
def test_any_split_gives_the_pooled_answer(codes: list[int], values: str, trend: bool) -> None:
    """Sites of one sample, sites without cases, and features that sites have no value of."""
    sites = split(cohort(values), codes)
    assert_is_limma(infl.tl.de(sites, DESIGN, trend=trend), LIMMA[{"x": "", "holes": "missing_"}[values] + "trend" if trend else {"x": "plain", "holes": "missing"}[values]])  # fmt: skip


def test_a_feature_that_a_site_did_not_measure_is_missing_there() -> None:
    pooled = cohort()
    gap = pooled.copy()
    x = gap.X.copy()
    x[np.asarray(gap.obs["site"] == "a"), 7] = np.nan
    gap.X = x
    want = by_feature(infl.tl.de(split(gap, gap.obs["site"]), DESIGN))
    sites = split(pooled, pooled.obs["site"])
    sites["a"] = sites["a"][:, sites["a"].var_names != "p7"].copy()
    infl.pp.harmonise(sites, features="union")
    found = by_feature(infl.tl.de(sites, DESIGN))
    np.testing.assert_allclose(found["t_value"], want["t_value"], rtol=1e-10)
    assert found.loc["p7", "n_obs"] == 13


def test_no_site_tells_its_own_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a level for each site, what a site adds to the equations stays the same when all its values shift."""
    shares: list[dict[str, np.ndarray]] = []
    added = infl.sums.over_sites._added

    def seen(parts: Any, *args: Any) -> Any:
        parts = list(parts)
        shares.append(dict(parts)["b"])
        return added(iter(parts), *args)

    monkeypatch.setattr("infl.sums.over_sites._added", seen)
    for step in (0, 10):
        sites = split(cohort("holes"), LIMMA["site"])
        sites["b"].X = sites["b"].X + step
        infl.tl.de(sites, "~ condition + age")
    before, after = shares[:3], shares[3:]
    for one, other in zip(before, after, strict=True):
        for name in set(one) - {"sum"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-7, atol=1e-8, err_msg=name)


def test_a_column_that_is_constant_where_a_feature_was_measured() -> None:
    pooled = cohort()
    x = pooled.X.copy()
    x[np.flatnonzero(LIMMA["site"] == np.array("a"))[3:], 2] = np.nan
    pooled.X = x
    pooled.obs["age"] = np.where(np.arange(24) < 3, 71.3, pooled.obs["age"])
    sites = split(pooled, pooled.obs["site"])
    within = by_feature(infl.tl.de(sites, "~ age + condition"))
    levels = by_feature(infl.tl.de(split(pooled, np.arange(24) % 2), "~ age + condition + site"))
    np.testing.assert_allclose(within["t_value"], levels["t_value"], rtol=1e-8)


def test_sites_are_in_the_model_unless_that_is_switched_off() -> None:
    pooled = cohort()
    sites = split(pooled, pooled.obs["site"])
    with_column = infl.tl.de(sites, "~ condition + age")
    for adata in sites.values():
        del adata.obs["site"]
    by_name = infl.tl.de(sites, "condition + age")
    np.testing.assert_allclose(by_name["t_value"], with_column["t_value"], rtol=1e-12)
    assert by_name["variable"].tolist() == with_column["variable"].tolist()
    without = infl.tl.de(sites, "~ condition + age", site_effects=False)
    assert by_feature(without).loc["p0", "t_value"] != pytest.approx(by_feature(by_name).loc["p0", "t_value"])
    assert sites["a"].uns["infl_de"]["params"]["design"] == "~ condition + age"


def test_numbers_that_are_groups_and_interactions() -> None:
    pooled = cohort()
    pooled.obs["batch"] = np.arange(24) // 2 % 3
    pooled.obs["named"] = "b" + pooled.obs["batch"].astype(str)
    sites = split(pooled, pooled.obs["site"])
    number = infl.tl.de(sites, "~ condition * C(batch)", contrast="condition[T.case]:C(batch)[T.2]")
    name = infl.tl.de(sites, "~ condition * named", contrast="condition[T.case]:named[T.b2]")
    np.testing.assert_allclose(number["t_value"], name["t_value"], rtol=1e-12)


def test_the_table_is_written_to_files_and_to_one_object(tmp_path: Path) -> None:
    pooled = cohort("holes")
    table = infl.tl.de(pooled, DESIGN, site_key="site")
    pd.testing.assert_frame_equal(pooled.uns["infl_de"]["table"], table)
    pooled.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").uns["infl_de"]["table"]
    np.testing.assert_array_equal(again["p_value"], table["p_value"])
    assert (
        infl.tl.de(pooled, DESIGN, site_key="site", inplace=False, key_added="b").equals(table)
        and "b" not in pooled.uns
    )


@pytest.mark.parametrize("answer", LIMMA["squeezed"])
def test_variances_are_moderated_as_limmas(answer: dict[str, Any]) -> None:
    found = moderate(np.array(answer["var"]), np.array(answer["df"]))
    assert found.df_prior == pytest.approx(answer["df_prior"][0], rel=1e-10)
    np.testing.assert_allclose(found.var, answer["post"], rtol=1e-12)


def refused(kind: type[InflError], match: str, sites: dict[str, AnnData], design: str = DESIGN, **options: Any) -> None:
    with pytest.raises(kind, match=match) as error:
        infl.tl.de(sites, design, **options)
    assert len(str(error.value)) < 299  # all of it is read
    assert all("infl_de" not in adata.uns for adata in sites.values())


def test_designs_that_do_not_determine_their_terms() -> None:
    pooled = cohort()
    pooled.obs["months"] = pooled.obs["age"] * 12
    pooled.obs["group"] = np.where(pooled.obs["condition"] == "case", "x", "y")
    sites = split(pooled, pooled.obs["site"])
    refused(DataError, "'months' is made up of 'age' within sites; leave one", sites, "~ condition + age + months")
    refused(
        DataError,
        r"'group\[T.y\]' is made up of 'Intercept', 'condition\[T.case\]'; leave",
        sites,
        "~ condition + group",
        site_effects=False,
    )
    here = split(pooled, pooled.obs["condition"])
    for adata in here.values():
        del adata.obs["site"]
    refused(DataError, "'condition' is constant at every site, .* design='~ condition \\+ age' with site_effects=False", here, "~ condition + age")  # fmt: skip
    infl.tl.de(here, "~ condition + age", site_effects=False)
    few = {site: adata[:2].copy() for site, adata in sites.items()}
    refused(DataError, "has 5 coefficients and all sites together have 4 samples", {name: few[name] for name in "ac"}, "~ condition + age + months")  # fmt: skip


def test_what_the_formula_names_has_to_be_there() -> None:
    pooled = cohort()
    sites = split(pooled, pooled.obs["site"])
    refused(DataError, "design 'Age' is missing in obs of a; did you mean 'age'", sites, "~ condition + Age")
    refused(SettingsError, "contrast= names 'treated'; 'condition' has 'control', 'case'", sites, contrast=("condition", "treated", "control"))  # fmt: skip
    refused(SettingsError, "contrast= names 'age', which is no column of groups", sites, contrast=("age", "a", "b"))
    refused(SettingsError, r"contrast= has 'case': give coefficients of 'Intercept'", sites, contrast="case")
    refused(SettingsError, "contrast=None: site has 2 coefficients", sites, "~ site + age")
    refused(SettingsError, "the groups are the same", sites, contrast=("condition", "case", "case"))
    refused(SettingsError, "is no formula", sites, "~ condition +")
    refused(SettingsError, "is no formula", sites, "age ~ condition")
    refused(SettingsError, "design=3: give a formula", sites, 3)  # type: ignore[arg-type]
    sites["a"].obs["arm"], sites["b"].obs["arm"], sites["c"].obs["arm"] = 1, "one", 2
    refused(DataError, "design 'arm' has numbers at a and words at b", sites, "~ arm")
    for adata in sites.values():
        adata.obs["one"] = "same"
    refused(DataError, "design 'one' has one level only", sites, "~ condition + one")
    sites["b"].obs["seen"] = pd.Timestamp("2020-01-01")
    sites["a"].obs["seen"] = sites["c"].obs["seen"] = 3
    refused(DataError, r"design 'seen' has dates at b: make them numbers, or C\(seen\)", sites, "~ condition + seen")
    sites["a"].obs["age"] = [np.nan, *range(10)]
    refused(DataError, "design 'age' has no value for 1 of 11 observations at a", sites)


def test_names_with_blanks_are_quoted() -> None:
    sites = {name: adata.copy() for name, adata in infl.datasets.khan_sites(3).items()}
    expected = infl.tl.de(sites, "~ C(tumour_class)", contrast=("tumour_class", "class_2", "class_1"))
    for adata in sites.values():
        adata.obs = adata.obs.rename(columns={"tumour_class": "tumour class (ICD-O)"})
    contrast = ("tumour class (ICD-O)", "class_2", "class_1")
    for design in ("~ `tumour class (ICD-O)`", "~ C(`tumour class (ICD-O)`)"):
        pd.testing.assert_frame_equal(infl.tl.de(sites, design, contrast=contrast), expected)
    with pytest.raises(SettingsError, match="a name with blanks as `my column`"):
        infl.tl.de(sites, "~ tumour class")
    with pytest.raises(SettingsError, match="is no formula|give names of obs columns"):
        infl.tl.de(sites, "~ C(tumour class)")


def test_a_formula_is_never_run_as_code(tmp_path: Path) -> None:
    sites = split(cohort(), LIMMA["site"])
    trap = tmp_path / "trap"
    for design in (
        f"~ open({str(trap)!r}, 'w')",
        f"~ age + I(open({str(trap)!r}, 'w'))",
        "~ {age ** 2}",
        "~ np.log(age)",
    ):
        refused(SettingsError, "give names of obs columns", sites, design)
    assert not trap.exists()


def test_counts_are_refused() -> None:
    sites = split(cohort(), LIMMA["site"])
    for adata in sites.values():
        adata.X = np.round(np.exp(adata.X))
    refused(DataError, "X of a has raw counts, and the model is for logarithms", sites)
    infl.pp.log1p({"a": sites["a"]})
    refused(DataError, "values differ in kind: a has logarithms, b", sites)
