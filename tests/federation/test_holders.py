"""Features, classes and modalities that one site alone has: refused between machines, told of in one process."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from tests.federation.conftest import make_sites

from infl._mudata import without_pull
from infl.errors import FederationError
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Coordinator
from infl.federation.local import LocalTransport
from infl.federation.packings import HELD_PREFIX
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.keys import Keyring
from infl.models import Classifier, Mosaic, Perturbation, Scanvi, Scvi
from infl.models.task import Task
from infl.privacy import DP

Case = tuple[Task, dict[str, Any], str]
SMALL: dict[str, Any] = {"target": "label", "width": 4, "n_blocks": 0}


def counts(n_sites: int = 4) -> dict[str, AnnData]:
    rng, sites = np.random.default_rng(0), {}
    for k in range(n_sites):
        obs = pd.DataFrame({"label": ["a", "b"] * 6, "stage": ["x", "y"] * 6}, index=[f"{k}_{i}" for i in range(12)])
        var = pd.DataFrame(index=[f"g{i}" for i in range(6)])
        sites[f"site_{k + 1}"] = AnnData(rng.poisson(4.0, (12, 6)).astype(np.float32), obs=obs, var=var)
    return sites


def relabelled(sites: dict[str, AnnData], column: str, label: str) -> dict[str, AnnData]:
    """The first site's first two observations have a label that nobody else has."""
    text = next(iter(sites.values())).obs[column].astype(str)
    text.iloc[:2] = label
    next(iter(sites.values())).obs[column] = text
    return sites


def feature() -> Case:
    sites = make_sites()
    for name in list(sites)[1:]:
        sites[name] = sites[name][:, sites[name].var_names != "g3"].copy()
    return Classifier(features="union", **SMALL), sites, "feature 'g3'"


def klass() -> Case:
    return Classifier(**SMALL), relabelled(make_sites(), "label", "rare"), "class 'rare'"


def modality() -> Case:
    tables = {name: {"rna": adata} for name, adata in counts().items()}
    tables["site_1"]["adt"] = tables["site_1"]["rna"].copy()
    with without_pull():
        sites = {name: MuData(of) for name, of in tables.items()}
    return Mosaic(n_domains=None, n_latent=2, spatial_key=None), sites, "modality 'adt'"


def perturbation() -> Case:
    sites = counts()
    for adata in sites.values():
        adata.X = np.log1p(np.asarray(adata.X) / np.asarray(adata.X).sum(1, keepdims=True) * 1e4)
        adata.obs["perturbation"] = ["control", "g1", "control", "g2"] * 3
    return Perturbation(width=4), relabelled(sites, "perturbation", "g4"), "perturbation 'g4'"


def site() -> Case:
    return Scvi(n_hidden=4, n_latent=2), counts(), "site 'site_1' and 3 more"


def category() -> Case:
    task = Scvi(n_hidden=4, n_latent=2, site_effect="local", categorical_covariates=("stage",))
    return task, relabelled(counts(), "stage", "z"), "category of 'stage' 'z'"


def annotated() -> Case:
    task = Scanvi(n_hidden=4, n_latent=2, site_effect="local", target="label")
    return task, relabelled(counts(), "label", "rare"), "class 'rare'"


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f for f in (feature, klass, modality, perturbation, site, category, annotated)
}


def begun(task: Task, sites: dict[str, Any], *, min_holders: int, **settings: Any) -> list[str]:
    """Do the first two exchanges, after which the first sum was applied."""
    key = Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, **{"rounds": 1} | settings)
    replica = Replica(agreement, key, task, min_holders=min_holders)
    transport = LocalTransport({name: Site(name, adata, replica) for name, adata in sites.items()})
    run = Coordinator(agreement, replica.programme.exchanges, transport).run()
    return [next(run).kind, next(run).kind]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
def test_what_one_site_alone_has_is_refused_or_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name in ("site", "category", "annotated"):
        pytest.importorskip("scvi")
    task, sites, said = CASES[name]()
    with pytest.raises(FederationError, match=f"{said}: fewer than 2 sites have it.* min_holders = 1"):
        begun(task, sites, min_holders=2)
    capsys.readouterr()
    assert begun(task, sites, min_holders=1)[0] == "count"
    heard = capsys.readouterr().err
    assert (f"{said}: one site alone has it" in heard) is (name != "site")  # there, it is so for all of them


def test_what_all_have_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    begun(Classifier(**SMALL), make_sites(), min_holders=4)
    assert "one site alone" not in capsys.readouterr().err


def test_as_many_holders_as_asked_for_and_no_more_than_sites(small_sites: dict[str, AnnData]) -> None:
    two = relabelled(make_sites(), "label", "rare")
    relabelled({"site_2": two["site_2"]}, "label", "rare")
    begun(Classifier(**SMALL), two, min_holders=2)
    with pytest.raises(FederationError, match="class 'rare': fewer than 3 sites"):
        begun(Classifier(**SMALL), two, min_holders=3)
    begun(Classifier(**SMALL), small_sites, min_holders=99)


def test_under_differential_privacy_nobody_tells_what_it_has(small_sites: dict[str, AnnData]) -> None:
    task, dp = Classifier(**SMALL).for_dp(), DP(noise_multiplier=1.0, delta=1e-3)
    for privacy in (None, dp):
        key = Keyring.create()
        agreement = Agreement.new(task, task.agree(small_sites), small_sites, key, privacy=privacy)
        names = [f.name for f in Replica(agreement, key, task).programme.exchanges[0].packing.fields]
        assert [n for n in names if n.startswith(HELD_PREFIX)] == (
            [] if privacy else [f"{HELD_PREFIX}feature", f"{HELD_PREFIX}class"]
        )
