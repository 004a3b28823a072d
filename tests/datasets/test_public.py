"""Public data sets: what is in them, and how a file is found, verified and fetched."""

import functools
import http.server
import shutil
import threading

import anndata as ad
import numpy as np
import pandas as pd
import pooch
import pytest
from scipy import sparse

import infl
from infl import datasets
from infl.datasets import REGISTRY
from infl.datasets._registry import find
from infl.errors import MAX_LENGTH, DataError, FileError

FETCHED = [name for name in REGISTRY if name != "khan" and REGISTRY[name].url is None]


@pytest.mark.parametrize("name", FETCHED)
def test_a_set_that_is_nowhere_says_whose_it_is_and_what_to_set(name, monkeypatch, tmp_path):
    monkeypatch.setattr(infl.settings, "data_url", None)
    for folder, reason in ((None, "INFL_DATA_DIR is not set"), (tmp_path, "it is not in")):
        monkeypatch.setattr(infl.settings, "data_dir", folder)
        with pytest.raises(DataError) as caught:
            getattr(datasets, name)()
        text = str(caught.value)
        assert text.startswith(f"datasets.{name} needs {next(iter(REGISTRY[name].files))} ({REGISTRY[name].source})")
        assert reason in text
        assert text.endswith("set INFL_DATA_DIR to a folder that holds it")
        assert len(text) < MAX_LENGTH


def test_another_file_of_that_name_is_refused(monkeypatch, tmp_path):
    (tmp_path / "papalexi_crispr.h5ad").write_bytes(b"something else")
    monkeypatch.setattr(infl.settings, "data_dir", tmp_path)
    with pytest.raises(FileError, match=r"papalexi_crispr\.h5ad is not the registered file of datasets\.papalexi"):
        datasets.papalexi()


@pytest.fixture
def mirror(tmp_path):
    """A web server on this machine; yields its folder and address."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def spamosaic():
    """Files of a data set, wherever they are; asked for before :func:`away`."""
    return find("spamosaic_sim")


@pytest.fixture
def away(monkeypatch, tmp_path, mirror):
    """No data folder, but a mirror and an empty cache."""
    monkeypatch.setattr(infl.settings, "data_dir", None)
    monkeypatch.setattr(infl.settings, "data_url", mirror[1])
    monkeypatch.setattr(infl.settings, "cache_dir", tmp_path / "cache")


@pytest.mark.data_dir
def test_a_mirror_is_asked_once(spamosaic, away, mirror):
    folder, _ = mirror
    for name, path in spamosaic.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / name)
    first = datasets.spamosaic_sim()
    shutil.rmtree(folder / "spamosaic_sim")
    again = datasets.spamosaic_sim()  # from the cache
    assert first["s1"].shape == again["s1"].shape == (1296, 300)


def test_a_mirror_that_lacks_the_file_or_has_another(away, mirror):
    with pytest.raises(
        FileError, match=r"cannot fetch http://127.*/stemcells_four_studies\.h5ad for datasets\.stemcells"
    ):
        datasets.stemcells()
    (mirror[0] / "stemcells_four_studies.h5ad").write_bytes(b"something else")
    with pytest.raises(FileError, match="cannot fetch") as caught:
        datasets.stemcells()
    assert "hash" in str(caught.value)
    assert len(str(caught.value)) < MAX_LENGTH


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


def screen(labels):
    """Cells with a name of a gene twice, as these files may have."""
    obs = pd.DataFrame({"perturbation": pd.Categorical(labels)}, index=[f"c{i}" for i in range(len(labels))])
    counts = sparse.csr_matrix(np.ones((len(labels), 3), dtype=np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=["CBL", "CNN1", "CNN1"]))


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


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_a_screen_with_another_md5_is_refused_and_a_named_mirror_comes_first(away, mirror, monkeypatch):
    name = "NormanWeissman2019_filtered.h5ad"
    screen(["control", "CBL_CNN1"]).write_h5ad(mirror[0] / name)
    with pytest.raises(FileError, match=rf"cannot fetch http://127.*/{name} for datasets\.norman"):
        datasets.norman()
    right = pooch.file_hash(str(mirror[0] / name), alg="md5")
    monkeypatch.setitem(REGISTRY["norman"].files, name, f"md5:{right}")
    assert datasets.norman().obs["perturbation"].tolist() == ["control", "CBL+CNN1"]
    monkeypatch.setattr(infl.settings, "data_dir", mirror[0])
    assert datasets.norman().n_obs == 2
    monkeypatch.setitem(REGISTRY["norman"].files, name, "md5:" + "0" * 32)
    with pytest.raises(FileError, match="is not the registered file"):
        datasets.norman()


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
