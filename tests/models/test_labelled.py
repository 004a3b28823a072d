"""Splits leave each class in training; scores tell positives from negatives as scikit-learn says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infl.models.labelled import area_under_curve, stratified_split

CLASSES = st.lists(st.integers(0, 4), min_size=1, max_size=80)


@given(labels=CLASSES, share=st.floats(0, 0.6), seed=st.integers(0, 1000))
def test_split_is_a_partition_that_leaves_every_class_in_training(labels: list[int], share: float, seed: int) -> None:
    y = np.array(labels)
    train, validation = stratified_split(y, share, np.random.default_rng(seed))
    assert sorted([*train, *validation]) == list(range(len(y)))
    counts = np.bincount(y)
    assert set(y[train]) == set(y)
    wanted = min(share * counts[counts > 1].sum(), len(y) - len(set(y)))
    assert abs(len(validation) - wanted) <= 1 + 1e-9
    rate = wanted / max(len(y) - len(set(y)), 1)
    for c in np.flatnonzero(counts):
        assert abs((y[validation] == c).sum() - rate * (counts[c] - 1)) <= 1 + 1e-9


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40))
def test_area_under_the_curve_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    scores, positive = np.array([score / 9 for score, _ in rows]), np.array([yes for _, yes in rows])
    area = area_under_curve(scores, positive)
    if len(set(positive)) == 1:
        assert np.isnan(area)
    else:
        assert area == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
