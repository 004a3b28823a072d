"""The logistic regression of baselines: classes of any size, and as many features as there are."""

import warnings

import anndata
import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import infl
from infl.models.logistic import _losses, logistic_regression

STRENGTHS = (1e-3, 1e-2, 0.1, 1.0)


def samples(sizes: list[int], n_features: int, signal: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Classes of these sizes; a fifth of the features differ between them, and one value was not measured."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(y), n_features))
    x[:, : n_features // 5] += signal * rng.normal(size=(len(sizes), n_features // 5))[y]
    x[2, 1] = np.nan
    return x.astype(np.float32), y


def direct(x: np.ndarray, y: np.ndarray, strength: float) -> object:
    model = LogisticRegression(C=strength, max_iter=10_000, tol=1e-9, class_weight="balanced")
    return make_pipeline(StandardScaler(), SimpleImputer(keep_empty_features=True), model).fit(x.astype(np.float64), y)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_row_space_gives_the_model_of_the_direct_fit(strength: float) -> None:
    x, y = samples([12, 9, 4, 2], 300)
    new = np.random.default_rng(1).normal(size=(20, 300)).astype(np.float32)  # not in the space of the rows
    got = logistic_regression(x, y, 4, strengths=[strength])(new)
    np.testing.assert_allclose(got, direct(x, y, strength).predict_proba(new), atol=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("sizes", [[20, 16, 4, 4], [20, 2, 2], [12, 1, 1]], ids=str)
def test_small_classes_leave_no_gap_in_the_scores(sizes: list[int]) -> None:
    x, y = samples(sizes, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = _losses(x, y, STRENGTHS, True, 0)
    assert np.isfinite(losses).all() and len(set(losses)) == 4
    assert np.argmin(losses) > 0, "classes that are far apart need little penalty"


def test_scores_are_those_of_scikit_learn_where_it_has_some() -> None:
    x, y = samples([10, 9, 8], 12, signal=1.0)
    expected = []
    for strength in STRENGTHS:
        folds = StratifiedKFold(3, shuffle=True, random_state=5).split(x, y)
        model = make_pipeline(
            StandardScaler(),
            SimpleImputer(keep_empty_features=True),
            LogisticRegression(C=strength, max_iter=2000, class_weight="balanced"),
        )
        expected.append(sum(log_loss(y[b], model.fit(x[a], y[a]).predict_proba(x[b])) for a, b in folds))
    np.testing.assert_allclose(_losses(x, y, STRENGTHS, True, 5), expected, rtol=1e-6)


@pytest.mark.parametrize("y", [[3, 3, 3, 3], [0, 1, 2, 3], [0, 3, 3, 3], []], ids=str)
def test_classes_of_one_and_classes_without_any(y: list[int]) -> None:
    x = np.random.default_rng(0).normal(size=(len(y), 6))
    got = logistic_regression(x, np.array(y, dtype=int), 5, strengths=STRENGTHS)(np.ones((2, 6)))
    assert got.shape == (2, 5)
    np.testing.assert_allclose(got.sum(1), 1)
    absent = sorted(set(range(5)) - set(y)) if y else []
    assert (got[:, absent] == 0).all()


def test_the_baseline_is_tuned_on_classes_of_four_and_repeats_to_the_bit() -> None:
    x, y = samples([20, 16, 14, 4, 4], 600)
    adata = anndata.AnnData(np.nan_to_num(x))
    adata.obs["kind"] = np.array(list("abcde"))[y]
    sites = infl.pp.split_sites(adata, 3, stratify="kind")
    task = infl.models.Classifier(target="kind")
    panel = task.agree(sites)
    first, second = (task.baseline(adata, panel, seed=1)(adata)["probability"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    truth = first[np.arange(len(y)), y]
    strongest = logistic_regression(adata.X, y, 5, strengths=[1e-3])(adata.X)[np.arange(len(y)), y]
    assert truth.mean() > strongest.mean() + 0.05, "the strongest penalty was not the best"
