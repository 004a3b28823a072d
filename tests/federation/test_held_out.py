"""What a fold is fitted and judged on."""

import numpy as np
import pytest
from anndata import AnnData

import infl
from infl.errors import SettingsError
from infl.federation.held_out import folds


@pytest.mark.parametrize("share", [1e-6, 0.5, 1.0])
def test_shares_that_leave_nothing_to_judge_or_to_train_on(share: float) -> None:
    rng = np.random.default_rng(0)
    sites = {f"s{i}": AnnData(rng.poisson(5, size=(2, 4)).astype(np.float32)) for i in range(3)}
    for name, adata in sites.items():
        adata.obs_names = [f"{name}_{i}" for i in range(2)]
    task = infl.models.Scvi()
    if share < 0.1:
        with pytest.raises(SettingsError, match="holds out no observation of any site"):
            next(folds(task, sites, "observations", share, 0))
        return
    train, test = next(folds(task, sites, "observations", share, 0))
    assert all(train[name].n_obs == test[name].n_obs == 1 for name in sites)
