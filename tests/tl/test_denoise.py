"""Denoised counts are those of scvi-tools."""

import numpy as np
import pytest
from tests.models.scvi.conftest import genes

import infl
from infl.errors import SettingsError

pytestmark = pytest.mark.needs("scvi")


def test_denoised_expression_is_that_of_scvi_tools(fitted: tuple) -> None:
    cells, run = fitted
    infl.tl.denoise(cells, run.model, key=run.key, site="h1", target_sum=100)
    theirs = infl.tl.to_scvi(run.model, cells, key=run.key, site_key="hospital")
    expected = theirs.get_normalized_expression(transform_batch="h1", n_samples=50, library_size=100).to_numpy()
    ours = cells.obsm["infl_denoised"]
    assert list(ours.columns) == genes()
    np.testing.assert_allclose(ours.sum(axis=1), 100, rtol=1e-4)
    assert np.corrcoef(ours.to_numpy().ravel(), expected.ravel())[0, 1] > 0.98
    everywhere = infl.tl.denoise(cells, run.model, key=run.key, copy=True).obsm["infl_denoised"]
    parts = [
        infl.tl.denoise(cells, run.model, key=run.key, site=s, copy=True).obsm["infl_denoised"]
        for s in ("h0", "h1", "h2")
    ]
    np.testing.assert_allclose(everywhere, sum(parts) / 3, rtol=1e-3, atol=1e-3)
    with pytest.raises(SettingsError, match="site='h9' is not one of the model's: h0, h1, h2"):
        infl.tl.denoise(cells, run.model, key=run.key, site="h9")
