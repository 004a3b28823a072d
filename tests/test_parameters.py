"""Every declared parameter of public functions and tasks, over a table of wrong and of right extreme values."""

import dataclasses
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

import infl
from infl._files import check_file_names, file_name
from infl._parameters import (
    PARAMETERS,
    Choice,
    Flag,
    Having,
    Jobs,
    Key,
    Kind,
    Names,
    Options,
    Real,
    Renamed,
    Several,
    Text,
    Whole,
)
from infl.errors import FileError, InflError, SettingsError
from infl.federation.checkpoint import Checkpoint
from infl.models.registry import TASKS, make_task, task_class
from infl.privacy import DP

PUBLIC = [getattr(module, name) for module in (infl.pp, infl.tl, infl.pl) for name in module.__all__]
FUNCTIONS = [f for f in PUBLIC if hasattr(f, "parameters")]
DECLARED = [
    *((f.__name__, name, kind) for f in FUNCTIONS for name, kind in f.parameters.items()),
    *((task, name, kind) for task in TASKS for name, kind in task_class(task).parameters.items()),
    *(("DP", name, kind) for name, kind in DP.parameters.items()),
]
NEVER: list[Any] = [object(), {1.5}, b"a", 1j]
MANY_LINES = "a\nb" * 40


def wrong_values(kind: Kind) -> list[Any]:
    """Values that a parameter of this kind must not be."""
    wrong = list(NEVER)
    match kind:
        case Whole():
            wrong += ["a", "", [], True, 1.5, math.nan, np.float64(1.5)]
            wrong += [] if kind.low is None else [kind.low - 1, np.int64(kind.low - 1)]
            wrong += [] if kind.high is None else [kind.high + 1]
        case Jobs():
            wrong += [0, "a", 1.5, False]
        case Real():
            wrong += ["a", "", [], True, math.nan, np.float32("nan"), *([] if kind.infinite else [math.inf, -math.inf])]
            wrong += [kind.low - 1] if kind.low > -math.inf else []
            wrong += [kind.high + 1] if kind.high < math.inf else []
            wrong += [kind.low] if kind.open in ("low", "both") else []
            wrong += [kind.high] if kind.open in ("high", "both") else []
        case Flag():
            wrong += [0, 1, "", "yes", [], 1.0]
        case Choice():
            wrong += [False, True, 0, "", [], "no such name", [kind.names[0]], MANY_LINES]
        case Key():
            wrong += [3, "", " ", ".", "..", "a/b", "/", "a\\b", "a\nb", False, ["a"]]
        case Text():
            wrong += [3, ["a"], False, *([] if kind.empty else [""])]
        case Names():
            wrong += [3, ["a", "a"], [1], False, {"a": 1}]
        case Several():
            wrong += ["a", [], [1.5, "a"], True, [0, 0], {}]
        case Renamed():
            wrong += [3, "a", {1: "b"}, {"a": ""}, {"a": None}, {"a": "nan"}]
        case Options():
            wrong += [3, "a", {1: 2}, ["a"]]
        case Having():
            wrong += [3, "c.key", 8, "x.h5ad", False]
    return wrong if kind.none else [None, *wrong]


def right_values(kind: Kind) -> list[Any]:
    """Extreme values that a parameter of this kind may be."""
    right: list[Any] = [None] if kind.none else []
    match kind:
        case Whole():
            low = kind.low or 0
            right += [low, np.int64(low), np.array(low), kind.high or 10**6]
        case Jobs():
            right += [1, -1, np.int8(2)]
        case Real():
            right += [
                np.float32(kind.low + 0.25),
                kind.low + 0.25,
                *([] if kind.open in ("low", "both") else [kind.low]),
            ]
        case Flag():
            right += [True, np.bool_(False)]
        case Choice():
            right += [*kind.names, np.str_(kind.names[0])]
        case Text():
            right += ["a", np.str_("a"), *([Path("a")] if kind.path else []), *([""] if kind.empty else [])]
        case Key():
            right += ["infl", "a b", "é.1"]
        case Names():
            right += ["a", ["a", "b"], np.array(["a"])]
        case Several():
            low = getattr(kind.kind, "low", None) or 0
            low, step = (low + 0.25, 0.5) if getattr(kind.kind, "open", "") else (low, 1)
            right += [[low], np.array([low, low + step]), (low,)]
        case Renamed():
            right += [{}, {"a": "b"}]
        case Options():
            right += [{}, {"a": np.float32(0.5)}]
    return right


@pytest.mark.parametrize(("owner", "name", "kind"), DECLARED, ids=lambda x: x if isinstance(x, str) else "")
def test_every_parameter_refuses_and_takes(owner: str, name: str, kind: Kind) -> None:
    for value in wrong_values(kind):
        with pytest.raises(InflError) as error:
            kind.read(name, value)
        line = str(error.value)
        assert line.startswith(f"{name}=") and ": give " in line
        assert "\n" not in line and len(line) < 250
    for value in right_values(kind):
        kind.read(name, value)


@pytest.mark.parametrize("name", TASKS)
def test_every_option_of_a_task_is_declared_and_its_default_taken(name: str) -> None:
    cls = task_class(name)
    options = {f.name for f in dataclasses.fields(cls) if f.init}
    assert options - set(cls.parameters) <= {"graph"}  # which is checked edge by edge
    assert set(cls.parameters) <= options
    assert make_task(name, {}).options() == cls().options()


def test_functions_with_a_door() -> None:
    assert {f.__name__ for f in FUNCTIONS} >= {"fit_federated", "compare", "predict", "embed", "personalise", "audit"}


@pytest.mark.parametrize("function", [f for f in PUBLIC if inspect.isfunction(f)], ids=lambda f: f.__name__)
def test_one_word_for_one_thing(function: Any) -> None:
    names = list(inspect.signature(function).parameters)
    assert not {"random_state", "rng", "generator", "jobs", "n_threads", "n_processes", "run_model"} & set(names)
    if "sites" in names and function.__module__.startswith(("infl.pp.", "infl.tl.")):
        assert "site_key" in names  # whatever takes sites takes one object, too
    if {"model", "sites"} <= set(names) and function.__name__ not in (
        "fit_federated",
        "compare",
        "tune",
    ):  # a model's name
        assert names[:2] == ["model", "sites"]


WRONG = [
    *({"seal": value} for value in (False, 0, "", [], None, True)),
    *({"lock": value} for value in (False, 0, "", [], True)),
    *({"strength": value} for value in (-1, 2, "a", math.nan)),
    *({"min_sites": value} for value in (False, 0, "3", 2.0)),
    *({"participation": value} for value in (0, "a", math.nan)),
    *({"key_added": value} for value in ("a/b", 3, "", ".")),
    *({"model": value} for value in (3, infl.models.Classifier)),
    {"privacy": 8}, {"privacy": DP}, {"key": "c.key"}, {"key": False}, {"resume": 1}, {"checkpoint": ""}, {"rounds": 0},
    {"local_epochs": -1}, {"lr": -1}, {"lr": "a"}, {"batch_size": 0}, {"width": -5}, {"dropout": 2}, {"target": ["a"]},
    {"lr": 0.1, "learning_rate": 0.1}, {"optimizer": "adam"}, {"standardize": ""}, {"balance": 0}, {"layer": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_a_fit_refuses_in_one_line_and_changes_nothing(khan_sites: dict[str, AnnData], options: dict[str, Any]) -> None:
    with pytest.raises(InflError) as error:
        infl.tl.fit_federated(khan_sites, **({"target": "tumour_class", "progress": False} | options))
    assert "\n" not in str(error.value)
    assert all("infl" not in adata.uns and not list(adata.obsm) for adata in khan_sites.values())


@pytest.mark.parametrize("options", [{"test_share": 0}, {"seeds": 0}, {"seeds": [0, 0]}, {"seeds": "a"}, {"n_jobs": 0},
                                     {"methods": []}, {"strength": ""}, {"holdout": False}], ids=str)  # fmt: skip
def test_compare_refuses(khan_sites: dict[str, AnnData], options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        infl.tl.compare(khan_sites, target="tumour_class", **options)


def test_what_numpy_made_gives_the_same_run(khan_sites: dict[str, AnnData]) -> None:
    def fit(**options: Any) -> Any:
        run = infl.tl.fit_federated(khan_sites, target="tumour_class", progress=False, **options)
        return run.settings["options"], run.history

    options, history = fit(rounds=1, seed=3, lr=0.002, width=8, balance=True)
    same, again = fit(
        rounds=np.int64(1), seed=np.array(3), learning_rate=np.float32(0.002), width=np.int8(8), balance=np.bool_(True)
    )
    assert same == options and again.equals(history)


def test_hints(khan_sites: dict[str, AnnData]) -> None:
    for model, options, said in (
        ("scvi", {"target": "x"}, "takes no target=: leave it out"),
        ("classifier", {"init": 3}, "init= takes run.model"),
        ("adapter", {"target": ["a", "a"]}, "each of them once"),
    ):
        with pytest.raises(SettingsError, match=said):
            infl.tl.fit_federated(khan_sites, model, **options)


def test_other_spellings() -> None:
    task = make_task("classifier", {"optimizer": "sgd", "standardize": "rank", "learning_rate": 1})
    assert (task.optimiser, task.standardise, task.lr) == ("sgd", "rank", 1)
    assert make_task(task, {"learning_rate": 0.5}).lr == 0.5
    assert infl.models.Classifier(target="a", optimizer="sgd", learning_rate=1, standardize="rank") == make_task(
        task, {"target": "a"}
    )
    with pytest.raises(SettingsError, match="lr= and its other spelling"):
        infl.models.Classifier(target="a", lr=0.1, learning_rate=0.1)


def test_arguments_that_do_not_fit_name_the_function(khan_sites: dict[str, AnnData]) -> None:
    with pytest.raises(TypeError, match=r"rank_genes_groups\(\) got an unexpected keyword argument 'copy'"):
        infl.tl.rank_genes_groups(khan_sites, "tumour_class", copy=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"cox\(\) missing a required argument: 'formula'"):
        infl.tl.cox(khan_sites, "months", "died")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["", 3, None, ("a",)])
def test_names_of_sites(khan_sites: dict[str, AnnData], name: Any) -> None:
    with pytest.raises(InflError, match="site name"):
        infl.tl.fit_federated({name: khan_sites["site_1"], **khan_sites}, target="tumour_class")


def test_files_of_sites_stay_in_their_folder(khan_sites: dict[str, AnnData], tmp_path: Path) -> None:
    names = ["../../up", "ward/1", ".", "..", "a:b", "%2E", "con\n"]
    assert len({file_name(name) for name in names}) == len(names)
    sites = dict(zip(["../../up", "ward/1", "."], khan_sites.values(), strict=False))
    folder = tmp_path / "deep" / "er" / "run"
    infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False, checkpoint=folder)
    assert {path.parent.name for path in tmp_path.rglob("*.ledger")} == {"ledgers"}
    assert len(list((folder / "ledgers").iterdir())) == 3


@pytest.mark.parametrize("names", [["A", "a"], ["\u00e9", "e\u0301"], ["x" * 300]])
def test_files_that_would_be_one(names: list[str]) -> None:
    with pytest.raises(FileError):
        check_file_names(names)


def test_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Checkpoint("~/run").folder == tmp_path / "run"


def test_the_shared_table_has_no_switch_by_truth() -> None:
    assert {name for name, kind in PARAMETERS.items() if isinstance(kind, Choice) and kind.none} == {"lock"}
