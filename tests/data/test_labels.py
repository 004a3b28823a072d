"""One place says what a label, a missing label and a number is, whatever type a column has."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.data.conftest import cohort

import infl
from infl.data.columns import missing_values
from infl.data.labels import as_labels, check_labels, class_numbers, label_text, label_type, warn_of_near_misses
from infl.errors import DataError, InflWarning
from infl.pp import obs_column, panel_of

COLUMNS = {
    "bool": lambda y: y.astype(bool),
    "nullable bool": lambda y: pd.array(y.astype(bool), dtype="boolean"),
    "objects that are bools": lambda y: y.astype(bool).astype(object),
    "int": lambda y: y + 3,
    "int8": lambda y: (y + 3).astype(np.int8),
    "nullable int": lambda y: pd.array(y + 3, dtype="Int64"),
    "categories that are numbers": lambda y: pd.Categorical(y + 3),
    "categories that are bools": lambda y: pd.Categorical(y.astype(bool)),
    "text": lambda y: np.array(["a", "b"], dtype=object)[y],
    "nullable text": lambda y: pd.array(np.array(["a", "b"])[y], dtype="string"),
    "categories": lambda y: pd.Categorical(np.array(["a", "b"])[y]),
    "order": lambda y: pd.Categorical(np.array(["low", "high"])[y], categories=["low", "high"], ordered=True),
    "order of numbers": lambda y: pd.Categorical(y + 9, categories=[10, 9], ordered=True),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_labels_come_back_in_their_type(kind, tmp_path) -> None:
    sites = cohort(COLUMNS[kind])
    run = infl.tl.fit_federated(sites, target="y", rounds=5, width=8, n_blocks=1, lr=1e-2, progress=False)
    adata = sites["site_0"]
    truth, prediction = adata.obs["y"], adata.obs["infl_prediction"]
    assert (prediction == truth).mean() > 0.9
    if kind.startswith("order"):
        assert prediction.cat.ordered and prediction.cat.categories.tolist() == truth.cat.categories.tolist()
    else:
        assert isinstance(prediction.dtype, pd.CategoricalDtype) == (
            not kind.endswith(("bool", "bools", "int", "int8")) or kind == "categories that are bools"
        )
    new = cohort(COLUMNS[kind])["site_1"]
    del new.obs["y"]  # what type labels have is the model's to know
    infl.tl.predict(new, run)
    assert new.obs["infl_prediction"].dtype == prediction.dtype
    new.write_h5ad(tmp_path / "a.h5ad")


def test_an_observation_without_a_prediction_is_missing() -> None:
    codes = np.array([0, -1, 1])
    for type_ in (["plain", "bool"], ["plain", "int"], ["category", "text"], ["ordered", "text", "1", "0"]):
        classes = ["False", "True"] if "bool" in type_ else ["0", "1"]
        assert pd.Series(as_labels(codes, classes, type_)).isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("first", "second", "classes"),
    [
        (pd.Categorical([0, 1] * 15), pd.Categorical([0.0, 1.0] * 15), ("0", "1")),
        (np.array([0, 1] * 15), pd.Categorical([0.0, 1.0] * 15), ("0", "1")),
        (np.array([2, 1] * 15), pd.array([2, 1] * 15, dtype="Int64"), ("1", "2")),
        (np.array([True, False] * 15), np.array(["True", "False"] * 15), ("False", "True")),
    ],
)
def test_one_class_whatever_the_type(first, second, classes) -> None:
    sites = cohort(lambda y: first)
    sites["site_1"].obs["y"] = second
    panel = panel_of(sites, target="y")
    assert panel.classes == classes
    run = infl.tl.fit_federated(sites, target="y", rounds=1, width=4, progress=False)
    assert run.model.header.panel["classes"] == list(classes)


def test_numbers_written_in_two_ways_are_asked_about() -> None:
    sites = cohort(lambda y: np.array(["0", "1"])[y])
    sites["site_1"].obs["y"] = np.array(["0.0", "1.0"])[np.arange(30) % 2]
    with pytest.warns(InflWarning, match=r"labels '[01]' .* and '[01]\.0' .* look like one class|one site alone"):
        panel_of(sites, target="y")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", " ", "nan", "NaN", "<NA>"])
@pytest.mark.parametrize("kind", ["object", "category", "string"])
def test_what_is_no_label(missing, kind) -> None:
    values = pd.Series(["a", missing, "b"], dtype=object).astype(kind)
    assert missing_values(values).tolist() == [False, True, False]
    assert label_text(values).isna().tolist() == [False, True, False]
    adata = AnnData(np.zeros((3, 1), np.float32), obs=pd.DataFrame({"y": values.to_numpy()}, index=list("xyz")))
    for role in ("target", "batch_key"):
        with pytest.raises(DataError, match="has no value for 1 of 3 observations"):
            obs_column(adata, "y", where="a", role=role)


def test_none_as_text_may_be_a_class() -> None:
    assert label_text(pd.Series(["None", "A"])).tolist() == ["None", "A"]


def test_too_many_numbers_are_no_classes() -> None:
    ages = pd.Series(np.arange(600) % 120)
    for values in (ages, ages.astype(float), ages.astype("Int64")):
        with pytest.raises(
            DataError, match=r"target 'age' is numeric at a \(120 values\) where classes are due; .*pandas.cut"
        ):
            check_labels(values, "age", "a", partly=True)
    check_labels(ages % 10, "age", "a")
    check_labels(ages.astype("category"), "age", "a")
    check_labels(pd.Series([1.0, 2.0, np.nan, 1.0]), "grade", "a", partly=True)
    for values, partly in ((pd.Series([1.0, 2.0, 1.0, 2.0]), False), (pd.Series([0.5, 2.0, 2.0]), True)):
        with pytest.raises(DataError, match="is numeric at a"):
            check_labels(values, "grade", "a", partly=partly)


def test_class_numbers_leave_no_stranger_out() -> None:
    assert class_numbers(pd.Series([1, 0, 1]), ["0", "1"], "y", "a").tolist() == [1, 0, 1]
    assert class_numbers(pd.Series(["x", None]), ["x"], "y", "a").tolist() == [0, -1]
    with pytest.raises(DataError, match="a has 'z' in 'y', which is none of the model's classes 'x'"):
        class_numbers(pd.Series(["x", "z"]), ["x"], "y", "a")


def test_types_and_orders_that_differ_make_text() -> None:
    def order(*names):
        return pd.Series(pd.Categorical([names[0]], categories=list(names), ordered=True))

    assert label_type([order("low", "high"), order("low", "mid", "high")]) == ["ordered", "text", "low", "mid", "high"]
    assert label_type([order("low", "high"), order("high", "low")]) == ["category", "text"]
    assert label_type([pd.Series([1]), pd.Series([True])]) == ["category", "text"]
    assert as_labels(np.array([0]), ["1"], ["bool", "category", "int", "plain"]).categories.tolist() == ["1"]


def test_names_of_batches_look_like_one_only_where_capitals_and_punctuation_differ() -> None:
    sites_of = {"hospital_a": ["a"], "hospital_b": ["b"], "Hospital-A": ["c"]}
    with pytest.warns(InflWarning) as caught:
        warn_of_near_misses(sites_of, "batch", numbered=True)
    assert [str(warning.message)[:45] for warning in caught] == ["labels 'Hospital-A' (c) and 'hospital_a' (a) "]
    with pytest.warns(InflWarning) as caught:
        warn_of_near_misses(sites_of, "cell_type")
    assert len(caught) == 3
