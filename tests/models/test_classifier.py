"""The classifier's numbers, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from infl.models.classifier import N_BINS, Classifier
from infl.models.labelled import area_under_curve, stratified_split
from infl.models.matrix import FeatureMatrix
from infl.sums import SiteView
from infl.sums.temperature import TEMPERATURES, temperature

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


def test_metrics_by_hand() -> None:
    task = Classifier(target="t")
    confusion = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])  # the third class is absent
    bins = np.zeros((N_BINS, 3))
    bins[9] = [4, 3.8, 3]
    bins[5] = [2, 1.1, 2]
    metrics = task.summarise(
        {"weighted_loss": np.array(3.0), "weight": np.array(6.0), "confusion": confusion, "bins": bins}
    )
    assert metrics["loss"] == 0.5
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    assert metrics["balanced_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    assert metrics["macro_f1"] == pytest.approx((6 / 7 + 4 / 5) / 2)
    assert metrics["calibration_error"] == pytest.approx((0.8 + 0.9) / 6)


def test_federated_moments_are_the_pooled_ones(khan_sites: dict, plainly_added) -> None:
    task = Classifier(target="tumour_class", validation=0.0)
    panel = task.agree(khan_sites)
    rng = np.random.default_rng(0)
    data = [task.read(a, panel, site=s, rng=rng) for s, a in khan_sites.items()]
    private = plainly_added(task.before(panel), [SiteView(d, None) for d in data])
    pooled = np.concatenate([np.asarray(a[:, panel["features"]].X, dtype=np.float64) for a in khan_sites.values()])
    np.testing.assert_allclose(private["center"], pooled.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(private["scale"], pooled.std(0, ddof=1), rtol=1e-6)
    counts = private["class_counts"]
    np.testing.assert_allclose(private["class_weight"] * counts, counts.sum() / len(counts))


def test_temperature_is_the_best_of_the_grid() -> None:
    nll = np.abs(np.log(TEMPERATURES) - np.log(2.0))
    assert temperature().combine({"nll": nll}, {})["temperature"] == TEMPERATURES[np.argmin(nll)]
    assert temperature().combine({"nll": np.zeros_like(nll)}, {})["temperature"] == 1.0


@pytest.mark.parametrize("kind", ["csr", "csc", "integer", "view", "layer", "backed", "reordered"])
def test_every_kind_of_matrix_reads_the_same(khan, tmp_path, kind: str) -> None:
    features = list(khan.var_names[[5, 3, 900, 17]])
    expected = np.asarray(khan[:, features].X, dtype=np.float32)
    adata, layer, index = khan, None, np.array([7, 2, 2, 40])
    if kind in ("csr", "csc"):
        adata.X = getattr(sparse, f"{kind}_matrix")(adata.X)
    elif kind == "integer":
        adata.X = np.rint(np.asarray(adata.X) * 10).astype(np.int64)
        expected = np.asarray(adata[:, features].X, dtype=np.float32)
    elif kind == "view":
        adata = adata[:, ::-1]
    elif kind == "layer":
        adata.layers["raw"], layer = adata.X.copy(), "raw"
        adata.X = np.zeros(adata.shape)
    elif kind == "backed":
        import anndata

        adata.write_h5ad(tmp_path / "khan.h5ad")
        adata = anndata.read_h5ad(tmp_path / "khan.h5ad", backed="r")
    else:
        adata = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    matrix = FeatureMatrix(adata, features, layer=layer, site="site_1")
    np.testing.assert_array_equal(matrix.rows(index), expected[index])
    np.testing.assert_array_equal(np.concatenate([matrix.rows(c) for c in matrix.chunks(32)]), expected)
    assert matrix.rows(index).dtype == np.float32


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40))
def test_area_under_the_curve_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    scores, positive = np.array([score / 9 for score, _ in rows]), np.array([yes for _, yes in rows])
    area = area_under_curve(scores, positive)
    if len(set(positive)) == 1:
        assert np.isnan(area)
    else:
        assert area == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
