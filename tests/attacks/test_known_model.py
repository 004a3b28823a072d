"""Known plaintext: what opens a model, and what does not."""

import numpy as np
import pytest
import torch

from infl.attacks import AuditContext, Status
from infl.attacks.known_model import (
    KnownModel,
    fitted_field,
    guesses_from_start,
    opened_like,
    opened_with,
    shuffled,
)
from infl.nn.lock import Field


def test_one_opened_model_opens_another_under_the_same_factors() -> None:
    torch.manual_seed(0)
    m, old, new = torch.randn(20).exp(), torch.randn(20), torch.randn(20)
    torch.testing.assert_close(opened_like({"w": new / m}, {"w": old / m}, {"w": old})["w"], new)


@pytest.mark.parametrize("earlier", [2, 3])
def test_two_models_of_one_salt_open_a_third_and_of_three_salts_do_not(earlier: int) -> None:
    """Why a salt is drawn for each model."""
    torch.manual_seed(0)
    weights = [{"w": 0.1 * torch.randn(30, 40)} for _ in range(earlier + 1)]
    for salts, opens in ((["one"] * 4, True), (["one", "two", "three", "four"], False)):
        stored = [
            {"w": Field(bytes(32), salt.encode()).lock("w", w["w"])} for w, salt in zip(weights, salts, strict=False)
        ]
        field = fitted_field(list(zip(stored[1:], weights[1:], strict=True)))
        guess, mean = opened_with(stored[0], field)["w"], torch.stack([w["w"] for w in weights[1:]]).mean(0)
        near = torch.corrcoef(torch.stack([(guess - mean).ravel(), (weights[0]["w"] - mean).ravel()]))[0, 1]
        assert (near > 0.999) == opens


def test_start_opens_a_multiplicative_lock_and_not_the_affine_one() -> None:
    """Why the lock has an additive part: most weights stay near their public start."""
    torch.manual_seed(0)
    initial = {"w": 0.1 * torch.randn(60, 60)}
    trained = {"w": initial["w"] * (1 + 0.1 * torch.randn(60, 60))}
    field = Field(bytes(range(32)), b"salt")
    m, _ = field.factors("w", (60, 60))

    def nearest(stored: torch.Tensor) -> float:
        guesses = guesses_from_start({"w": stored}, initial)
        return max(
            float(torch.corrcoef(torch.stack([g["w"].ravel(), trained["w"].ravel()]))[0, 1])
            for name, g in guesses.items()
            if name != "nearest"
        )

    assert nearest(trained["w"]) > 0.99
    assert nearest((trained["w"] / m).float()) > 0.8
    blind = float(nearest(shuffled({"w": field.lock("w", trained["w"])}, np.random.default_rng(0))["w"]))
    assert nearest(field.lock("w", trained["w"])) < blind + 0.1


def test_shuffled_keeps_the_numbers() -> None:
    before = {"w": torch.arange(12.0).view(3, 4)}
    after = shuffled(before, np.random.default_rng(0))["w"]
    assert after.shape == (3, 4)
    assert sorted(after.ravel().tolist()) == list(range(12))
    assert not torch.equal(after, before["w"])


def test_default_stays_closed(default: AuditContext, unprotected: AuditContext) -> None:
    assert not KnownModel().applies(unprotected)
    findings = KnownModel().run(default)
    assert len(findings) == 4 and {f.status for f in findings} <= {Status.HOLDS, Status.INCONCLUSIVE}
    assert findings[0].control > 0.95
    n = 4 * len(default.run.model.stored)
    assert f"{n} tensors had {n} salts" in findings[0].note
