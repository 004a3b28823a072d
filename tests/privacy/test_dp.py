"""Differential privacy: the noise is what the accountant was told, and nothing goes round it."""

import math

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.privacy.conftest import SETTINGS
from torch import nn

import infl
from infl.errors import SettingsError
from infl.nn.flat import FlatModule
from infl.nn.mlp import ResidualMLP
from infl.privacy import DP, spent
from infl.privacy.dp import (
    SecretUniform,
    clipped_gradients,
    discrete_gaussian,
    epsilon_of,
    noise_for,
    steps_of,
)


def test_discrete_gaussian_has_its_probabilities() -> None:
    draws = discrete_gaussian(1.3, 200_000, SecretUniform(bytes(32), 0))
    weights = {k: math.exp(-(k**2) / (2 * 1.3**2)) for k in range(-12, 13)}
    total = sum(weights.values())
    for k in range(-4, 5):
        p = weights[k] / total
        assert abs((draws == k).mean() - p) < 5 * math.sqrt(p / 200_000), k


def test_secret_uniform_is_uniform_and_repeats_only_with_its_key_and_round() -> None:
    draws = SecretUniform(b"k" * 32, 1).random(100_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(np.histogram(draws, 10)[0] - 10_000).max() < 500
    np.testing.assert_array_equal(draws, SecretUniform(b"k" * 32, 1).random(100_000))
    for other in (SecretUniform(b"j" * 32, 1), SecretUniform(b"k" * 32, 2)):
        assert abs(np.corrcoef(draws, other.random(100_000))[0, 1]) < 0.02


def check_sum(got: np.ndarray, expected: torch.Tensor, n: int, exponent: int) -> None:
    """The sum is the expected one, but for less than a step of the grid that rounding towards zero takes from each record."""
    assert got.dtype == np.int64
    assert np.abs(got * 2.0**exponent - expected.numpy()).max() <= n * 2.0**exponent + 1e-5


def one_by_one(n: int) -> list[np.ndarray]:
    return [np.array([i]) for i in range(n)]


def test_gradients_are_clipped_one_record_at_a_time() -> None:
    torch.manual_seed(0)
    flat = FlatModule(ResidualMLP(5, 3, width=4, n_blocks=1, dropout=0.0))
    x, y = torch.randn(7, 5) * 3, torch.arange(7) % 3
    expected = torch.zeros(flat.shared.total)
    for i in range(7):
        flat.flat.grad.zero_()
        nn.functional.cross_entropy(flat.module(x[i : i + 1]), y[i : i + 1]).backward()
        gradient = flat.flat.grad.clone()
        expected += gradient * min(1.0, 0.5 / float(gradient.norm()))
    loss = lambda index: nn.functional.cross_entropy(flat.module(x[index]), y[index])  # noqa: E731
    check_sum(clipped_gradients(flat.module, loss, one_by_one(7), 0.5, -20), expected, 7, -20)


def test_layers_that_opacus_does_not_know_are_clipped_alike() -> None:
    torch.manual_seed(0)
    flat = FlatModule(_Scaled(5, 3))
    x, y = torch.randn(7, 5) * 3, torch.arange(7) % 3
    expected = torch.zeros(flat.shared.total)
    for i in range(7):
        flat.flat.grad.zero_()
        nn.functional.cross_entropy(flat.module(x[i : i + 1]), y[i : i + 1]).backward()
        gradient = flat.flat.grad.clone()
        expected += gradient * min(1.0, 0.5 / float(gradient.norm()))
    before = flat.flat.grad.clone()
    loss = lambda index: nn.functional.cross_entropy(flat.module(x[index]), y[index])  # noqa: E731
    check_sum(clipped_gradients(flat.module, loss, one_by_one(7), 0.5, -20), expected, 7, -20)
    torch.testing.assert_close(flat.flat.grad, before)
    assert not clipped_gradients(flat.module, loss, [], 0.5, -20).any()


@pytest.mark.parametrize("noise", ["distributed", "local"])
def test_noise_in_the_opened_sum_is_what_was_accounted(khan_sites: dict[str, AnnData], noise: str) -> None:
    """Of much noise the sum is noise alone: compare its spread with σ · C · √(responders / (promised − a curious one))."""
    from infl.federation.replica import Replica
    from infl.federation.rules import Rule

    sums: list[torch.Tensor] = []
    original = Replica._apply
    dp = DP(delta=1e-5, noise_multiplier=50.0, clip_norm=1.0, noise=noise, sample_rate=0.5)

    def spying(self: Replica, total: object) -> object:
        self.rule = Rule("spy", at_sum=lambda theta, update, state: sums.append(update.clone()))
        return original(self, total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "_apply", spying)
        run = infl.tl.fit_federated(khan_sites, privacy=dp, **SETTINGS)
    n = sum(round(a.n_obs) for a in khan_sites.values())
    responders, promised = 5, run.settings["min_sites"]
    expected = 50.0 * (responders / (promised - 1) if noise == "distributed" else responders) ** 0.5
    trained = float(run.history["n_sites"].iloc[0])
    assert trained == responders
    scale = np.mean([float(s.std()) for s in sums])
    n_train = expected / scale / 0.5
    assert 0.7 * n <= n_train <= 0.9 * n  # the sum is divided by sampling rate × training samples: 80 % of all
    promised_noise = 50.0 * ((responders - 1) / (promised - 1)) ** 0.5 if noise == "distributed" else 50.0
    assert steps_of([5], dp, promised)[0][0] == pytest.approx(promised_noise)


def test_budget_is_spent_and_not_overspent(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(khan_sites, privacy=DP(epsilon=3.0, delta=1e-4), min_sites=5, **SETTINGS)
    assert 2.9 < run.privacy["epsilon"] <= 3.0
    assert run.history["epsilon"].is_monotonic_increasing
    assert run.history["epsilon"].iloc[-1] == run.privacy["epsilon"]  # a quick bound seemed to overspend
    stored = khan_sites["site_1"].uns["infl"]["privacy"]
    assert stored["epsilon"] == run.privacy["epsilon"]
    assert {"delta", "clip_norm", "noise_multiplier", "sample_rate", "rounds", "accountant", "noise"} <= set(stored)


@pytest.mark.parametrize(("epsilon", "accountant"), [(0.5, "rdp"), (1.0, "prv"), (1e5, "prv")])
def test_noise_is_the_least_that_keeps_the_budget(epsilon: float, accountant: str) -> None:
    noise = noise_for(epsilon, 1e-5, 0.2, 60, accountant)
    assert 0.98 * epsilon < epsilon_of([(noise, 0.2, 60)], 1e-5, accountant) <= epsilon
    assert epsilon_of([(0.98 * noise, 0.2, 60)], 1e-5, accountant) > epsilon


def test_budget_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(SettingsError, match="no noise spends as little as epsilon=1e-09"):
        DP(epsilon=1e-9, delta=1e-5).resolve(1000)


def test_more_responders_than_promised_spend_less(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(khan_sites, privacy=DP(epsilon=3.0, delta=1e-4), min_sites=3, **SETTINGS)
    assert run.privacy["epsilon"] < 2.9


def test_run_ends_before_it_exceeds_its_budget(khan_sites: dict[str, AnnData]) -> None:
    one = epsilon_of([(2.0, 0.2, 1)], 1e-4)
    dp = DP(epsilon=one * 1.6, delta=1e-4, noise_multiplier=2.0, sample_rate=0.2)
    run = infl.tl.fit_federated(khan_sites, privacy=dp, min_sites=5, **(SETTINGS | {"rounds": 50}))
    done = len(run.history)
    assert 1 <= done < 50
    assert run.privacy["epsilon"] <= one * 1.6 < epsilon_of([(2.0, 0.2, done + 1)], 1e-4)


def test_runs_on_the_same_data_add_up_and_the_account_survives(khan_sites: dict[str, AnnData], tmp_path) -> None:
    import anndata

    adata = khan_sites["site_1"]
    assert spent(adata) == 0
    infl.tl.fit_federated(khan_sites, privacy=DP(epsilon=2.0, delta=1e-4), **SETTINGS)
    once = spent(adata)
    infl.tl.fit_federated(khan_sites, privacy=DP(epsilon=2.0, delta=1e-4), seed=1, **SETTINGS)
    assert once < spent(adata) <= 2 * once + 1e-6
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert spent(anndata.read_h5ad(tmp_path / "a.h5ad")) == pytest.approx(spent(adata))


def test_nothing_without_noise_leaves_in_a_private_run(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(khan_sites, privacy=DP(epsilon=2.0, delta=1e-4), **SETTINGS)
    assert set(run.ledger["kind"]) == {"count", "train", "close"}  # the last one is a sum of nothing
    assert not [name for name in run.history if name.startswith("val_")]
    assert set(run.model.private_arrays(run.key)) == set()
    assert run.history["loss"].isna().all()
    assert run.history.index[run.history["best"]].tolist() == [3]  # the last: none was chosen


def test_fit_with_a_module_that_cannot_be_private_is_refused(khan_sites: dict[str, AnnData]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infl.models.phenotype.task.ResidualMLP", _WithBatchNorm)
        with pytest.raises(SettingsError, match="BatchNorm1d.*LayerNorm"):
            infl.tl.fit_federated(khan_sites, privacy=DP(epsilon=2.0, delta=1e-4, accountant="rdp"), **SETTINGS)
    assert all("infl" not in a.uns for a in khan_sites.values())


class _WithBatchNorm(ResidualMLP):
    def __init__(self, *args: int, **options: float) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.norm = nn.BatchNorm1d(self.head.in_features)


class _Scaled(nn.Module):
    """A weight of its own beside a layer, and a buffer: Opacus refuses such a layer."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.gain, self.layer = nn.Parameter(torch.ones(n_in)), nn.Linear(n_in, n_out)
        self.register_buffer("center", torch.ones(n_in))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer((x - self.center) * self.gain)


def test_options_that_were_not_given_suit_noise(khan_sites: dict[str, AnnData]) -> None:
    """A linear model in steps of 2 / √(rounds × features); what was given stays, and so does a task that was made."""
    n_features = khan_sites["site_1"].n_vars
    dp, how = DP(epsilon=8.0, delta=1e-4), {"rounds": 4, "progress": False}

    def options(*args: object, **given: object) -> tuple[int, float]:
        run = infl.tl.fit_federated(khan_sites, *args, privacy=dp, **how, **given)
        return run.model.header.options["width"], run.model.header.options["lr"]

    assert options(target="tumour_class") == (0, float(f"{2 / (4 * n_features) ** 0.5:.2g}"))
    assert options(target="tumour_class", learning_rate=0.5) == (0, 0.5)
    assert options(target="tumour_class", width=64) == (64, 0.01)  # 64 is the default where nothing is private
    assert options(infl.models.Classifier(target="tumour_class", width=8, lr=0.2)) == (8, 0.2)


def test_a_private_fit_of_sixty_patients_is_worth_something_as_it_is(khan_sites: dict[str, AnnData]) -> None:
    """At ε = 8, with nothing set: four classes, noise that no seed fixes. Its control is what suits a fit without noise."""
    import anndata
    from sklearn.metrics import balanced_accuracy_score

    parts = {site: np.arange(a.n_obs) % 4 == 0 for site, a in khan_sites.items()}
    train = {site: a[~parts[site]].copy() for site, a in khan_sites.items()}
    test = anndata.concat([a[parts[site]] for site, a in khan_sites.items()])
    fit = {"validation": 0.0, "min_sites": 5, "progress": False}

    def accuracy(model: str | infl.models.Task, dp: DP, **given: object) -> float:
        run = infl.tl.fit_federated(train, model, privacy=dp, **fit, **given)
        infl.tl.predict(test, run.model, key=run.key)
        return balanced_accuracy_score(test.obs["tumour_class"].astype(str), test.obs["infl_prediction"].astype(str))

    dp, before = (DP(epsilon=8.0, delta=1e-5, **how) for how in ({}, {"sample_rate": 0.2}))
    mean = np.mean([accuracy("classifier", dp, target="tumour_class", seed=seed) for seed in range(5)])
    network = infl.models.Classifier(target="tumour_class", validation=0.0)
    assert mean > 0.5
    assert mean > np.mean([accuracy(network, before, seed=seed) for seed in range(5)]) + 0.1
