"""Domains without a network: alike at all sites, whatever a patient, a section or a unit adds; and labels that one site teaches."""

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from tests.threads import at_every_site
from tests.tl.conftest import KEY, three_patients, tissue

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.tl._domain_number import strength


def agreement(sites) -> float:
    both = [np.concatenate([adata.obs[c].astype(str) for adata in sites.values()]) for c in ("region", "infl_domain")]
    return adjusted_rand_score(*both)


def test_domains_mean_the_same_at_all_sites():
    sites = three_patients()
    infl.tl.spatial_domains(sites, 3, key=KEY)
    assert agreement(sites) > 0.85
    one = sites["p1"]
    assert one.obs["infl_domain"].cat.categories.tolist() == ["0", "1", "2"]
    assert one.obsm["X_infl_domain"].shape == (one.n_obs, 5) and one.varm["infl_domain"].shape == (30, 5)
    assert one.uns["infl_domain"]["n_obs"].sum() == sum(adata.n_obs for adata in sites.values())
    np.testing.assert_array_equal(one.varm["infl_domain"], sites["p0"].varm["infl_domain"])


def test_neighbours_tell_what_a_spot_does_not():
    sites = {site: tissue(i, effect=0.0) for i, site in enumerate("abc")}
    for adata in sites.values():  # a tenth of the counts
        adata.X = np.random.default_rng(0).binomial(adata.X.astype(int), 0.1).astype(np.float32)
    infl.tl.spatial_domains(sites, 3, n_hops=0, n_init=2)
    alone = agreement(sites)
    infl.tl.spatial_domains(sites, 3, n_hops=2, n_init=2)
    assert agreement(sites) > alone + 0.2


def test_the_number_of_domains_is_what_halves_of_sections_agree_on():
    sites = three_patients(effect=0.0)
    infl.tl.spatial_domains(sites, n_hops=0, n_init=2)
    found = sites["p0"].uns["infl_domain"]
    assert len(found["means"]) == 3 and found["strength"]["3"] >= 0.8 > found["strength"]["4"]
    assert agreement(sites) > 0.85


def test_a_domain_that_falls_apart_elsewhere_has_no_strength():
    assert strength(np.array([[8, 0], [0, 8]])) == 1.0
    assert strength(np.array([[8, 0], [4, 4]])) < 0.5
    assert strength(np.array([[1, 0], [0, 0]])) == 0.0


def test_sections_of_one_name_stay_apart_and_one_object_is_as_good_as_a_dict():
    sites = three_patients(n_sections=2)
    whole = ad.concat(sites, label="patient", index_unique="-")
    infl.tl.spatial_domains(sites, 3, section_key="section")
    assert agreement(sites) > 0.85
    infl.tl.spatial_domains(whole, 3, section_key="section", site_key="patient")
    np.testing.assert_array_equal(
        whole.obs["infl_domain"].astype(str),
        np.concatenate([adata.obs["infl_domain"].astype(str) for adata in sites.values()]),
    )


def test_between_processes_the_same_bits_as_in_one():
    here, there = three_patients(n_sections=2), three_patients(n_sections=2)

    def analysis(sites) -> None:
        infl.tl.spatial_domains(sites, 2, section_key="section", key=KEY, n_init=1)
        infl.tl.transfer_labels(sites, "region", use_rep="X_infl_domain", key=KEY)

    for sites in (here, there):
        for site in ("p1", "p2"):
            del sites[site].obs["region"]
    with pytest.warns(InflWarning, match="p0 alone has labels in 'region'"):
        analysis(here)
        found, _ = at_every_site(analysis, there, KEY)
    assert found == dict.fromkeys(there)
    for site in here:
        np.testing.assert_array_equal(here[site].obsm["X_infl_domain"], there[site].obsm["X_infl_domain"])
        for column in ("infl_domain", "region_transferred", "region_transferred_probability"):
            assert here[site].obs[column].equals(there[site].obs[column])


def test_what_cannot_work_is_one_line_and_alters_nothing():
    sites = three_patients()
    before = {site: adata.copy() for site, adata in sites.items()}
    with pytest.raises(SettingsError, match="n_axes=31 is more than the 30 features"):
        infl.tl.spatial_domains(sites, 3, n_axes=31)
    with pytest.raises(SettingsError, match="n_clusters must be from 1 to 117"):
        infl.tl.spatial_domains(sites, 500)
    with pytest.raises(DataError, match=r"p0 has no coordinates in obsm\['xy'\]"):
        infl.tl.spatial_domains(sites, 3, spatial_key="xy")
    with pytest.raises(DataError, match="p0 has no obs column 'slide'"):
        infl.tl.spatial_domains(sites, 3, section_key="slide")
    with pytest.raises(DataError, match="use_rep 'X_pca_harmony' is missing in obsm of p0"):
        infl.tl.transfer_labels(sites, "region")
    for adata in sites.values():
        adata.obsm["z"] = np.zeros((adata.n_obs, 2))
        before[next(s for s in sites if sites[s] is adata)].obsm["z"] = adata.obsm["z"].copy()
    with pytest.raises(DataError, match=r"no site has labels in obs\['type'\]"):
        infl.tl.transfer_labels(sites, "type", use_rep="z")
    with pytest.raises(DataError, match="'fat' is the only label"):
        infl.tl.transfer_labels(sites, "region", use_rep="z", exclude=("tumour", "stroma"))
    sites["p2"].X = np.log1p(sites["p2"].X)
    before["p2"].X = sites["p2"].X.copy()
    with pytest.raises(DataError, match="p2 has .* in X, which is no count"):
        infl.tl.spatial_domains(sites, 3)
    for site, adata in sites.items():
        assert list(adata.obs) == list(before[site].obs) and list(adata.obsm) == list(before[site].obsm)
        assert not adata.uns and not adata.varm


def test_sections_are_mixed_unless_that_is_switched_off():
    """A patient whose every feature is changed lies apart, until patients are mixed."""
    apart = {}
    for sigma in (None, 0.5):
        sites = three_patients(effect=0.8)
        infl.tl.spatial_domains(sites, 3, sigma=sigma)
        z = {site: adata.obsm["X_infl_domain"] for site, adata in sites.items()}
        middle = np.concatenate(list(z.values())).mean(0)
        apart[sigma] = (
            sum(((x.mean(0) - middle) ** 2).sum() for x in z.values()) / np.concatenate(list(z.values())).var()
        )
    assert apart[0.5] < 0.5 * apart[None]


def test_spots_without_counts_are_what_their_neighbours_are():
    sites = three_patients()
    sites["p0"].X[[0, 1, 40]] = 0
    infl.tl.spatial_domains(sites, 3)
    assert agreement(sites) > 0.85
    assert np.isfinite(sites["p0"].obsm["X_infl_domain"]).all()
