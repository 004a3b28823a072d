"""What infl writes is taken up by the packages of the ecosystem as they are; see docs/ecosystem.md.

scanpy is in ``tests/tl/test_fit.py``, scvi-tools in ``tests/tl/test_scvi.py``.
"""

from pathlib import Path

import numpy as np
import pytest
import scanpy as sc

import infl

pytestmark = [pytest.mark.data_dir, pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_squidpy_takes_domains() -> None:
    """Spots of a domain lie beside their own kind more often than chance has it."""
    squidpy = pytest.importorskip("squidpy", reason="needs the extra infl[spatial]")
    sites = infl.pp.split_sites(infl.datasets.her2st_labelled(), by="patient")
    infl.tl.fit_federated(sites, model="spatial", n_domains=4, rounds=2, progress=False)
    adata = sites["A"]
    squidpy.gr.spatial_neighbors(adata)
    squidpy.gr.nhood_enrichment(adata, cluster_key="infl_domain", n_perms=50, show_progress_bar=False, seed=0)
    own = np.diag(adata.uns["infl_domain_nhood_enrichment"]["zscore"])
    assert (own[np.isfinite(own)] > 2).all()
    assert np.isfinite(own).sum() >= 2


def test_muon_takes_predictions_and_latent(tmp_path: Path) -> None:
    muon = pytest.importorskip("muon", reason="needs muon")
    sites = infl.pp.split_sites(infl.datasets.breast_tcga(), 5, stratify="subtype", seed=0)
    infl.tl.fit_federated(sites, target="subtype", modality=None, rounds=5, progress=False)
    mdata = sites["site_1"]
    sc.pp.neighbors(mdata, use_rep="X_infl")
    sc.tl.umap(mdata)
    shown = muon.pl.embedding(mdata, basis="X_umap", color="infl_prediction", show=False)
    classes = {text.get_text() for text in shown.get_legend().get_texts()}
    assert set(mdata.obs["infl_prediction"].cat.categories) <= classes
    mdata.write(tmp_path / "site_1.h5mu")
    again = muon.read(tmp_path / "site_1.h5mu")
    assert (again.obs["infl_prediction"] == mdata.obs["infl_prediction"]).all()
    np.testing.assert_array_equal(again.obsm["X_infl"], mdata.obsm["X_infl"])


def test_muons_normalised_proteins_are_taken() -> None:
    muon = pytest.importorskip("muon", reason="needs muon")
    counts = infl.datasets.spamosaic_sim()["s1"]["adt"].copy()
    counts.obs["domain"] = infl.datasets.spamosaic_sim()["s1"].obs["domain"].astype(str)
    muon.prot.pp.clr(counts)
    sites = infl.pp.split_sites(counts, 3, stratify="domain", seed=0)
    run = infl.tl.fit_federated(sites, target="domain", rounds=10, progress=False)
    assert run.history["val_balanced_accuracy"].max() > 0.5  # chance is 0.2


def test_pertpy_measures_predicted_effects_and_federated_components() -> None:
    pertpy = pytest.importorskip("pertpy", reason="needs pertpy")
    sites = infl.pp.split_sites(infl.datasets.papalexi()[::6].copy(), by="replicate")
    infl.pp.normalize_total(sites)
    infl.pp.log1p(sites)
    run = infl.tl.fit_federated(sites, model="perturbation", target="perturbation", rounds=3, progress=False)
    effects = infl.tl.predict_perturbations(run.model, ["JAK2", "IFNGR1", "CUL3"], key=run.key)
    effects.obs["perturbation"] = effects.obs_names
    distance = pertpy.tl.Distance("euclidean", layer_key="expression")
    predicted = distance.pairwise(effects, groupby="perturbation", show_progressbar=False)
    assert predicted.loc["JAK2", "IFNGR1"] < predicted.loc["JAK2", "CUL3"]  # one pathway, and another
    infl.pp.pca(sites, n_comps=10)
    cells = sites["rep_1"]
    cells = cells[cells.obs["perturbation"].isin(["control", "IFNGR1", "JAK2"])].copy()
    distance = pertpy.tl.Distance("edistance", obsm_key="X_pca")
    measured = distance.pairwise(cells, groupby="perturbation", show_progressbar=False)
    assert measured.loc["JAK2", "IFNGR1"] < measured.loc["JAK2", "control"]
