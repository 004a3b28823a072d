"""Runs that a report is written of: a whole one, one without protection, one with names that mean ill."""

from dataclasses import dataclass

import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl._tables import Findings
from infl.federation.run import FederatedRun
from infl.keys import Identity, Keyring

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'--></style><svg/onload=alert(1)>",
    "\u202elatipsoh\u2066\x00 &amp; <b>",
)
"""Names of sites and classes that would do something if they were not escaped."""


@dataclass(frozen=True)
class Case:
    """A run with its data and its key ring."""

    run: FederatedRun
    sites: dict[str, AnnData]
    key: Keyring | None


@pytest.fixture(scope="session")
def usual(_khan_sites: dict[str, AnnData]) -> Case:
    """Locked and sealed, the key granted to two sites."""
    key = Keyring.create()
    for site in ("site_1", "site_2"):
        key.grant(site, Identity.create().public)
    sites = {name: adata.copy() for name, adata in _khan_sites.items()}
    run = infl.tl.fit_federated(sites, target="tumour_class", key=key, rounds=4, progress=False)
    return Case(run, sites, key)


@pytest.fixture(scope="session")
def hostile(_khan: AnnData) -> Case:
    """Four sites, four classes and a column with names that mean ill; neither lock nor seal."""
    adata = _khan[:, :50].copy()
    classes = dict(zip(sorted(set(adata.obs["tumour_class"])), HOSTILE, strict=True))
    adata.obs["<i>target"] = [classes[c] for c in adata.obs["tumour_class"]]
    sites = {name: adata[i::4].copy() for i, name in enumerate(HOSTILE)}
    with pytest.warns(infl.errors.InflWarning, match="seal='none'"):
        run = infl.tl.fit_federated(sites, target="<i>target", lock=None, seal="none", rounds=2, progress=False)
    return Case(run, sites, None)


@pytest.fixture
def audit() -> pd.DataFrame:
    """An audit as infl.tl.audit returns it, with one finding of each status."""
    rows = [
        ("no_key", "thief of a model file", "balanced_accuracy", 0.26, 0.25, 0.97, 0.2, 0.31, "holds", "Seven ways."),
        ("wrong_key", "thief of a model file", "balanced_accuracy", 0.9, 0.25, 0.97, 0.8, 0.95, "leak", "<b>Bad"),
        ("collusion", "coordinator + one site", "correlation", 1.0, 0.0, 1.0, 1.0, 1.0, "not promised", "One key."),
        ("ratio", "coordinator", "correlation", -0.00001, 0.0, 0.01, -0.1, 0.1, "not judged", "Nothing."),
        ("site_balance", "coordinator", "correlation", 0.02, 0.0, 0.8, -0.24, 0.28, "inconclusive", "Six trials."),
        ("audited_epsilon", "curious site", "epsilon", 1.4, 0.0, 5.0, 1.4, 8.0, "cannot tell", "Canaries."),
    ]
    columns = ["attack", "against", "metric", "value", "chance", "control", "low", "high", "status", "note"]
    table = Findings(rows, columns=columns).assign(protection="lock field, seal group")
    table.attrs |= {"left_out": ["patch_inversion"]}
    return table


@pytest.fixture
def comparison() -> pd.DataFrame:
    """A comparison as infl.tl.compare returns it."""
    rows = [
        (method, metric, mean, 0.02, mean - 0.1, 5, 1.0)
        for method, mean in (("pooled", 0.98), ("infl", 0.97), ("infl_wrong_key", 0.25))
        for metric in ("balanced_accuracy", "auroc")
    ]
    return pd.DataFrame(rows, columns=["method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"])
