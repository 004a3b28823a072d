"""What the key is worth, on real panels: nothing works without it, all works with it, and the dial can be set."""

import copy

import numpy as np
import pytest

import infl
from infl.attacks.keys import one_bit_off
from infl.errors import SettingsError
from infl.keys import Keyring
from infl.models.locked.outputs import infer
from infl.models.pooling import pool

FIT = {"progress": False}


def sites_of(name: str, seed: int) -> tuple[dict, str]:
    if name == "khan":
        return infl.datasets.khan_sites(seed=seed), "tumour_class"
    breast = infl.datasets.breast_tcga()
    adata = breast.mod[name].copy()
    adata.obs["subtype"] = breast.obs["subtype"].reindex(adata.obs_names)
    return infl.pp.split_sites(adata, 5, stratify="subtype", seed=seed), "subtype"


@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("khan", 2),
        pytest.param("khan", 5, marks=pytest.mark.long),
        pytest.param("rna", 5, marks=[pytest.mark.data_dir, pytest.mark.long]),
        pytest.param("protein", 5, marks=[pytest.mark.data_dir, pytest.mark.long]),
    ],
)
def test_only_the_right_key_opens_the_model(name: str, seeds: int) -> None:
    """Mean over seeds; even on the very samples that were trained on."""
    excess: dict[str, list[float]] = {"right": [], "wrong": [], "none": [], "bit": []}
    for seed in range(seeds):
        sites, target = sites_of(name, seed)
        run = infl.tl.fit_federated(sites, target=target, seed=seed, rounds=10, **FIT)
        together, task, panel = pool(sites), run.model.header.build_task(), run.model.header.panel

        def value(key: Keyring | None, verify: bool, run=run, task=task, together=together, panel=panel) -> float:
            return task.score(together, infer(together, run.model, key, verify=verify), panel)["balanced_accuracy"]

        chance = 1 / len(panel["classes"])
        excess["right"].append(value(run.key, True) - chance)
        excess["wrong"].append(np.mean([value(Keyring.create(), False) for _ in range(10)]) - chance)
        excess["none"].append(value(None, True) - chance)
        excess["bit"].append(np.mean([value(one_bit_off(run.key, bit), False) for bit in (3, 100, 255)]) - chance)
    mean = {who: float(np.mean(values)) for who, values in excess.items()}
    assert mean["right"] > 0.5
    assert mean["wrong"] <= 0.10
    assert mean["none"] <= 0.10
    assert mean["bit"] <= 0.10


@pytest.fixture(scope="module")
def sites() -> dict:
    return infl.datasets.khan_sites()


@pytest.fixture(scope="module")
def run(sites: dict):
    return infl.tl.fit_federated(sites, target="tumour_class", rounds=12, **FIT)


def test_no_lock_is_the_control(khan_sites: dict) -> None:
    run = infl.tl.fit_federated(khan_sites, target="tumour_class", strength=0.0, rounds=6, **FIT)
    with pytest.warns(infl.errors.InflWarning, match="no key"):
        infl.tl.predict(khan_sites["site_1"], run.model, key_added="thief")
    assert (khan_sites["site_1"].obs["thief_prediction"] == khan_sites["site_1"].obs["tumour_class"]).mean() > 0.9


def test_calibration_reaches_what_was_asked_for_and_keeps_the_model(run, sites: dict) -> None:
    from infl.tl._calibrate import _Probe

    model = copy.deepcopy(run.model)
    before = {n: t.clone() for n, t in model.effective(run.key).items()}
    strength = infl.tl.calibrate_lock(model, sites, key=run.key, no_key=0.7)
    assert 0 < strength < 1
    assert model.header.strength == strength
    assert abs(_Probe(model, sites, run.key).value(model) - 0.7) <= 0.05
    for name, tensor in model.effective(run.key).items():
        np.testing.assert_allclose(tensor, before[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingsError, match="no_key=1.5"):
        infl.tl.calibrate_lock(model, sites, key=run.key, no_key=1.5)


def test_curve_falls_without_the_key_and_stays_with_it(run, sites: dict) -> None:
    curve = infl.tl.lock_curve(run.model, sites, key=run.key, strengths=(0, 0.3, 1), n_keys=8, validation_only=False)
    table = curve.pivot_table(index="strength", columns="who", values="balanced_accuracy")
    assert (table["right key"] > 0.95).all()
    for who in ("no key", "wrong key"):
        assert table[who].iloc[0] > 0.95
        assert table[who].iloc[0] > table[who].iloc[1] > table[who].iloc[2] - 0.1
        assert table[who].iloc[2] < 0.45
    assert curve.attrs["chance"] == 0.25


@pytest.mark.long
def test_thief_has_no_head_start_and_would_have_one_without_the_lock(khan_sites: dict) -> None:
    from infl.attacks.thief_fine_tuning import head_start

    row = head_start(khan_sites, "tumour_class", samples=(8,), seeds=8)[8]
    assert np.mean(row["unlocked"]) > np.mean(row["scratch"]) + 0.15
    assert np.mean(row["difference"]) <= 0.02 or row["low"] <= 0
