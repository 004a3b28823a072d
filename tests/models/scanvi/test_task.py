"""Label transfer over sites to one that has no labels."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.models.scanvi.conftest import SMALL, N, hospital

import infl
from infl.models.locked.outputs import infer
from infl.models.scanvi import Scanvi
from infl.models.task import Step

pytestmark = pytest.mark.needs("scvi")


def test_labels_reach_the_site_that_has_none(hospitals: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(hospitals, "scanvi", target="cell_type", rounds=25, **SMALL)
    truth = hospital(2).obs["cell_type"].to_numpy()
    assert (hospitals["h2"].obs["infl_prediction"].to_numpy() == truth).mean() > 0.9
    assert hospitals["h2"].obsm["infl_probabilities"].shape == (N, 3)
    assert hospitals["h2"].obsm["X_infl"].shape == (N, 4)
    assert run.model.header.panel["classes"] == ["B", "NK", "T"]
    assert run.history["val_balanced_accuracy"].iloc[-1] > 0.8
    keys = [infl.keys.Keyring.create() for _ in range(20)]
    stolen = [infer(hospitals["h2"], run.model, key, verify=False)["probability"].argmax(1) for key in keys]
    right = np.mean([(np.array(["B", "NK", "T"])[guess] == truth).mean() for guess in stolen])
    assert right < 1 / 3 + 0.15


def test_loss_is_that_of_scvi_tools_with_labelled_cells_only(hospitals: dict[str, AnnData]) -> None:
    task = Scanvi(target="cell_type", classification_ratio=7.0)
    panel = task.agree(hospitals)
    module = task.build(panel).eval()
    data = task.read(hospitals["h0"], panel, site="h0")
    batch, step = data.batch(np.arange(12)), Step(1, 1, 0, 1)
    torch.manual_seed(0)
    whole = task.loss(module, batch, step)
    torch.manual_seed(0)
    without = task.loss(module, batch | {"labels": torch.full((12, 1), -1)}, step)
    labelled = data.batch(np.arange(6, 12))
    logits = module.classify(labelled["X"], batch_index=labelled["batch"])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert float((whole - without).detach() / 7) == pytest.approx(float(expected), rel=1e-3)
