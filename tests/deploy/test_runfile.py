"""The file that coordinator and sites share."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from infl.deploy.remote import Patience
from infl.deploy.runfile import RunFile
from infl.deploy.specification import is_specified, specification_digest
from infl.errors import FileError, InflError, SettingsError
from infl.federation.agreement import Agreement


def written(folder: Path, change: tuple[str, str] | None = None) -> Path:
    text = RunFile.template("classifier")
    text = text.replace('target = ""', 'target = "label"').replace('fingerprint = ""', 'fingerprint = "abcd-efgh"')
    if change is not None:
        text, n = re.subn(change[0], change[1], text, count=1, flags=re.MULTILINE)
        assert n == 1
    (folder / "panel.json").write_text(json.dumps({"features": ["g1", "g2"], "classes": ["a", "b"]}))
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_template_becomes_a_run(tmp_path: Path) -> None:
    run = RunFile.read(written(tmp_path))
    agreement = run.agreement()
    assert (agreement.task, agreement.options["target"], agreement.rounds) == ("classifier", "label", 20)
    assert (agreement.key_version, agreement.fingerprint, agreement.seal) == (1, "abcd-efgh", "pairwise")
    assert agreement.panel == {"features": ["g1", "g2"], "classes": ["a", "b"]}
    assert run.waiting == Patience()


def test_two_readers_agree_on_all_but_the_random_name(tmp_path: Path) -> None:
    path = written(tmp_path)
    first, second = (RunFile.read(path).agreement() for _ in range(2))
    assert first.run != second.run
    assert specification_digest(first, any_seed=True) == specification_digest(second, any_seed=True)
    other = RunFile.read(written(tmp_path, ("rounds = 20", "rounds = 21"))).agreement()
    assert specification_digest(first, any_seed=True) != specification_digest(other, any_seed=True)


def test_the_seed_is_drawn_for_each_run_unless_it_is_given(tmp_path: Path) -> None:
    path = written(tmp_path)
    file, copy = RunFile.read(path), RunFile.read(path)
    runs = [file.agreement() for _ in range(3)]
    assert len({run.seed for run in runs}) == 3
    assert all(is_specified(run, copy.specification) for run in runs)
    assert all(Agreement.from_json(run.to_json()) == run for run in runs)
    given = RunFile.read(written(tmp_path, ("# seed = 1 ", "seed = 7 #")))
    assert {given.agreement().seed for _ in range(2)} == {7}
    assert is_specified(given.agreement(), given.specification)
    assert not is_specified(replace(given.agreement(), seed=8), given.specification)
    for run in (*runs, given.agreement()):
        assert not is_specified(replace(run, rounds=21), file.specification)
    assert not is_specified(runs[0], given.specification)


def test_options_of_the_task_and_privacy(tmp_path: Path) -> None:
    path = written(tmp_path, ("# width = 64", "width = 8"))
    path.write_text(path.read_text() + "\n[privacy]\nepsilon = 8.0\ndelta = 1e-5\n")
    path.write_text(path.read_text().replace('seal = "pairwise"', 'seal = "group"'))
    with pytest.raises(SettingsError, match='which has only a share of the noise: use seal="pairwise"'):
        RunFile.read(path).agreement()
    path.write_text(path.read_text().replace('seal = "group"', 'seal = "pairwise"'))
    agreement = RunFile.read(path).agreement()
    assert agreement.options["width"] == 8
    assert agreement.dp is not None
    assert agreement.dp.epsilon == 8.0
    assert agreement.options["standardise"] == "sample"
    assert agreement.options["lr"] == 0.01  # a network's, under noise
    path.write_text(path.read_text().replace("\nwidth = 8", ""))
    assert RunFile.read(path).agreement().options["width"] == 0


def test_waiting(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text() + "\n[waiting]\nsilence = 3\n")
    assert RunFile.read(path).waiting == Patience(silence=3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("rounds = 20", "rounds = 0"), r"line \d+: fit\.rounds: .*whole number of at least 1"),
        (("rounds = 20", 'rounds = "many"'), r"fit\.rounds: .*whole number"),
        (("rounds = 20", "round = 20"), r"fit\.round: is not known"),
        (
            ("rounds = 20", 'init = "a.safetensors"'),
            r"fit\.init: goes with no fit between machines, which begins with fresh",
        ),
        (("strength = 1.0", "strength = -1"), r"fit\.strength"),
        (('seal = "pairwise"', 'seal = "wax"'), r"fit\.seal: .*'pairwise'"),
        (("# seed = 1 ", "aggregation_options = 3 #"), r"fit\.aggregation_options: .*dict"),
        ((r"# \[waiting\].*$", "[waiting]\nfactor = 0.5"), r"line \d+: waiting\.factor: .*at least 1"),
        ((r"# \[privacy\].*$", "[privacy]\ndelta = 2.0"), r"line \d+: privacy\.delta: "),
        ((r"# \[privacy\].*$", "[privacy]\ndelta = 1e-5"), r"line \d+: privacy: give epsilon="),
        (('^name = "my_run"', 'name = "../x"'), r"line 2: name: "),
        ((r"^sites = .*$", ""), "sites: is missing"),
        ((r"^sites = .*$", "sites = ["), r"run\.toml: .*line"),
        ((r'^file = "panel.json"', 'files = "panel.json"'), r"panel\.file"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        RunFile.read(written(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_the_line_is_that_of_the_field(tmp_path: Path) -> None:
    path = written(tmp_path, ("local_epochs = 1", "local_epochs = 0"))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("local_epochs"))
    with pytest.raises(SettingsError, match=rf"run\.toml, line {line}: fit\.local_epochs"):
        RunFile.read(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('name = "classifier"', 'name = "classifer"'), "'classifer' is not known"),
        (("# width = 64", "widht = 64"), "did you mean 'width'"),
        ((r"^\[key\]\nversion = 1\nfingerprint = .*$", ""), r"\[key\] is missing"),
    ],
)
def test_what_only_the_task_and_the_engine_know(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    with pytest.raises(InflError, match=why):
        RunFile.read(written(tmp_path, change)).agreement()


def test_panel_that_is_none(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "panel.json").write_text("[]")
    with pytest.raises(FileError, match=r"panel\.json is no panel: write it with `infl run panel`"):
        RunFile.read(path).agreement()
    (tmp_path / "panel.json").unlink()
    with pytest.raises(FileError, match=r"cannot read .*panel\.json"):
        RunFile.read(path).agreement()
