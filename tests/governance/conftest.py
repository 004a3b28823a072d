"""Runs that a report is written of: a whole one, one without protection, one with names that mean ill."""

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
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


VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Elements with their attributes in order, and the text within each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it is the one that is open."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text with its element."""
        self.texts.append((self._open[-1] if self._open else "", data))

    @property
    def text(self) -> str:
        """All that is read."""
        return " ".join(data for tag, data in self.texts if tag != "style")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def read(run: FederatedRun, folder: Path, **options: object) -> tuple[Reader, dict, dict]:
    """Write a report and return its page, model card and data sheet, read strictly."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    path = infl.governance.report(run, folder / "report.html", **options)  # type: ignore[arg-type]
    card, sheet = (
        json.loads((folder / f"report.{name}.json").read_text(), parse_constant=refuse)
        for name in ("model_card", "data_sheet")
    )
    return Reader(path.read_text()), card, sheet


def metrics(n_obs: list[int], n_judged: list[int]) -> pd.DataFrame:
    index = pd.Index([f"s{i}" for i in range(len(n_obs))], name="site")
    values = np.linspace(0.5, 0.9, len(n_obs))
    return pd.DataFrame({"n_obs": n_obs, "n_judged": n_judged, "accuracy": values}, index=index)
