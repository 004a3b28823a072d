"""Predicted perturbations: combinations add up unless they were measured, and unseen genes have neighbours."""

import anndata as ad
import numpy as np
import pytest
from tests.models.perturbation.conftest import fit
from tests.models.perturbation.screen import CONDITIONS, cells, effect_of

import infl


@pytest.fixture
def sites():
    return {f"site_{i}": cells(i, CONDITIONS) for i in range(3)}


def test_combinations_add_up_and_measured_conditions_count_as_measured(sites):
    run = fit(sites)
    answer = infl.tl.predict_perturbations(run.model, ["G0+G3", "G0", "control"], key=run.key)
    assert list(answer.obs_names) == ["G0+G3", "G0", "control"] and answer.obs["seen"].tolist() == [False, True, False]
    assert np.corrcoef(answer.X[0], effect_of(["G0", "G3"]))[0, 1] > 0.9
    assert answer.obs["n_cells"].tolist() == [0, 180, 0] and not answer.X[2].any()
    assert (answer.layers["uncertainty"][1] < answer.layers["uncertainty"][0]).all()
    assert (
        answer.layers["changed"][1, 0]
        and np.isclose(answer.layers["expression"][1], answer.var["control"] + answer.X[1]).all()
    )


def test_a_measured_combination_is_learned(sites):
    for i, adata in enumerate(sites.values()):
        more = cells(i + 10, ["G0+G3"])
        sites[f"site_{i}"] = ad.concat([adata, more[more.obs["perturbation"] == "G0+G3"]])
    run = fit(sites)
    answer = infl.tl.predict_perturbations(run.model, ["G3+G0"], key=run.key)
    assert answer.obs["seen"].tolist() == [True] and answer.obs_names[0] == "G0+G3"


def test_combinations_over_sites_are_the_sum_of_what_was_fitted_for_each_gene(sites):
    run = fit(sites)
    answer = infl.tl.predict_perturbations(run.model, ["G0", "G4", "G4 + G0"], key=run.key)
    np.testing.assert_allclose(answer.X[2], answer.X[0] + answer.X[1], atol=1e-6)
    assert answer.obs_names[2] == "G0+G4"
