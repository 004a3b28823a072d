"""A file of a data set is looked for, verified and fetched, or one line says what to set."""

import functools
import http.server
import shutil
import sys
import threading
from dataclasses import replace

import pooch
import pytest
from tests.datasets.conftest import screen

import infl
from infl import datasets
from infl.datasets import REGISTRY, _registry
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


ARFF = """@relation d
@attribute age numeric
@attribute size numeric
@attribute grade {intermediate,unkown}
@attribute er {negative,positive}
@attribute t.tdm numeric
@attribute e.tdm {0,1}
@attribute X219340_s_at numeric
@attribute X217771_at numeric
@data
57,3,unkown,negative,723,1,10.8,11.2
42,2,intermediate,positive,6591,0,9.5,12.1
"""


def test_a_file_that_an_installed_package_ships_is_read_if_it_is_the_registered_one(monkeypatch, tmp_path):
    monkeypatch.setattr(infl.settings, "data_dir", None)
    monkeypatch.setattr(infl.settings, "data_url", None)
    place = tmp_path / "sksurv" / "datasets" / "data"
    place.mkdir(parents=True)
    (tmp_path / "sksurv" / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    (file,) = REGISTRY["gse7390"].files
    (place / file).write_text(ARFF)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sksurv", raising=False)
    with pytest.raises(DataError, match="pip install scikit-survival, or set INFL_DATA_DIR"):
        datasets.gse7390()
    entry = replace(REGISTRY["gse7390"], files={file: pooch.file_hash(str(place / file))})
    monkeypatch.setattr(_registry, "REGISTRY", {"gse7390": entry})
    found = datasets.gse7390()
    assert found.var_names.tolist() == ["219340_s_at", "217771_at"] and found.X[1].tolist() == [9.5, 12.1]
    assert found.obs["days"].tolist() == [723, 6591] and found.obs["metastasis"].tolist() == [1, 0]
    assert found.obs["grade"].isna().tolist() == [True, False] and found.obs["er"].tolist() == ["negative", "positive"]


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
    assert "set INFL_DATA_DIR to a folder that holds stemcells_four_studies.h5ad" in str(caught.value)
    assert len(str(caught.value)) < MAX_LENGTH


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
