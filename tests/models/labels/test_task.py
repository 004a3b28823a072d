"""Several columns of labels at once: masked where they are missing, in order where they have one, refused where they differ."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from tests.tl.conftest import cohort

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models.labels.heads import heads_of
from infl.models.labels.scoring import losses_of
from infl.models.panels import join_panels

COLUMNS = ["label", "grade"]
LINEAR = {"width": 0, "optimiser": "sgd", "lr": 1.0, "rounds": 15, "progress": False}


@pytest.fixture
def sites() -> dict[str, AnnData]:
    """Three sites: a class that some lack, levels in order that the second feature shows, and a site without either."""
    found, rng = cohort(), np.random.default_rng(0)
    for site, adata in found.items():
        level = np.digitize(adata.X[:, 1] + rng.normal(0, 0.1, 40), [1.2, 2.0])
        adata.obs["grade"] = pd.Categorical(np.array(["I", "II", "III"])[level], ["I", "II", "III"], ordered=True)
        adata.obs["label"] = adata.obs["label"].astype(object).where(rng.random(40) < 0.6, None)
        if site == "site_3":
            adata.obs = adata.obs[[]]
    return found


def test_each_record_learns_from_the_labels_that_it_has(sites: dict[str, AnnData]) -> None:
    truth = {site: adata.obs.copy() for site, adata in sites.items()}
    run = infl.tl.fit_federated(sites, target=COLUMNS, **LINEAR)
    for site in ("site_1", "site_2"):
        obs, known = sites[site].obs, truth[site]["label"].notna()
        assert (obs["infl_prediction_label"] == truth[site]["label"])[known].mean() > 0.9
        assert obs["infl_prediction_grade"].cat.categories.tolist() == ["I", "II", "III"]
        assert obs["infl_prediction_grade"].cat.ordered and not obs["infl_prediction_label"].cat.ordered
        assert (obs["infl_prediction_grade"].cat.codes - truth[site]["grade"].cat.codes).abs().mean() < 0.5
    there = sites["site_3"]  # which has no label, is predicted too
    assert there.obs["infl_prediction_label"].notna().all()
    np.testing.assert_allclose(there.obsm["infl_probabilities_grade"].sum(1), 1, atol=1e-5)
    assert run.model.header.task == "labels"
    assert {"val_loss", "val_accuracy", "val_balanced_accuracy"} <= set(run.history)


def test_records_without_a_label_count_in_the_moments_alone(sites: dict[str, AnnData]) -> None:
    sites["site_1"].obs.iloc[:5] = None
    task = infl.models.Labels(target=("label", "grade"))
    panel = task.agree(sites)
    one = task.read(sites["site_1"], panel, site="site_1", rng=np.random.default_rng(0))
    assert not {*range(5)} & {*one.train, *one.validation}
    run = infl.tl.fit_federated(sites, target=COLUMNS, **LINEAR | {"rounds": 1, "validation": 0.0})
    center = run.model.private_arrays(run.key)["center"]
    everything = np.concatenate([adata.X for adata in sites.values()])
    np.testing.assert_allclose(center, everything.mean(0), atol=1e-4)
    counts = run.model.private_arrays(run.key)["label_counts"]
    assert counts[2:].sum() == 75 and counts[:2].sum() < 60


def test_one_column_of_which_records_lack_the_label(sites: dict[str, AnnData]) -> None:
    with pytest.raises(DataError, match="infl.tl.predict labels them after the fit"):
        infl.tl.fit_federated(sites, target="label", **LINEAR)
    run = infl.tl.fit_federated(sites, target=["label"], **LINEAR)
    assert run.model.header.task == "labels" and "infl_prediction_label" in sites["site_3"].obs


def test_loss_of_a_record_is_over_its_labels() -> None:
    heads = heads_of({"tasks": {"a": ["x", "y"], "b": ["x", "y"]}})
    found = [torch.log(torch.tensor([[0.25, 0.75]] * 3)), torch.log(torch.tensor([[0.5, 0.5]] * 3))]
    losses = losses_of(found, torch.tensor([[1, 0], [0, -1], [-1, -1]]), torch.tensor([2.0, 1.0, 1.0, 1.0]), heads)
    np.testing.assert_allclose(losses, [-(np.log(0.75) + np.log(0.5)) / 2, -2 * np.log(0.25), 0.0], atol=1e-6)


def test_sites_that_agree_apart_have_the_panel_of_one_process(sites: dict[str, AnnData]) -> None:
    task = infl.models.Labels(target=("label", "grade"))
    panels = {site: task.agree({site: adata}) for site, adata in sites.items()}
    assert task.settled(join_panels(panels)) == task.agree(sites)


def another_order(sites: dict[str, AnnData]) -> None:
    grade = sites["site_2"].obs["grade"]
    sites["site_2"].obs["grade"] = grade.cat.reorder_categories(["III", "II", "I"])


def one_class(sites: dict[str, AnnData]) -> None:
    for site in ("site_1", "site_2"):
        sites[site].obs["label"] = "a"


def measurements(sites: dict[str, AnnData]) -> None:
    sites["site_1"].obs["label"] = np.linspace(0, 1, 40)


def words_and_numbers(sites: dict[str, AnnData]) -> None:
    sites["site_1"].obs["label"] = pd.Series([1.5, "a"] * 20, index=sites["site_1"].obs_names, dtype=object)


def nobody(sites: dict[str, AnnData]) -> None:
    for site in ("site_1", "site_2"):
        del sites[site].obs["label"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            another_order,
            r"levels of 'grade' are in another order at site_2 \(III < II < I\) than at site_1 \(I < II < III\)",
        ),
        (one_class, "target 'label' has 1 class over all sites"),
        (measurements, "target 'label' is numeric at site_1"),
        (words_and_numbers, "'label' mixes words and numbers at site_1, 20 and 20 of 40 observations: correct them"),
        (nobody, "target 'label' is missing in obs of site_1"),
    ],
)
def test_labels_that_do_not_go_together_are_refused(
    sites: dict[str, AnnData], change: Callable[[dict[str, AnnData]], None], line: str
) -> None:
    change(sites)
    with pytest.raises(DataError, match=line) as error:
        infl.tl.fit_federated(sites, target=COLUMNS, **LINEAR)
    assert "\n" not in str(error.value)
    with pytest.raises(SettingsError, match="needs target="):
        infl.tl.fit_federated(sites, "labels", **LINEAR)


def test_labels_beside_the_levels_of_other_sites_are_warned_of(sites: dict[str, AnnData]) -> None:
    sites["site_2"].obs["grade"] = ["I", "4"] * 20
    with pytest.warns(
        InflWarning, match=r"'grade' has labels that are none of its levels I < II < III: '4 \(site_2\)'"
    ):
        panel = infl.models.Labels(target=("grade",)).agree(sites)
    assert panel["ordered"] == {}


def test_labels_that_look_alike_are_warned_of(sites: dict[str, AnnData]) -> None:
    sites["site_2"].obs["label"] = sites["site_2"].obs["label"].replace({"a": "Class a"})
    sites["site_1"].obs["label"] = sites["site_1"].obs["label"].replace({"a": "class a"})
    with pytest.warns(InflWarning, match="'Class a' .* and 'class a' .* look like one"):
        infl.models.Labels(target=("label",)).agree(sites)


def test_they_are_compared_and_scaled_for_privacy(sites: dict[str, AnnData]) -> None:
    table = infl.tl.compare(
        sites, target=COLUMNS, seeds=1, methods=["fedavg", "infl_no_key", "baseline"], **LINEAR | {"progress": False}
    )
    found = table.set_index(["method", "metric"])["mean"]
    assert found["fedavg", "balanced_accuracy"] > 0.8 > found["infl_no_key", "balanced_accuracy"]
    assert {"balanced_accuracy label", "balanced_accuracy grade"} <= set(table["metric"])
    assert table.attrs["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    private = infl.models.Labels(target=("label",)).for_dp()
    assert (private.standardise, private.balance, private.stratify) == ("sample", False, False)
