"""Base models: named by name and digest, never by a folder; what cannot be adapted is one line."""

from pathlib import Path

import numpy as np
import pytest
from tests.models.adapter.conftest import OPTIONS, TASKS, fit, write_base

import infl
from infl.errors import InflError, SettingsError
from infl.models.registry import make_task, task_from_json

pytestmark = [
    pytest.mark.needs("peft", "transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]


def test_an_adapter_of_another_base_model_is_refused(khan_sites, base, tmp_path):
    other = write_base(tmp_path, seed=1)
    task = make_task("adapter", {"target": TASKS, "base": base} | OPTIONS)
    panel = task.agree(khan_sites)
    with pytest.raises(InflError, match="belongs to another base model"):
        make_task("adapter", {"target": TASKS, "base": other} | OPTIONS).build(panel)


def test_a_file_names_its_base_and_no_folder_is_followed(khan_sites, base, tmp_path, monkeypatch):
    run, key = fit(khan_sites, base)
    name = Path(base).name
    assert run.model.header.options["base"] == name
    monkeypatch.setattr(infl.settings, "bases", {})
    with pytest.raises(SettingsError, match=r"infl\.settings\.bases\['"):
        infl.tl.predict(khan_sites["site_1"], run.model, key=key)
    with pytest.raises(SettingsError, match="is not known here"):
        task_from_json("adapter", {"target": TASKS, "base": str(base)})
    assert infl.settings.bases == {}
    infl.settings.bases[name] = base
    infl.tl.predict(khan_sites["site_1"], run.model, key=key)


def test_a_file_is_told_where_its_base_is(khan_sites, base, tmp_path, monkeypatch):
    run, key = fit(khan_sites, base)
    adata = khan_sites["site_1"].copy()
    infl.tl.predict(adata, run.model, key=key)
    run.save(tmp_path / "model.safetensors")
    elsewhere, other = tmp_path / "elsewhere", tmp_path / "other"
    write_base(elsewhere), write_base(other, seed=1)
    monkeypatch.setattr(infl.settings, "bases", {})
    with pytest.raises(SettingsError, match="another base model"):
        infl.load_model(tmp_path / "model.safetensors", base=other)
    with pytest.raises(SettingsError, match="no folder with a transformers model"):
        infl.load_model(tmp_path / "model.safetensors", base=tmp_path)
    assert infl.settings.bases == {}
    model = infl.load_model(tmp_path / "model.safetensors", base=elsewhere)
    assert infl.settings.bases == {Path(base).name: elsewhere.resolve()}
    again = khan_sites["site_1"].copy()
    infl.tl.predict(again, model, key=key)
    np.testing.assert_array_equal(again.obsm["X_infl"], adata.obsm["X_infl"])
    plain = infl.tl.fit_federated(khan_sites, target="tumour_class", rounds=1, progress=False)
    plain.save(tmp_path / "plain.safetensors")
    with pytest.raises(SettingsError, match="has no base"):
        infl.load_model(tmp_path / "plain.safetensors", base=elsewhere)


def test_a_quantised_base_is_refused_in_one_line(tmp_path, base):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "quantization_config": {}}')
    with pytest.raises(SettingsError, match="is quantised"):
        make_task("adapter", {"target": TASKS, "base": str(tmp_path)}).agree({})


def test_two_folders_with_one_name(base, tmp_path, monkeypatch):
    monkeypatch.setattr(infl.settings, "bases", {})
    make_task("adapter", {"target": TASKS, "base": str(base)})
    other = tmp_path / Path(base).name
    write_base(other)
    with pytest.raises(SettingsError, match="choose a name"):
        make_task("adapter", {"target": TASKS, "base": str(other)})
    infl.settings.bases["other"] = other
    assert make_task("adapter", {"target": TASKS, "base": "other"}).base == "other"
