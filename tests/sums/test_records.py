"""What sums say of records, on real data: how many stand behind a number, and how much one of them changes it."""

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import infl
from infl.errors import InflWarning
from infl.models import Task
from infl.models.adapter.centroids import near_centroids
from infl.models.adapter.data import Sentences, sentences
from infl.models.matrix import FeatureMatrix
from infl.nn.trex.semantic_prior import TokenPrior
from infl.pp._filter import expression_sum
from infl.pp._hvg_regression import clipped_sum
from infl.pp._matrix import SiteMatrix, presence
from infl.pp._median import Columns, median_sums
from infl.pp._moments import Rows, moment_sums
from infl.pp._normalize import Counts, highly_expressed
from infl.pp._pca_sums import direction_sums, frame_from, product_sums
from infl.pp._qc import FeatureShare, feature_sum
from infl.pp._quantiles import halving_sum
from infl.pp._sphere import Directions, before_halving, centre_sums
from infl.sums import FederatedSum, SiteView, State
from infl.tl._cluster_sums import (
    Shares,
    cluster_moments,
    coordinates,
    halves,
    numbers,
    numbers_and_coordinates,
    sizes,
    squares,
)


@dataclass(frozen=True)
class Case:
    """Sites' data, the sums over them, and what a sum takes of a site."""

    tables: dict[str, AnnData]
    sums: Sequence[FederatedSum]
    view: Callable[[str, AnnData], Any]
    state: State


def of_task(task: Task, tables: dict[str, AnnData], *, after: bool = True) -> Case:
    panel = task.agree(tables)
    torch.manual_seed(0)
    module = task.build(panel).eval()

    def view(site: str, table: AnnData) -> SiteView:
        data = task.read(table, panel, site=site, rng=np.random.default_rng(0))
        return SiteView(data, module)

    return Case(tables, [*task.before(panel), *(task.after(panel) if after else ())], view, {})


def classifier() -> Case:
    return of_task(
        infl.models.Classifier(target="tumour_class", coordinate=2, stratify=False), infl.datasets.khan_sites()
    )


def mosaic() -> Case:
    task = infl.models.Mosaic(n_domains=2, spatial_key=None, n_latent=3, width=0)
    return of_task(task, {site: adata[:, :30].copy() for site, adata in infl.datasets.khan_sites().items()})


def adapter() -> Case:
    tables = infl.datasets.khan_sites()
    names = list(tables["site_1"].var_names)
    rng = torch.Generator().manual_seed(0)
    embeddings = torch.randn(len(names) + 1, 8, generator=rng)
    module = SimpleNamespace(intuition=TokenPrior(embeddings, torch.nn.functional.normalize(embeddings[1:5], dim=1)))

    def view(site: str, table: AnnData) -> SiteView:
        ids, mask = sentences(
            FeatureMatrix(table, names, site=site), [[i + 1] for i in range(len(names))], length=12, site=site
        )
        everything = np.arange(table.n_obs)
        return SiteView(Sentences(ids, mask, torch.zeros(table.n_obs, 1), everything, everything[:0]), module)

    (one,) = infl.models.Adapter(target="x", r1=2, r2=2).before({"width": 8})
    assert one.local is near_centroids
    return Case(tables, [replace(one, steps=2)], view, {})


def patients(adata: AnnData) -> dict[str, AnnData]:
    """Two patients, some genes: enough for a spot to have neighbours."""
    chosen = adata.obs["patient"].unique()[:2]
    genes = np.argsort(-np.asarray(adata.X.sum(0)).ravel())[:20]
    return {str(p): adata[adata.obs["patient"] == p, genes].copy() for p in chosen}


def spatial() -> Case:
    return of_task(infl.models.Spatial(n_domains=3, steps=2), patients(infl.datasets.her2st_labelled()))


def histology() -> Case:
    tables = patients(infl.datasets.her2st_histology())
    return of_task(infl.models.Histology(section_key="section"), tables)


def perturbation() -> Case:
    screen = infl.datasets.papalexi()
    screen = screen[::5, np.argsort(-np.asarray(screen.X.mean(0)).ravel())[:30]]
    tables = {str(r): screen[screen.obs["replicate"] == r].copy() for r in screen.obs["replicate"].unique()}
    return of_task(infl.models.Perturbation(target="perturbation", control="control", target_sum=1e4), tables)


def blood() -> dict[str, AnnData]:
    return infl.pp.split_sites(sc.datasets.pbmc68k_reduced().raw.to_adata(), 3, seed=0)


def rows(site: str, table: AnnData) -> Rows:
    return Rows(SiteMatrix(site, table, None, presence(table.var)))


def moments() -> Case:
    return Case(blood(), moment_sums(765), rows, {})


def components() -> Case:
    tables = blood()
    columns, n_obs = np.arange(765), sum(table.n_obs for table in tables.values())

    def frame_of(state: State) -> Any:
        return frame_from(state, columns=columns, n_obs=n_obs, zero_center=True)

    directions = [replace(one, steps=2, until=None) for one in direction_sums(765, 5, 0, frame_of)]
    return Case(tables, [*moment_sums(765), *product_sums(765, frame_of), *directions], rows, {})


def clipped() -> Case:
    return Case(blood(), [clipped_sum(765)], rows, {"clip": np.full(765, 1.0)})


def median() -> Case:
    def view(site: str, table: AnnData) -> Columns:
        return Columns.of(np.asarray(table.X.sum(1)).reshape(-1, 1).astype(np.float32))

    return Case(blood(), median_sums(1, np.dtype(np.float32)), view, {})


def quality() -> Case:
    return Case(blood(), [feature_sum(765)], lambda site, table: FeatureShare(rows(site, table).matrix), {})


def quantiles() -> Case:
    sums = [*moment_sums(765), replace(halving_sum(765, [0.1, 0.9], 0.25), steps=3)]
    return Case(blood(), sums, rows, {})


def cells_with_a_gene() -> Case:
    return Case(blood(), [expression_sum(765, "n_cells")], lambda site, table: rows(site, table).matrix, {})


def expressed() -> Case:
    def view(site: str, table: AnnData) -> Counts:
        return Counts(table.X, np.asarray(table.X.sum(1)).ravel())

    return Case(blood(), [highly_expressed(765, 0.01)], view, {})


def first(table: AnnData, n: int) -> np.ndarray:
    """The first features, dense."""
    return table[:, :n].to_df().to_numpy(dtype=float)


def clusters() -> Case:
    """Four clusters by the nearest of means that all know, of which the last has nobody."""
    tables = blood()
    means = np.vstack([first(next(iter(tables.values())), 5)[:3], np.full((1, 5), 99.0)])

    def view(site: str, table: AnnData) -> Shares:
        x = first(table, 5)
        return Shares(x, np.eye(4)[((x[:, None] - means) ** 2).sum(2).argmin(1)])

    return Case(
        tables, [numbers_and_coordinates(4, 5), numbers(4), coordinates(4, 5), squares(4, 5)], view, {"means": means}
    )


def cluster_sizes() -> Case:
    def view(site: str, table: AnnData) -> np.ndarray:
        return (first(table, 1)[:, 0] > 0).astype(int)

    return Case(blood(), [sizes(2)], view, {})


def one_cluster() -> Case:
    def view(site: str, table: AnnData) -> Shares:
        x = first(table, 5)
        return Shares(x, (x[:, 0] > 0).astype(float))

    return Case(blood(), [cluster_moments(5)], view, {})


def halved() -> Case:
    def view(site: str, table: AnnData) -> tuple[np.ndarray, np.ndarray]:
        x = first(table, 2)
        inside = x[:, 0] > 0
        return inside & (x[:, 1] > 0), inside

    return Case(blood(), [halves()], view, {})


def first_centres() -> Case:
    """Some halvings and steps of k-means, as Harmony begins."""
    parts, cut, near, moved = centre_sums(8, 10)
    sums = [parts, cut, parts, cut, parts, near, moved, near, moved]
    return Case(blood(), sums, lambda site, table: Directions.of(first(table, 10)), before_halving(8, 0))


needs_data = pytest.mark.data_dir
ALONE = [
    *(classifier, adapter, moments, components, clipped, median, quality, expressed, quantiles, cells_with_a_gene),
    *(clusters, one_cluster, halved, cluster_sizes, first_centres),
    pytest.param(histology, marks=needs_data, id="histology"),
]
"""Of which a record can be left out without reading the others anew."""
CASES = [
    *ALONE,
    mosaic,
    *(pytest.param(case, marks=needs_data, id=case.__name__) for case in (spatial, perturbation)),
]


@cache
def prepared(case: Callable[[], Case]) -> tuple[Case, dict[str, Any], list[tuple[FederatedSum, State]]]:
    """Each sum with the states that its steps begin with, over all sites."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        made = case()
        views = {site: made.view(site, table) for site, table in made.tables.items()}
        steps, state = [], made.state
        for one in made.sums:
            for step in range(one.steps):
                steps.append((one, state))
                shares = [one.local(view, state) for view in views.values()]
                state = one.after(
                    {name: sum(np.asarray(s[name]) for s in shares) for name in one.shapes}, state, step=step
                )
    return made, views, steps


def with_another_record(table: AnnData, at: int, of: int) -> AnnData:
    """Return the table with the values, labels and pictures of another record in the place of one; places stay."""
    index = np.arange(table.n_obs)
    index[at] = of
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # for a moment two records have one name
        changed = table[index].copy()
    changed.obs_names = table.obs_names
    for key in set(changed.obsm) & {"spatial"}:
        changed.obsm[key] = table.obsm[key]
    for key in set(changed.obs) & {"section"}:
        changed.obs[key] = table.obs[key]
    return changed


def check_bounds(one: FederatedSum, before: Any, after: Any, state: State) -> None:
    """Assert that one record changed no number by more than its bound."""
    shares = [{name: np.asarray(value) for name, value in one.local(view, state).items()} for view in (before, after)]
    for name, bound in one.sensitivity.items():
        moved = np.abs(shares[0][name] - shares[1][name]).max(initial=0)
        assert moved <= bound * (1 + 1e-9) + 1e-9, f"{one.name}: {name} moved by {moved}"


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=12)
@given(data=st.data())
def test_one_record_changes_a_number_by_no_more_than_the_sum_says(
    case: Callable[[], Case], data: st.DataObject
) -> None:
    made, views, steps = prepared(case)
    site = data.draw(st.sampled_from(sorted(made.tables)))
    n_obs = made.tables[site].n_obs
    at, of = (data.draw(st.integers(0, n_obs - 1)) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        changed = made.view(site, with_another_record(made.tables[site], at, of))
        for one, state in steps:
            if one.sensitivity:
                check_bounds(one, views[site], changed, state)


def without_a_record(made: Case, view: Any, site: str, at: int) -> Any:
    """Return the view with one record less: of those that are trained on, for a task."""
    if isinstance(view, SiteView):
        data = copy(view.data)
        data.train = np.delete(data.train, at % len(data.train))
        return SiteView(data, view.module)
    return made.view(site, made.tables[site][np.arange(made.tables[site].n_obs) != at].copy())


@pytest.mark.parametrize("case", ALONE)
@settings(max_examples=6)
@given(data=st.data())
def test_a_record_less_changes_a_number_by_no_more_than_that(case: Callable[[], Case], data: st.DataObject) -> None:
    made, views, steps = prepared(case)
    site = data.draw(st.sampled_from(sorted(made.tables)))
    less = without_a_record(made, views[site], site, data.draw(st.integers(0, made.tables[site].n_obs - 1)))
    for one, state in steps:
        if one.sensitivity:
            check_bounds(one, views[site], less, state)


@pytest.mark.parametrize("case", CASES)
def test_where_no_record_stands_behind_a_number_it_is_zero(case: Callable[[], Case]) -> None:
    made, views, steps = prepared(case)
    for one, state in steps[:40]:
        for site, view in views.items():
            behind = one.behind(view, state)
            share = {name: np.asarray(value) for name, value in one.local(view, state).items()}
            for name, n in behind.items():
                assert n.shape == share[name].shape and (n >= 0).all() and (n <= made.tables[site].n_obs + 1e-6).all()
                assert not share[name][n == 0].any(), f"{one.name}: {name}"
    assert any(one.records for one, _ in steps)


def test_a_bound_that_is_too_small_is_seen() -> None:
    made, views, steps = prepared(classifier)
    table, (means, state) = made.tables["site_1"], steps[0]
    classes, at = table.obs["tumour_class"].to_numpy(), int(views["site_1"].data.train[0])
    of = int(np.flatnonzero(classes != classes[at])[0])
    changed = made.view("site_1", with_another_record(table, at, of))
    check_bounds(means, views["site_1"], changed, state)
    with pytest.raises(AssertionError, match="means: class_counts moved by 1"):
        check_bounds(replace(means, sensitivity={"class_counts": 0.5}), views["site_1"], changed, state)
