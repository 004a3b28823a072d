"""What the classifier adds over sites is what pooled data give."""

import numpy as np
import pytest

import infl
from infl.errors import DataError, SettingsError
from infl.models import Classifier
from infl.sums import SiteView


def test_federated_moments_are_the_pooled_ones(khan_sites: dict, plainly_added) -> None:
    task = Classifier(target="tumour_class", validation=0.0)
    panel = task.agree(khan_sites)
    rng = np.random.default_rng(0)
    data = [task.read(a, panel, site=s, rng=rng) for s, a in khan_sites.items()]
    private = plainly_added(task.before(panel), [SiteView(d, None) for d in data])
    pooled = np.concatenate([np.asarray(a[:, panel["features"]].X, dtype=np.float64) for a in khan_sites.values()])
    np.testing.assert_allclose(private["center"], pooled.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(private["scale"], pooled.std(0, ddof=1), rtol=1e-6)
    counts = private["class_counts"]
    np.testing.assert_allclose(private["class_weight"] * counts, counts.sum() / len(counts))


def test_unknown_features_setting() -> None:
    with pytest.raises(SettingsError, match="features='all': give one of 'intersection', 'union'"):
        Classifier(target="label", features="all")


def test_a_target_that_mixes_words_and_numbers_is_refused_by_their_numbers(khan_sites: dict) -> None:
    adata = khan_sites["site_2"]
    mixed = adata.obs["tumour_class"].astype(object)
    mixed.iloc[:3] = 2.0
    adata.obs["tumour_class"] = mixed
    with pytest.raises(
        DataError, match="mixes words and numbers at site_2, 1[34] and 3 of 1[67] observations"
    ) as caught:
        infl.tl.fit_federated(khan_sites, target="tumour_class")
    assert "\n" not in str(caught.value) and adata.obs_names[0] not in str(caught.value)
