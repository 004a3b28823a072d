"""Personal models: trained on from a run, chosen by its metric, stored under its key."""

import pandas as pd
import pytest
from tests.tl.conftest import cohort, fit

import infl
from infl.errors import KeyringError


def test_a_personal_model_is_trained_on_and_stored_under_the_runs_key(run) -> None:
    by_run, by_hand = (
        infl.tl.personalise(run, cohort(), epochs=2),
        infl.tl.personalise(run.model, cohort(), key=run.key, epochs=2),
    )
    pd.testing.assert_frame_equal(by_run.table, by_hand.table)
    for model in by_run.models.values():
        assert model.private_arrays(None) == {} and model.private_arrays(run.key)
    for use in (infl.tl.personalise, infl.tl.site_metrics):
        arguments = (cohort(), run.model) if use is infl.tl.personalise else (run.model, cohort())
        with pytest.raises(KeyringError, match="model= is locked with key .*pass key="):
            use(*arguments)
    with pytest.raises(KeyringError, match="pass key="):
        infl.tl.calibrate_lock(run.model, cohort())


def test_personal_models_are_chosen_by_the_headline_metric(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from infl.models.classifier import Classifier

    told = iter([(0.5, 0.66), (0.4, 0.54), (0.6, 0.66), (0.7, 0.7), (0.3, 0.6)] * 3)  # loss, balanced accuracy
    original = Classifier.summarise

    def summarise(self, sums):
        loss, accuracy = next(told)
        return original(self, sums) | {"loss": loss, "balanced_accuracy": accuracy}

    monkeypatch.setattr(Classifier, "summarise", summarise)
    table = infl.tl.personalise(run, cohort(), epochs=4).table
    assert table["epochs"].tolist() == [3, 3, 3]
    assert table["balanced_accuracy_after"].tolist() == [0.7] * 3


def test_personal_training_clips_gradients() -> None:
    moved = {}
    for clip in (None, 1e-8):
        run = fit(cohort(), optimiser="sgd", lr=0.1, grad_clip=clip, rounds=1, seed=0)
        before = run.model.effective(run.key)
        own = infl.tl.personalise(run, cohort(), epochs=3).models
        moved[clip] = max(
            float((weight - before[name]).abs().max())
            for model in own.values()
            for name, weight in model.effective(run.key).items()
        )
    assert moved[1e-8] < 1e-4 < moved[None]  # what is left is the decay of weights
