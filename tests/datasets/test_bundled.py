"""The bundled tumours: offline, complete, fairly dealt out."""

from importlib.resources import files

import numpy as np
import pytest

import infl
from infl.datasets import REGISTRY, khan, khan_sites
from infl.errors import DataError


def test_the_bundled_file_is_the_registered_one():
    import pooch

    path = str(files("infl.datasets") / "srbct_khan.h5ad")
    assert pooch.file_hash(path) == REGISTRY["khan"].files["srbct_khan.h5ad"]


def test_khan_needs_no_folder_and_no_network(monkeypatch):
    monkeypatch.setattr(infl.settings, "data_dir", None)
    monkeypatch.setattr("socket.socket.connect", None)
    adata = khan()
    assert adata.shape == (83, 2308)
    assert adata.obs["published_split"].value_counts().to_dict() == {"train": 63, "test": 20}
    assert np.isfinite(adata.X).all()


@pytest.mark.parametrize("n_sites", [1, 2, 5, 10])
def test_every_hospital_has_its_share(n_sites):
    sites = khan_sites(n_sites)
    assert list(sites) == [f"site_{i + 1}" for i in range(n_sites)]
    assert sorted(name for site in sites.values() for name in site.obs_names) == sorted(khan().obs_names)
    shares = np.array([site.obs["tumour_class"].value_counts().sort_index().to_numpy() for site in sites.values()])
    assert np.ptp(shares, axis=0).max() <= 1


def test_the_seed_decides_who_gets_what():
    first, same, other = khan_sites(), khan_sites(seed=0), khan_sites(seed=1)
    assert first["site_1"].obs_names.equals(same["site_1"].obs_names)
    assert not first["site_1"].obs_names.equals(other["site_1"].obs_names)


def test_more_hospitals_than_tumours():
    with pytest.raises(DataError, match="n_sites is 84, but there are 83 observations"):
        khan_sites(84)
