"""``study.toml``: what can be wrong in it is one line with the line's number, before any work."""

from pathlib import Path

import pytest

from infl.deploy.study.file import TEMPLATE, StudyFile
from infl.deploy.study.specification import Study, step_words
from infl.deploy.study.steps import Step
from infl.errors import SettingsError

GOOD = TEMPLATE.replace('fingerprint = ""', 'fingerprint = "abcd"')


def read(folder: Path, text: str) -> StudyFile:
    path = folder / "study.toml"
    path.write_text(text)
    return StudyFile.read(path)


def test_the_template_is_a_study(tmp_path: Path) -> None:
    study = read(tmp_path, GOOD).study()
    assert [step.do for step in study.steps] == [
        *("pp.qc_summary", "pp.normalize_total", "pp.log1p", "pp.highly_variable_genes", "pp.pca", "tl.cluster")
    ]
    assert study.steps[-1].arguments == {"n_clusters": 8, "use_rep": "X_pca"}
    assert Study.from_json(study.to_json()) == study
    again = read(tmp_path, GOOD).study()
    assert again.digest != study.digest and again.specification == study.specification
    assert len(step_words(study)) == 6


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('do = "pp.log1p"', 'do = "pp.log1q"', "step.do: 'pp.log1q' is no step; did you mean 'pp.log1p'?"),
        ('do = "pp.log1p"', 'doo = "pp.log1p"', "do is missing: name the function"),
        ('do = "pp.log1p"', 'do = ["pp.log1p"]', "step.do: ['pp.log1p'] is no step"),
        ("n_comps = 50", "n_comps = 0", "step.n_comps: n_comps=0: give a whole number of at least 1"),
        ("n_comps = 50", "n_compos = 50", "step.n_compos: n_compos is not known; did you mean n_comps?"),
        ("n_comps = 50", "copy = true", "step.copy: copy is not known"),
        ("n_comps = 50", 'mask_var = ["a"]', "step.mask_var: mask_var=['a']: give the name of one var column"),
        ('use_rep = "X_pca"', 'method = "leiden"', "method='leiden': give one of 'kmeans', 'gmm', 'spheres', 'ward'"),
        ('do = "pp.log1p"', 'do = "pp.filter_cells"', "step.do: 0 bounds are given: give one of"),
        ('do = "pp.log1p"', 'do = "tl.score_genes"', "step.do: tl.score_genes needs gene_list="),
        (', "hospital_c"', "", "sites: has 2: give at least 3"),
        ('"hospital_b", "hospital_c"', '"hospital_a", "hospital_c"', "two sites of the study have one name"),
        ('"abcd"', '""', "key.fingerprint: is empty: fill it in"),
        ("version = 1", "version = 0", "key.version: give at least 1"),
        ("version = 1", 'version = "one"', "key.version: give a whole number"),
        ('"abcd"', "1", "key.fingerprint: give a text, in quotes"),
        ('name = "my_study"', 'name = "../up"', "name"),
        ("# [waiting]", "[wait]\n# ", "wait: is not known"),
    ],
)
def test_what_is_wrong_has_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(SettingsError) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert says in str(error.value)
    line = GOOD[: GOOD.index(old)].count("\n") + 1 - ("missing" in says)  # what is missing is said at its table
    assert f"line {line}: " in str(error.value) or says == "two sites of the study have one name"


def test_a_study_without_steps(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="step"):
        read(tmp_path, GOOD[: GOOD.index("# Steps")])


def test_text_from_anybody_is_no_study() -> None:
    good = Study.new("first", ["a", "b", "c"], [Step.read("pp.log1p", {})], 1, "abcd").to_json()
    for old, new in (
        ('"pp.log1p"', '"os.system"'),
        ('"pp.log1p"', '["pp.log1p"]'),
        ('"arguments": {}', '"arguments": {"key": "x"}'),
        ('"arguments": {}', '"arguments": 3'),
        ('"first"', '"../../first"'),
        ('"first"', "3"),
        ('"key_version": 1', '"key_version": "1"'),
        ('"key_version": 1', '"key_version": true'),
        ('["a", "b", "c"]', '["a", "b"]'),
        ('["a", "b", "c"]', '["a", "b", "a"]'),
        ('["a", "b", "c"]', '["a", "b", 3]'),
        ('"run": "', '"run": "x'),
        ('"run": ', '"more": 1, "run": '),
        ("{", "["),
    ):
        assert old in good
        with pytest.raises(SettingsError):
            Study.from_json(good.replace(old, new, 1))
    for text in ("", "[]", "{}", "null", "3", "[" * 100_000):
        with pytest.raises(SettingsError):
            Study.from_json(text)
