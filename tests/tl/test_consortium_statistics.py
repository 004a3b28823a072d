"""Statistics between processes: each site by itself in a consortium gets what one process with all sites gets."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.threads import apart_as_together, at_every_site, same

import infl
from infl.errors import DataError, FederationError
from infl.keys import Keyring

Step = Callable[[Any], Any]


def logs(sites: dict[str, AnnData]) -> None:
    for adata in sites.values():
        adata.X = np.log1p(adata.X)


FORMULA = "~ arm + age"
STEPS: dict[str, tuple[Callable | None, Step]] = {
    "t-test": (logs, lambda s: infl.tl.rank_genes_groups(s, "arm", pts=True)),
    "wilcoxon": (logs, lambda s: infl.tl.rank_genes_groups(s, "kind", method="wilcoxon", tie_correct=True)),
    "logreg": (logs, lambda s: infl.tl.rank_genes_groups(s, "kind", method="logreg")),
    "limma": (logs, lambda s: infl.tl.de(s, FORMULA)),
    "limma, groups of numbers": (logs, lambda s: infl.tl.de(s, "~ C(grade) + arm", contrast="arm[T.old]", trend=True)),
    "limma, sites apart": (logs, lambda s: infl.tl.de(s, FORMULA, site_effects=False)),
    "deqms": (logs, lambda s: infl.tl.de(s, FORMULA, method="deqms", counts_key="peptides")),
    "voom": (None, lambda s: infl.tl.de(s, FORMULA, method="voom")),
    "deseq2": (None, lambda s: infl.tl.de(s, "~ arm", method="deseq2")),
    "survival": (None, lambda s: infl.tl.survival(s, "months", "died", "arm")),
    "cox": (None, lambda s: infl.tl.cox(s, "months", "died", "~ age + arm")),
    "cox, strata": (None, lambda s: infl.tl.cox(s, "months", "died", "~ age + arm", strata="site")),
    "gaussian": (None, lambda s: infl.tl.glm(s, "age ~ arm + site")),
    "binomial": (None, lambda s: infl.tl.glm(s, "died ~ age + kind", "binomial")),
    "combat": (logs, lambda s: infl.pp.combat(s, "site", covariates="arm")),
    "remove_batch_effect": (logs, lambda s: infl.pp.remove_batch_effect(s, "kind")),
    "regress_out": (logs, lambda s: infl.pp.regress_out(s, ["age", "months"])),
}


def drawn(times: int = 1) -> dict[str, AnnData]:
    """Return counts of 40 genes in 190 patients of three sites, or times as many; one site has no patient of one kind."""
    rng = np.random.default_rng(0)
    found = {}
    for i, n in enumerate((90 * times, 40 * times, 60 * times)):
        old, age = rng.permutation(np.arange(n) % 2), rng.normal(60, 8, n)
        means = rng.lognormal(3, 0.1, (n, 40)) * np.exp(0.5 * old[:, None] * (np.arange(40) < 5))
        adata = AnnData(rng.poisson(rng.gamma(8, means / 8)).astype(np.float32))
        adata.obs_names, adata.var_names = [f"p{j}-{i}" for j in range(n)], [f"g{j}" for j in range(40)]
        adata.obs["arm"] = pd.Categorical(np.array(["young", "old"])[old], categories=["young", "old", "unknown"])
        adata.obs["kind"] = np.array(["b", "a", "c"])[np.arange(n) % (3 - i % 2)]
        adata.obs["grade"] = 1 + np.arange(n) % 3
        adata.obs["age"], adata.obs["months"] = age, rng.exponential(np.exp(4 - 0.02 * age))
        adata.obs["died"] = rng.random(n) < 0.7
        adata.var["peptides"] = 1 + np.arange(40) % 9
        found[f"s{i}"] = adata
    return found


@pytest.fixture
def sites() -> dict[str, AnnData]:
    return drawn()


@pytest.fixture(scope="module")
def key() -> Keyring:
    return Keyring.create()


@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
@pytest.mark.parametrize("name", STEPS)
def test_each_site_gets_what_one_process_gets(sites, key, name):
    apart, seats = apart_as_together(*STEPS[name], sites, key)
    for site in sites:
        assert same(dict(apart[site].uns), dict(sites[site].uns))
        assert same(apart[site].X, sites[site].X)
    assert not any("unknown" in str(said) for said in seats["s0"].room.said)  # a category that nobody uses


def test_a_rare_group_is_not_named(sites, key):
    logs(sites)
    sites["s1"].obs["kind"] = ["rare", *sites["s1"].obs["kind"][1:]]
    found, seats = at_every_site(lambda s: infl.tl.de(s, "~ kind", contrast="kind[T.b]"), sites, key)
    assert isinstance(found["s1"], DataError) and "'rare' has 1 observations" in str(found["s1"])
    assert all(isinstance(found[site], FederationError) and "rare" not in str(found[site]) for site in ("s0", "s2"))
    assert not any("rare" in str(said) for said in seats["s0"].room.said)


def test_no_site_replaces_its_matrix_where_another_one_cannot(sites, key):
    sites["s1"].obs["age"] = np.nan
    before = {site: adata.X.copy() for site, adata in sites.items()}
    found, _ = at_every_site(lambda s: infl.pp.regress_out(s, "age"), sites, key)
    assert isinstance(found["s1"], DataError) and isinstance(found["s0"], FederationError)
    assert all(np.array_equal(sites[site].X, before[site]) for site in sites)


def test_numbers_here_and_words_there_are_refused_at_all_sites(sites, key):
    logs(sites)
    sites["s2"].obs["age"] = "old"
    found, _ = at_every_site(lambda s: infl.tl.de(s, FORMULA), sites, key)
    assert all(isinstance(error, DataError) and "words at s2" in str(error) for error in found.values())


@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
@pytest.mark.parametrize("name", STEPS)
def test_what_is_sent_does_not_grow_with_the_number_of_records(key, name):
    """Each kind of message has one size, at sites of few records and of many; how often it is sent may differ."""
    before, step = STEPS[name]
    sizes: list[dict[str, set[int]]] = []
    for times in (1, 3):
        sites = drawn(times)
        if before is not None:
            before(sites)
        found, seats = at_every_site(step, sites, key)
        assert not any(isinstance(of_site, BaseException) for of_site in found.values())
        sizes.append({})
        for said in seats["s0"].room.said:
            for kind, value in said.values():
                if kind.startswith("sum"):
                    sizes[-1].setdefault(re.sub(r" \d+ [0-9a-f]+$", "", kind), set()).add(value.nbytes)
    assert sizes[0] == sizes[1]
