"""One set of settings, whichever way a run is asked for."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest
from anndata import AnnData

import infl
from infl.deploy.runfile import RunFile
from infl.errors import SettingsError
from infl.federation.agreement import Agreement
from infl.federation.settings import Protection, RunSettings
from infl.keys import Keyring
from infl.privacy.dp import DP

TASK = infl.models.Classifier(target="tumour_class")
OTHERS = RunSettings(
    rounds=7,
    local_epochs=2,
    aggregation="qfedavg",
    aggregation_options={"q": 0.5},
    participation=1.0,
    patience=3,
    lock="published",
    strength=0.5,
    seal="pairwise",
    min_sites=4,
    seed=11,
    bits=8,
)
"""None of what can be said is as it is by default."""


def test_a_run_file_can_say_all_that_a_notebook_can(tmp_path: Path) -> None:
    import json

    said = {f.name: getattr(OTHERS, f.name) for f in fields(OTHERS) if f.name not in ("privacy", "aggregation_options")}
    lines = [f"{name} = {json.dumps(value)}" for name, value in said.items()]
    text = "\n".join(
        [
            'name = "x"\nsites = ["a", "b", "c", "d"]\n[model]\nname = "classifier"\n[panel]\nfile = "panel.json"\n[fit]',
            *lines,
            "aggregation_options = { q = 0.5 }",
        ]
    )
    (tmp_path / "run.toml").write_text(text)
    assert RunFile.read(tmp_path / "run.toml").fit == OTHERS


def test_rule_options_that_are_names_can_be_said_in_a_file(tmp_path: Path) -> None:
    text = RunFile.template("classifier").replace(
        "patience = 0", 'aggregation_options = { weight = "sites" }\npatience = 0'
    )
    (tmp_path / "run.toml").write_text(text.replace('fingerprint = ""', 'fingerprint = "abcd"'))
    assert RunFile.read(tmp_path / "run.toml").fit.aggregation_options == {"weight": "sites"}


def test_settings_come_back_from_a_result(khan_sites: dict[str, AnnData]) -> None:
    key, panel = Keyring.create(), TASK.agree(khan_sites)
    again = RunSettings.of(Agreement.new(TASK, panel, khan_sites, key, OTHERS).settings())
    assert again == OTHERS
    private = RunSettings(rounds=3, seal="pairwise", privacy=DP(noise_multiplier=2.0, delta=1e-3, colluders=3))
    agreement = Agreement.new(TASK.for_dp(), panel, khan_sites, key, private)
    assert agreement.min_sites == 4
    assert RunSettings.of(agreement.settings()).privacy == agreement.dp


def test_protection_is_given_once(khan_sites: dict[str, AnnData]) -> None:
    options = {"target": "tumour_class", "rounds": 1, "progress": False, "seed": 3}
    guard = Protection(lock="published", strength=0.25, seal="group", min_sites=4)
    grouped = infl.tl.fit_federated(khan_sites, protection=guard, **options).settings
    single = infl.tl.fit_federated(khan_sites, **asdict(guard), **options).settings
    drawn = ("run", "salt", "fingerprint")
    assert {k: v for k, v in grouped.items() if k not in drawn} == {k: v for k, v in single.items() if k not in drawn}
    assert (grouped["lock"], grouped["strength"], grouped["min_sites"]) == ("published", 0.25, 4)
    with pytest.raises(SettingsError, match=r"protection= and min_sites= are both given"):
        infl.tl.fit_federated(khan_sites, protection=guard, min_sites=3, **options)
    with pytest.raises(SettingsError, match=r"protection: strength=2"):
        Protection(strength=2)
    with pytest.raises(SettingsError, match=r"protection='group': give infl.Protection"):
        infl.tl.fit_federated(khan_sites, protection="group", **options)
