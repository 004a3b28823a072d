"""What steps need and write, against what the functions really do."""

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

import infl
from infl.deploy.study.kinds import STEPS
from infl.deploy.study.steps import Step, check_fields, check_groups, check_ruled, missing_everywhere
from infl.errors import DataError, SettingsError
from infl.privacy import DisclosureRules

SLOTS = ("obs", "var", "obsm", "varm", "uns")


def make_sites(n_genes: int = 60) -> dict[str, AnnData]:
    rng, sites = np.random.default_rng(0), {}
    for i, n in enumerate((40, 30, 50)):
        counts = rng.poisson(rng.lognormal(0, 1, n_genes), (n, n_genes)).astype(np.float32)
        counts[:2] += 1
        adata = AnnData(sparse.csr_matrix(counts))
        adata.obs_names, adata.var_names = [f"c{j}-{i}" for j in range(n)], [f"g{j}" for j in range(n_genes)]
        adata.obs["donor"] = np.array(["x", "y"])[np.arange(n) % 2]
        adata.obs["guide"] = np.array(["control", "g1", "g2"])[np.arange(n) % 3]
        adata.obs["chosen"] = np.arange(n) % 4 > 0
        adata.obs["age"], adata.obs["months"] = rng.normal(60, 9, n), rng.exponential(20, n)
        adata.obs["log_months"] = np.log(adata.obs["months"])
        adata.obsm["spatial"] = np.stack(np.divmod(np.arange(n), 7), 1).astype(float)
        adata.var["peptides"] = 1 + np.arange(n_genes) % 7
        adata.var["mito"] = np.arange(n_genes) % 5 == 0
        sites[f"s{i}"] = adata
    return sites


def fields(adata: AnnData) -> set[tuple[str, str]]:
    return {(slot, name) for slot in SLOTS for name in getattr(adata, slot)}


LOGS = [Step.read("pp.normalize_total", {}), Step.read("pp.log1p", {})]
PCA = Step.read("pp.pca", {"n_comps": 5})
FITTED = Step.read("tl.fit_federated", {"target": "donor", "rounds": 1, "width": 0})
CASES = [
    ([], "pp.qc_summary", {"percent_top": [10, 20], "qc_vars": ["mito"]}),
    ([], "pp.qc_summary", {"percent_top": [10], "log1p": False}),
    ([], "pp.normalize_total", {"key_added": "factor"}),
    ([], "pp.moments", {}),
    ([], "pp.filter_cells", {"min_genes": 3}),
    ([], "pp.filter_genes", {"max_counts": 10_000}),
    ([], "pp.pseudobulk", {"sample_key": "donor", "groups_key": "guide"}),
    (LOGS, "tl.score_genes", {"gene_list": ["g1", "g2"], "ctrl_size": 5, "n_bins": 5, "score_name": "mine"}),
    (LOGS, "tl.score_genes_cell_cycle", {"s_genes": ["g1", "g2"], "g2m_genes": ["g3", "g9"], "n_bins": 5}),
    (LOGS, "pp.combat", {"batch": "site", "covariates": ["donor"]}),
    (LOGS, "pp.remove_batch_effect", {"batch": "donor", "covariates": "age"}),
    (LOGS, "pp.regress_out", {"keys": "age"}),
    (LOGS, "tl.rank_genes_groups", {"groupby": "donor", "groups": ["x"], "method": "wilcoxon"}),
    (LOGS, "tl.de", {"design": "~ donor + age + site"}),
    (LOGS, "tl.de", {"design": "~ donor", "contrast": "donor[T.y]", "method": "deqms", "counts_key": "peptides"}),
    ([], "tl.de", {"design": "~ donor", "contrast": ["donor", "x", "y"], "method": "voom", "key_added": "mine"}),
    ([], "tl.survival", {"time": "months", "event": "chosen", "groups": "donor"}),
    ([], "tl.cox", {"time": "months", "event": "chosen", "formula": "~ age + donor", "key_added": "mine"}),
    ([], "tl.glm", {"formula": "chosen ~ age + site", "family": "binomial", "offset": "log_months"}),
    (LOGS, "pp.highly_variable_genes", {"n_top_genes": 20}),
    (LOGS, "pp.highly_variable_genes", {"n_top_genes": 20, "batch_key": "donor"}),
    ([], "pp.highly_variable_genes", {"n_top_genes": 20, "flavor": "seurat_v3"}),
    ([], "pp.highly_variable_genes", {"n_top_genes": 20, "flavor": "seurat_v3", "batch_key": "site"}),
    (LOGS, "pp.scale", {"zero_center": False}),
    (LOGS, "pp.scale", {"zero_center": False, "mask_obs": "chosen"}),
    (LOGS, "pp.pca", {"n_comps": 5}),
    (LOGS, "pp.pca", {"n_comps": 5, "key_added": "mine", "mask_var": "mito"}),
    ([*LOGS, PCA], "pp.harmony_integrate", {"batch_key": "donor"}),
    ([], "tl.spatial_domains", {"n_domains": 2, "n_init": 1, "section_key": "donor"}),
    ([*LOGS, PCA], "tl.transfer_labels", {"target": "donor", "use_rep": "X_pca"}),
    ([*LOGS, PCA], "tl.cluster", {"n_clusters": 3, "use_rep": "X_pca", "n_init": 1}),
    (LOGS, "tl.fit_federated", {"target": "donor", "rounds": 1, "width": 8, "key_added": "mine"}),
    ([], "tl.fit_federated", {"model": "scvi", "rounds": 1, "n_latent": 2, "n_hidden": 4}),
    ([], "tl.fit_federated", {"model": "scanvi", "target": "donor", "rounds": 1, "n_latent": 2, "n_hidden": 4}),
    ([], "tl.fit_federated", {"model": "spatial", "n_domains": 2, "rounds": 1}),
    (LOGS, "tl.fit_federated", {"model": "perturbation", "target": "guide", "rounds": 1}),
    ([FITTED], "tl.feature_importance", {"method": "gradients", "key_added": "mine"}),
]


@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
@pytest.mark.parametrize(("before", "do", "arguments"), CASES)
def test_a_step_writes_what_is_declared_and_nothing_else(before: list[Step], do: str, arguments: dict) -> None:
    sites, step = make_sites(), Step.read(do, arguments)
    fitted = [one.run(sites) for one in before]
    had = fields(sites["s1"])
    made = step.run(sites, *fitted[-1:])
    sites = made if step.kind.replaces else sites
    assert {*step.writes} == fields(sites["s1"]) - had
    assert {*step.needs} <= had


def test_every_step_is_tried() -> None:
    assert {do for _, do, _ in CASES} | {"pp.log1p", "pp.impute"} == {*STEPS}


def test_every_function_that_works_between_processes_is_a_step() -> None:
    found = {
        f"{module.__name__.removeprefix('infl.')}.{name}"
        for module in (infl.pp, infl.tl)
        for name in module.__all__
        if getattr(getattr(module, name), "between", False)
    }
    assert found - {"pp.quantiles"} | {"pp.filter_cells"} == {*STEPS}  # the latter sums nothing


def test_what_a_formula_reads_is_needed() -> None:
    step = Step.read("tl.cox", {"time": "months", "event": "died", "formula": "~ C(grade):arm + site"})
    assert step.columns == {"months", "died", "grade", "arm"}
    assert Step.read("tl.glm", {"formula": "died ~ age", "offset": "log_months"}).columns == {
        "died",
        "age",
        "log_months",
    }


@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
def test_results_of_statistics_are_kept_in_files(tmp_path) -> None:
    sites = make_sites()
    for do, arguments in (
        ("tl.survival", {"time": "months", "event": "chosen"}),
        ("tl.cox", {"time": "months", "event": "chosen", "formula": "~ age", "strata": "site"}),
        ("tl.glm", {"formula": "chosen ~ age", "family": "binomial"}),
        ("tl.de", {"design": "~ donor", "method": "voom"}),
        ("tl.rank_genes_groups", {"groupby": "donor"}),
    ):
        Step.read(do, arguments).run(sites)
    sites["s1"].write_h5ad(tmp_path / "s1.h5ad")
    found = anndata.read_h5ad(tmp_path / "s1.h5ad").uns
    assert found.keys() == {"infl_survival", "infl_cox", "infl_glm", "infl_de", "rank_genes_groups"}
    assert found["infl_survival"]["curves"].at_risk[0] == 120
    assert found["infl_glm"]["table"].index.tolist() == ["Intercept", "age"]
    assert "baseline" not in found["infl_cox"]  # with strata there is none


def test_steps_that_rules_do_not_bind_yet_are_named() -> None:
    check_ruled([*LOGS, Step.read("pp.moments", {}), Step.read("pp.filter_cells", {"min_genes": 3})], "s1")
    with pytest.raises(SettingsError, match=r"step 3 \(pp.harmony_integrate\) is not yet under rules of disclosure"):
        check_ruled([*LOGS, Step.read("pp.harmony_integrate", {})], "s1")
    gmm = Step.read("tl.cluster", {"n_clusters": 3, "method": "gmm"})
    said = r"step 2 \(tl.cluster with method 'gmm'\) is not yet under rules .* since a component .* records: take 'kmeans' or 'ward', or leave"
    with pytest.raises(SettingsError, match=said):
        check_ruled([Step.read("pp.moments", {}), gmm], "s1")
    check_ruled([Step.read("tl.cluster", {"n_clusters": 3})], "s1")


@pytest.mark.parametrize(
    ("do", "arguments", "column"),
    [
        ("tl.rank_genes_groups", {"groupby": "guide"}, "guide"),
        ("tl.rank_genes_groups", {"groupby": "infl_cluster"}, "infl_cluster"),  # that a step before makes
        ("tl.survival", {"time": "months", "event": "chosen", "groups": "guide"}, "guide"),
        ("tl.de", {"design": "~ donor + guide + age + site"}, "guide"),
        ("tl.glm", {"formula": "chosen ~ age + guide", "family": "binomial"}, "guide"),
        ("pp.combat", {"batch": "guide"}, "guide"),
        ("pp.remove_batch_effect", {"batch": "site", "covariates": ["age", "guide"]}, "guide"),
        ("pp.regress_out", {"keys": ["age", "guide"]}, "guide"),
        ("tl.fit_federated", {"target": "guide"}, "guide"),
        ("tl.fit_federated", {"target": ["donor", "guide"]}, "guide"),
        ("tl.fit_federated", {"target": "donor", "covariates": ["age", "guide"]}, "guide"),
        ("tl.fit_federated", {"model": "scvi", "categorical_covariates": ["guide"]}, "guide"),
        ("tl.fit_federated", {"model": "regressor", "target": "age", "covariates": ["guide"]}, "guide"),
    ],
)
def test_groups_that_rules_do_not_release_are_named_before_any_work(do: str, arguments: dict, column: str) -> None:
    step, adata = Step.read(do, arguments), make_sites()["s1"]
    with pytest.raises(SettingsError) as error:
        check_groups([PCA, step], DisclosureRules(groups=("donor",)), adata, "s1")
    expected = (
        f"s1, step 2 ({do}) asks about groups of {column!r}: rules of disclosure here release groups of 'donor'; ask"
    )
    assert str(error.value).startswith(expected)
    check_groups([step], DisclosureRules(groups=("donor", column)), adata, "s1")
    check_groups([step], DisclosureRules(), adata, "s1")


def test_numbers_are_no_groups() -> None:
    steps = [
        Step.read("tl.survival", {"time": "months", "event": "chosen"}),
        Step.read("pp.regress_out", {"keys": "age"}),
        Step.read("pp.combat", {"batch": "site"}),
        Step.read("tl.glm", {"formula": "chosen ~ age + site", "family": "binomial"}),
        Step.read("tl.fit_federated", {"model": "survival", "time": "months", "event": "chosen"}),
        Step.read("tl.fit_federated", {"model": "regressor", "target": "age"}),
    ]
    check_groups(steps, DisclosureRules(groups=()), make_sites()["s1"], "s1")


def test_log1p_marks_logarithms_only() -> None:
    sites = make_sites()
    had = fields(sites["s0"])
    Step.read("pp.log1p", {}).run(sites)
    assert fields(sites["s0"]) - had == {
        ("uns", "log1p")
    }  # its mark; data that have it are logarithms, and refused by it


def test_a_field_that_is_missing_names_the_step_that_makes_it() -> None:
    adata = make_sites()["s1"]
    cluster = Step.read("tl.cluster", {"n_clusters": 3, "use_rep": "X_pca"})
    with pytest.raises(DataError) as error:
        check_fields([*LOGS, cluster], adata, "s1")
    assert str(error.value).startswith("step 3 (tl.cluster) needs obsm['X_pca'], which s1 lacks: pp.pca makes it")
    check_fields([*LOGS, PCA, cluster], adata, "s1")
    other = Step.read("tl.cluster", {"n_clusters": 3, "use_rep": "X_mine"})
    with pytest.raises(DataError, match="add it to the data before the study"):
        check_fields([other], adata, "s1")
    assert missing_everywhere([*LOGS, cluster]) == ["obsm['X_pca']"]
    assert missing_everywhere([PCA, cluster]) == []


def test_a_column_that_is_spelt_otherwise() -> None:
    adata = make_sites()["s1"]
    with pytest.raises(DataError) as error:
        check_fields([PCA, Step.read("pp.harmony_integrate", {"batch_key": "doner"})], adata, "s1")
    assert "step 2 (pp.harmony_integrate)" in str(error.value) and "did you mean 'donor'?" in str(error.value)


def test_a_users_field_is_not_written_over() -> None:
    adata = make_sites()["s1"]
    adata.obs["infl_cluster"] = "mine"
    steps = [*LOGS, PCA, Step.read("tl.cluster", {"n_clusters": 3, "use_rep": "X_pca"})]
    with pytest.raises(DataError) as error:
        check_fields(steps, adata, "s1")
    assert "step 4 (tl.cluster) would write over obs['infl_cluster'] of s1's own data" in str(error.value)
    check_fields([*steps[:-1], Step.read("tl.cluster", {"use_rep": "X_pca", "key_added": "other"})], adata, "s1")
    check_fields(steps, adata, "s1", done=4)  # after the study the field is its own
    check_fields([*steps[:-1], PCA], make_sites()["s1"], "s1")  # a later step may write over an earlier one's
