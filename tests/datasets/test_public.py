"""Public data sets: what is in them, and how a file is found, verified and fetched."""

import numpy as np
import pytest
from scipy import sparse
from tests.datasets.conftest import screen

import infl
from infl import datasets


@pytest.fixture
def archive(monkeypatch, tmp_path):
    """A stand-in for the public archives: serves what is put into it by name, and notes what was asked for."""
    shelf, asked = {}, []

    def retrieve(url, known_hash, fname, path):
        asked.append((url, known_hash))
        file = tmp_path / fname
        shelf[fname].write_h5ad(file)
        return str(file)

    monkeypatch.setattr(infl.settings, "data_dir", None)
    monkeypatch.setattr(infl.settings, "data_url", None)
    monkeypatch.setattr("infl.datasets._registry.pooch.retrieve", retrieve)
    return shelf, asked


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_norman_comes_from_its_archive_with_combinations_as_the_model_reads_them(archive):
    shelf, asked = archive
    shelf["NormanWeissman2019_filtered.h5ad"] = screen(["control", "CBL", "CBL_CNN1", "CNN1"])
    cells = datasets.norman()
    assert asked == [
        (
            "https://zenodo.org/records/10044268/files/NormanWeissman2019_filtered.h5ad",
            "md5:c870e6967d91c017d9da827bab183cd6",
        )
    ]
    assert cells.obs["perturbation"].tolist() == ["control", "CBL", "CBL+CNN1", "CNN1"]
    assert cells.var_names.is_unique


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_adamson_has_genes_for_guides_and_no_cell_without_one(archive):
    shelf, asked = archive
    shelf["AdamsonWeissman2016_GSM2406681_10X010.h5ad"] = screen(["63(mod)_pBA580", "*", "SRP72_pDS453", np.nan])
    cells = datasets.adamson()
    assert asked[0][1] == "md5:2fa44ea61a8dd35742af618638ec65fc"
    assert cells.obs["perturbation"].tolist() == ["control", "SRP72"]
    assert cells.obs["guide"].tolist() == ["63(mod)_pBA580", "SRP72_pDS453"]


@pytest.mark.data_dir
def test_breast_tcga():
    breast = datasets.breast_tcga()
    assert {name: modality.shape for name, modality in breast.mod.items()} == {
        "rna": (220, 200),
        "mirna": (220, 184),
        "protein": (150, 142),
    }
    train = breast.obs["published_split"] == "train"
    assert set(breast["protein"].obs_names) == set(breast.obs_names[train])


@pytest.mark.data_dir
def test_stemcells():
    adata = datasets.stemcells()
    assert adata.shape == (125, 400)
    assert adata.obs["study"].nunique() == 4 and adata.obs["cell_type"].nunique() == 3


@pytest.mark.data_dir
def test_papalexi():
    adata = datasets.papalexi()
    assert adata.shape == (20729, 299)
    assert adata.obs["perturbation"].nunique() == 26 and "control" in set(adata.obs["perturbation"])
    assert sparse.issparse(adata.X)
    assert (adata.X.data == np.round(adata.X.data)).all()


@pytest.mark.data_dir
def test_her2st():
    labelled, histology = datasets.her2st_labelled(), datasets.her2st_histology()
    assert labelled.shape == (1123, 1500) and labelled.obs["patient"].nunique() == 4
    assert "undetermined" in set(labelled.obs["region"])
    assert histology.obsm["patches"].shape == (834, np.prod(histology.uns["patch_shape"]))


@pytest.mark.data_dir
def test_spamosaic_sim():
    sections = datasets.spamosaic_sim()
    assert {name: sorted(section.mod) for name, section in sections.items()} == {
        "s1": ["adt", "rna"],
        "s2": ["rna"],
        "s3": ["adt"],
    }
    for section in sections.values():
        assert section.obs["domain"].nunique() == 5 and section.obs["domain"].notna().all()
        assert section.obsm["spatial"].shape == (1296, 2)
        assert section.var_names.is_unique
        for modality in section.mod.values():
            np.testing.assert_array_equal(modality.obsm["spatial"], section.obsm["spatial"])
    assert sections["s2"].var_names.tolist() == sections["s1"]["rna"].var_names.tolist()
