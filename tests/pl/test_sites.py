"""The picture of sites shows numbers by class, panels and moments."""

import numpy as np
import pytest
from tests.pl.conftest import legend

import infl
from infl.errors import DataError, SettingsError


def test_sites_shows_numbers_by_class(khan_sites):
    ax = infl.pl.sites(khan_sites, "tumour_class")
    widths = np.array([[patch.get_width() for patch in bars] for bars in ax.containers])  # (n_classes, n_sites)
    want = [adata.obs["tumour_class"].value_counts().sort_index().to_list() for adata in khan_sites.values()]
    np.testing.assert_array_equal(widths.T, want)
    assert [text.get_text() for text in ax.texts] == ["16", "17", "16", "17", "17"]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(khan_sites)
    assert legend(ax) == ["class_1", "class_2", "class_3", "class_4"]


def test_sites_draws_many_classes_as_the_largest_and_the_rest(khan_sites):
    for adata in khan_sites.values():
        adata.obs["type"] = [f"type_{i % 9}" for i in range(adata.n_obs)]
    ax = infl.pl.sites(khan_sites, "type")
    assert len(legend(ax)) == 7 and legend(ax)[-1] == "3 others"
    assert [text.get_text() for text in ax.texts] == ["16", "17", "16", "17", "17"]


def test_sites_that_lack_the_target(khan_sites):
    with pytest.raises(
        DataError, match=r"target 'tumor_class' is missing in obs of site_1; did you mean 'tumour_class'\?"
    ):
        infl.pl.sites(khan_sites, "tumor_class")
    with pytest.raises(DataError, match="give the sites' data by name"):
        infl.pl.sites({})
    with pytest.raises(SettingsError, match="pass site_key="):
        infl.pl.sites(khan_sites["site_1"])


def test_sites_shows_panels_and_moments(khan_sites):
    khan_sites["site_2"] = khan_sites["site_2"][:, :2000].copy()
    khan_sites["site_4"].var_names = ["new", *khan_sites["site_4"].var_names[1:]]
    for adata in khan_sites.values():
        adata.X = 1 + 0 * adata.X + np.random.default_rng(adata.n_obs).normal(size=adata.shape)
    khan_sites["site_3"].X = khan_sites["site_3"].X * 3 + 5
    _, features, mean, spread = infl.pl.sites(khan_sites).figure.axes
    widths = [[patch.get_width() for patch in bars] for bars in features.containers]
    assert widths == [[1999] * 5, [309, 1, 309, 308, 309], [0, 0, 0, 1, 0]]
    assert legend(features) == ["at all sites", "at some", "here only"]
    medians = [axes.lines[1].get_xdata() for axes in (mean, spread)]
    assert medians[0].argmax() == medians[1].argmax() == 2 and (np.delete(medians[0], 2) < 0).all()
    pooled = np.vstack([adata[:, "clone_5"].X for adata in khan_sites.values()])
    assert np.isclose(medians[0][2] * pooled.std() + pooled.mean(), 8, atol=0.7)


def test_sites_names_units_where_they_differ(khan_sites):
    assert "\n" not in infl.pl.sites(khan_sites).get_yticklabels()[0].get_text()
    khan_sites["site_1"].X = np.rint(np.exp(khan_sites["site_1"].X))
    written = [label.get_text() for label in infl.pl.sites(khan_sites).get_yticklabels()]
    assert written[:2] == ["site_1\nraw counts", "site_2\nscaled values"]


@pytest.mark.data_dir
def test_sites_of_several_modalities(breast):
    ax = infl.pl.sites(infl.pp.split_sites(breast, 3, stratify="subtype"), "subtype")
    assert legend(ax) == ["Basal", "Her2", "LumA"]
