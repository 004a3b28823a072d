"""What scVI reads from sites, and what it refuses."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from tests.models.scvi.conftest import N_CELLS, N_GENES, SMALL, genes

import infl
from infl.errors import DataError, InflError, InflWarning, MissingExtraError
from infl.models.scvi import Scvi
from infl.models.task import Step

pytestmark = pytest.mark.needs("scvi")


def test_covariates_and_size_factors_reach_the_module(hospitals: dict[str, AnnData]) -> None:
    for number, adata in enumerate(hospitals.values()):
        adata.obs["donor"] = ["b", "a" if number else "b"] * (N_CELLS // 2)
        adata.obs["age"] = np.arange(N_CELLS) / N_CELLS
        adata.obs["factor"] = 2.0
    task = Scvi(categorical_covariates=("donor",), continuous_covariates=("age",), size_factor="factor")
    panel = task.agree(hospitals)
    assert panel["covariates"] == {"donor": ["a", "b"]}
    batch = task.read(hospitals["h2"], panel, site="h2").batch(np.array([1, 4]))
    assert batch["batch"].tolist() == [[2], [2]]
    assert batch["extra_categorical_covs"].tolist() == [[0], [1]]
    np.testing.assert_allclose(batch["extra_continuous_covs"], [[1 / N_CELLS], [4 / N_CELLS]], rtol=1e-6)
    assert batch["size_factor"].tolist() == [[2.0], [2.0]]
    module = task.build(panel)
    assert module.decoder.px_decoder.fc_layers[0][0].in_features == task.n_latent + 1 + 3 + 2
    assert torch.isfinite(task.loss(module, batch, Step(1, 1, 0, 1)))


def test_modality_of_a_mudata(hospitals: dict[str, AnnData]) -> None:
    cells = hospitals["h0"]
    one = {"h0": MuData({"rna": cells, "other": cells[:50, :2].copy()})}
    with pytest.warns(InflWarning, match="seal='none'"):
        infl.tl.fit_federated(one, "scvi", modality="rna", rounds=1, lock=None, seal="none", **SMALL)
    assert one["h0"].obsm["X_infl"].shape == (N_CELLS, 4)


def _logged(adata: AnnData) -> None:
    adata.X = adata.X.log1p()


def _emptied(adata: AnnData) -> None:
    adata.X = sparse.diags((np.arange(N_CELLS) >= 2).astype(np.float32)) @ adata.X


def _negative(adata: AnnData) -> None:
    adata.X = -adata.X.toarray()


def _column(name: str, values: object) -> Callable[[AnnData], None]:
    def change(adata: AnnData) -> None:
        adata.obs[name] = values

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (_logged, {}, r"h0 has \d.\d+ in X, which is no count: raw counts are due"),
        (_negative, {}, r"h0 has -\d+ in X, which is no count"),
        (_emptied, {}, "h0 has 2 cells without any count in the 60 features of the panel, first 'h0_0'"),
        (
            _column("x", 1),
            {"categorical_covariates": "donor"},
            "categorical_covariates 'donor' is missing in obs of h0",
        ),
        (_column("s", 0.0), {"size_factor": "s"}, r"h0 has size factors of 0 or less in obs\['s'\]"),
        (_column("s", "x"), {"continuous_covariates": "s"}, r"h0 has text in obs\['s'\], where numbers are due"),
        (_column("x", 1), {"norm": "batch"}, "norm='batch' cannot be fitted over sites"),
        (_column("x", 1), {"norm": "both"}, "norm='both': give one of 'layer', 'batch'"),
        (_column("x", 1), {"kl_warmup": 3}, "kl_warmup=3: give a number from 0 up to 1"),
        (_column("x", 1), {"n_latents": 3}, "did you mean 'n_latent'"),
        (_column("x", 1), {"privacy": infl.privacy.DP(epsilon=1, delta=1e-5)}, "cannot be fitted with privacy= yet"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    hospitals: dict[str, AnnData], change: Callable[[AnnData], None], options: dict, message: str
) -> None:
    for adata in hospitals.values():
        change(adata)
    with pytest.raises(InflError, match=message) as error:
        infl.tl.fit_federated(hospitals, "scvi", rounds=1, progress=False, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert not any(adata.obsm for adata in hospitals.values())


def test_without_scvi_tools_the_line_to_install_it(
    hospitals: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scvi.module", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'infl\[scvi\]'"):
        infl.tl.fit_federated(hospitals, "scvi", rounds=1, progress=False)


def test_a_category_that_the_model_does_not_know(hospitals: dict[str, AnnData]) -> None:
    for adata in hospitals.values():
        adata.obs["donor"] = "a"
    task = Scvi(categorical_covariates=("donor",))
    panel = task.agree(hospitals)
    hospitals["h0"].obs["donor"] = "c"
    with pytest.raises(DataError, match=r"h0 has 'c' in obs\['donor'\], which the model does not know: it has 'a'"):
        task.read(hospitals["h0"], panel, site="h0")


def test_features_that_were_not_measured_are_no_zeros(hospitals: dict[str, AnnData]) -> None:
    panel = Scvi().agree(hospitals)
    hospitals["h1"].var["infl_present"] = np.arange(N_GENES) > 3
    with pytest.raises(DataError, match="h1 did not measure 4 of the model's 60 features"):
        Scvi().read(hospitals["h1"], panel, site="h1")
    assert set(Scvi().agree(hospitals)["features"]) == set(genes()[4:])
