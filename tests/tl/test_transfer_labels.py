"""Labels that some sites have are given to all observations in a common space."""

import numpy as np
import pytest
from tests.threads import at_every_site
from tests.tl.conftest import KEY, three_patients

import infl
from infl.errors import InflWarning


def test_one_annotated_site_teaches_the_others():
    sites = three_patients()
    truth = {site: sites[site].obs.pop("region") for site in ("p1", "p2")}
    infl.tl.spatial_domains(sites, 3, n_axes=5)
    with pytest.warns(InflWarning, match="numbers and means of its labels are known to all sites"):
        infl.tl.transfer_labels(sites, "region", use_rep="X_infl_domain")
    for site, true in truth.items():
        found = sites[site].obs["region_transferred"]
        right = found.astype(str).to_numpy() == true.to_numpy()
        assert right.mean() > 0.9
        probability = sites[site].obs["region_transferred_probability"].to_numpy()
        assert probability.min() >= 1 / 3 and probability[right].mean() > 0.8 and probability.max() <= 1
        assert "region" not in sites[site].obs
    np.testing.assert_allclose(
        sites["p1"].uns["region_transferred"]["means"][0],
        sites["p0"].obsm["X_infl_domain"][sites["p0"].obs["region"] == "fat"].mean(0),
        atol=1e-5,
    )


def test_a_label_of_a_few_observations_is_neither_taught_nor_named():
    sites = three_patients()
    rare = sites["p0"].obs["region"].to_numpy().astype(object)
    rare[:4], rare[5:20] = "a rare disease", np.nan
    sites["p0"].obs["region"] = rare
    for i, adata in enumerate(sites.values()):
        adata.obsm["z"] = np.random.default_rng(i).standard_normal((adata.n_obs, 2))
    with pytest.warns(InflWarning, match="p0 does not teach 'a rare disease': fewer than 10 observations"):
        infl.tl.transfer_labels(sites, "region", use_rep="z", exclude=("fat",))
    assert sites["p1"].obs["region_transferred"].cat.categories.tolist() == ["stroma", "tumour"]
    said = []

    def taught(consortium) -> None:
        agree = consortium.channel.agree
        consortium.channel.agree = lambda kind, names: said.append((kind, repr(names))) or agree(kind, names)
        infl.tl.transfer_labels(consortium, "region", use_rep="z", exclude=("fat",))

    with pytest.warns(InflWarning, match="p0 does not teach"):
        found, _ = at_every_site(taught, sites, KEY)
    assert found == dict.fromkeys(sites)
    named = " ".join(names for kind, names in said if "labels" in kind)
    assert "tumour" in named and "rare" not in named
