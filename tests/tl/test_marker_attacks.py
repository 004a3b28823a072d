"""What members of a consortium learn of a person from markers and differential expression: with rules of disclosure, and without them.

Each attack reads what the functions open, not what they report; its control is the same attack where no rule is in force.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl.errors import DataError
from infl.privacy import Disclosure, DisclosureRules, membership_auc
from infl.sums import State, run_sums
from infl.tl import _de, _markers, _ruled_ranks

N = 40  # people of a site, half of each group
LOOSE = DisclosureRules(features_per_record=np.inf, records_per_parameter=0)
pytestmark = pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
BOTH = pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])


def people(n_vars: int, seed: int = 0) -> dict[str, AnnData]:
    rng, sites = np.random.default_rng(seed), {}
    for name in "abc":
        obs = pd.DataFrame({"arm": np.array(["case", "control"])[np.arange(N) % 2]})
        x = rng.normal(5.0, 1.0, (N, n_vars))
        sites[name] = AnnData(x, obs=obs.set_axis([f"{seed} {name} {i}" for i in range(N)]))
        sites[name].var_names = [f"gene {j}" for j in range(n_vars)]
    return sites


def rules(on: bool, which: DisclosureRules = LOOSE) -> AbstractContextManager[Any]:
    return Disclosure(which) if on else nullcontext()


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """What all members know after each list of sums."""
    known: list[State] = []

    def spied(*args: Any, **kwargs: Any) -> State:
        known.append(run_sums(*args, **kwargs))
        return known[-1]

    for module in (_markers, _de):
        monkeypatch.setattr(module, "run_sums", spied)
    return known


def markers(sites: dict[str, AnnData]) -> None:
    """Rank, or be refused: what was opened until then stays."""
    try:
        infl.tl.rank_genes_groups(sites, "arm")
    except DataError as error:
        assert "rules of disclosure" in str(error)


@pytest.mark.parametrize(("bound", "n_vars"), [(None, 400), (2.0, 400), (2.0, 40)], ids=["control", "many", "few"])
def test_means_and_variances_of_groups_tell_members(states: list[State], bound: float | None, n_vars: int) -> None:
    """Without rules exact means of ten features a person betray nearly all; under them many are refused, and few tell as computed."""
    inside, outside = [], []
    which = DisclosureRules(features_per_record=bound or np.inf, records_per_parameter=0)
    for seed in range(12):
        sites = people(n_vars, seed)
        with rules(bound is not None, which):
            markers(sites)
        mean, var = states[-1]["mean"][0] - 5.0, states[-1]["squares"][0] / (1.5 * N - 1) - 1.0
        cases = np.vstack([adata.X[::2] for adata in sites.values()])
        strangers = np.random.default_rng(900 + seed).normal(5.0, 1.0, cases.shape)
        for scores, of in ((inside, cases - 5.0), (outside, strangers - 5.0)):
            scores += (of @ mean + (of**2 - 1) @ var / 2).tolist()
    if bound is not None and n_vars > bound * N:
        assert np.isnan(inside).all()
        return
    auc = (np.array(inside)[:, None] > np.array(outside)).mean()
    assert auc > 0.95 if bound is None else auc < membership_auc(2 * n_vars, 3 * N // 2) + 0.07


@BOTH
def test_two_rankings_that_differ_by_one_person_tell_that_person(states: list[State], on: bool) -> None:
    sites = people(6)
    fewer = {**sites, "b": sites["b"][2:].copy()}  # a case and a control less
    with rules(on):
        markers(sites)
        markers(fewer)
    first, second = (state["n"][0] * state["mean"][0] for state in states)
    assert np.isnan(first - second).all() if on else np.allclose(first - second, sites["b"].X[0])


@BOTH
def test_two_models_that_differ_by_one_person_tell_that_person(states: list[State], on: bool) -> None:
    sites = people(6)
    fewer = {**sites, "b": sites["b"][1:].copy()}

    def opened(of: dict[str, AnnData]) -> np.ndarray:
        """Sums of the values of all cases, from the coefficients and the products of the design."""
        infl.tl.de(of, "~ arm", site_effects=False)
        table = of["a"].uns["infl_de"]["table"].set_index("variable").loc[of["a"].var_names]
        n_cases = sum((adata.obs["arm"] == "case").sum() for adata in of.values())
        n_controls = sum((adata.obs["arm"] == "control").sum() for adata in of.values())
        mean_of_cases = table["mean"] - table["log_fc"] * n_controls / (n_cases + n_controls)
        return n_cases * mean_of_cases.to_numpy()

    with rules(on):
        first = opened(sites)
        with pytest.raises(DataError, match="nothing is opened") if on else nullcontext():
            assert np.allclose(first - opened(fewer), sites["b"].X[0])


@BOTH
@pytest.mark.parametrize("ask", ["markers", "de"])
def test_a_gene_that_one_site_alone_measured_is_not_told(states: list[State], on: bool, ask: str) -> None:
    sites = people(6)
    for name in "bc":
        sites[name] = sites[name][:, 1:].copy()
    infl.pp.harmonise(sites, features="union")
    with rules(on):
        if ask == "markers":
            infl.tl.rank_genes_groups(sites, "arm")
        else:
            infl.tl.de(sites, "~ arm")
    gene = sites["a"].var_names.get_loc("gene 0")
    if ask == "markers":
        found = states[-1]["mean"][:, gene]
        own = [sites["a"].X[sites["a"].obs["arm"] == arm, gene].mean() for arm in ("case", "control")]
        assert np.isnan(found).all() if on else np.allclose(found, own)
        assert not np.isnan(np.delete(states[-1]["mean"], gene, axis=1)).any()
    table = sites["b"].uns["infl_de"]["table"].set_index("variable")["t_value"] if ask == "de" else None
    if table is not None:
        assert np.isnan(table["gene 0"]) is np.bool_(on)
        assert table.drop("gene 0").notna().all()


def alone_between_cuts(sites: dict[str, AnnData], cuts: list[list[np.ndarray]]) -> float:
    """Share of values that are with fewer than k of their site and group between two cuts, of any question, at which values were counted."""
    found = []
    for adata in sites.values():
        for j, of_feature in enumerate(zip(*cuts, strict=True)):
            edges = np.unique(np.concatenate(of_feature))
            for arm in ("case", "control"):
                bins = np.searchsorted(edges, adata.X[adata.obs["arm"] == arm, j])
                found.append(np.bincount(bins)[bins] < LOOSE.k)
    return float(np.mean(found))


@pytest.mark.parametrize("of", ["edges", "groups"])
@BOTH
def test_two_kinds_of_bins_do_not_tell_how_many_values_are_between(
    on: bool, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question alone has k values of each site in a bin; their cuts together have not, unless values are counted in one way for life."""
    cuts: list[list[np.ndarray]] = []
    count = _ruled_ranks.ruled_ranks
    edges: list[np.ndarray] = []
    spaced = _ruled_ranks.spaced_edges

    def noted(*args: Any) -> np.ndarray:
        edges.append(spaced(*args))
        return edges[-1]

    def watched(*args: Any) -> State:
        state = count(*args)
        known = ~np.isnan(state["bins"]).all(axis=(0, 2))
        begins = state["bins_of"].begins[:, 1:]
        cuts.append([e[b & k] for e, b, k in zip(edges[-1], begins, known, strict=True)])
        return state

    monkeypatch.setattr(_ruled_ranks, "spaced_edges", noted)
    monkeypatch.setattr(_markers, "ruled_ranks", watched)
    if not on:
        monkeypatch.setattr("infl.privacy.register.judging._counted_otherwise", lambda records, chosen, bins: False)
    sites = people(8)
    with Disclosure(LOOSE):
        infl.tl.rank_genes_groups(sites, "arm", method="wilcoxon", n_bins=64)
        assert alone_between_cuts(sites, cuts) == 0 and sum(map(len, cuts[0])) > 8
        if of == "groups":
            for adata in sites.values():  # a site's cuts are others where groups are others, between the same edges
                adata.obs["arm"] = np.where(np.arange(N) % 4 < 2, "case", "control")
        for n_bins in (64, *range(8, 64, 4)) if of == "edges" else (64,):
            infl.tl.rank_genes_groups(sites, "arm", method="wilcoxon", n_bins=n_bins)
    if of == "groups":
        assert any(map(len, cuts[1])) is not on
    else:
        told = alone_between_cuts(sites, cuts)
        assert told == 0 if on else told > 0.1, told
        assert all(
            (a == b).all() for a, b in zip(cuts[0], cuts[1], strict=True)
        )  # the same question has the same answer
