"""How results show themselves, as text and in notebooks: what matters, every name as a name, never a key."""

import copy
import pickle
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl._tables import Comparison, Findings, by_finding, by_method
from infl.errors import InflWarning
from infl.keys import Identity, Keyring

ILL = '"><script>alert(1)</script>\u202e'
COMPARISON = [("infl", "auroc", 0.9, 0.1, 0.8, 2, 1.0), (ILL, "auroc", 0.5, float("nan"), float("nan"), 2, 1.0)]
FINDINGS = [
    ("no_key", "thief", ILL, 0.25, 0.25, 1.0, 0.2, 0.3, "holds"),
    ("ratio", "all", "r", 150.0, 0.0, 1.0, 1.0, 200.0, "leak"),
]


def comparison() -> Comparison:
    return Comparison(COMPARISON, columns=["method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"])


def findings() -> Findings:
    columns = ["attack", "against", "metric", "value", "chance", "control", "low", "high", "status"]
    return Findings(FINDINGS, columns=columns)


@pytest.fixture(scope="module")
def shown(_khan: AnnData) -> dict[str, object]:
    """One of each kind of result, with names that mean ill wherever a user gives a name."""
    adata = _khan[:, :30].copy()
    adata.obs[ILL] = adata.obs["tumour_class"].astype(str) + ILL
    sites = {f"{ILL}{i}": adata[i::3].copy() for i in range(3)}
    with pytest.warns(InflWarning, match="seal='none'"):
        run = infl.tl.fit_federated(sites, target=ILL, seal="none", rounds=1, width=4, progress=False)
    assert run.key is not None
    run.key.grant("site", Identity.create().public)
    return {
        "run": run,
        "model": run.model,
        "key ring": run.key,
        "panel": infl.pp.panel_of(sites, target=ILL),
        "QC": infl.pp.qc_summary(sites, percent_top=[10]),
        "comparison": comparison(),
        "audit": findings(),
    }


TAGS = {"div", "style", "table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
KINDS = ["run", "model", "key ring", "panel", "QC", "comparison", "audit"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_names_in_a_notebook(shown: dict[str, object], kind: str) -> None:
    html = shown[kind]._repr_html_()  # type: ignore[attr-defined]
    assert set(re.findall(r"</?([a-z]+)", html)) <= TAGS
    assert "\u202e" not in html
    assert html.count("<caption>") == html.count("<table") == 1
    assert re.findall(r"<th(?! scope=)", html.replace("<thead>", "")) == []
    if kind not in ("run", "key ring"):  # these two show no name that a user gave, but grants, which have few letters
        assert "&lt;script&gt;" in html


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_shown(shown: dict[str, object], kind: str) -> None:
    ring = shown["key ring"]
    assert isinstance(ring, Keyring)
    secrets = [ring._roots[1], ring._signer, ring.subkey("lock"), ring.subkey("file")]
    for text in (repr(shown[kind]), str(shown[kind]), shown[kind]._repr_html_()):  # type: ignore[attr-defined]
        assert not [s for s in secrets if s is not None and (s.hex() in text or repr(s) in text)]


def test_each_says_what_matters(shown: dict[str, object]) -> None:
    run, ring = shown["run"], shown["key ring"]
    assert isinstance(ring, Keyring)
    both: Callable[[str], str] = lambda kind: repr(shown[kind]) + shown[kind]._repr_html_()  # type: ignore[attr-defined]  # noqa: E731
    assert both("run").count(ring.fingerprint()) == both("model").count(ring.fingerprint()) == 2
    assert both("run").count("1 of 1 rounds") == 2
    assert '<th scope="row">1</th><td>' + ring.fingerprint() + "</td><td>site</td>" in ring._repr_html_()
    assert "nobody" in Keyring.create()._repr_html_()
    assert run.summary() in repr(run)  # type: ignore[attr-defined]
    assert "83 observations at 3 sites" in both("panel")
    assert both("comparison").count("0.900 ± 0.100") == both("comparison").count("infl, right key") == 2
    assert both("audit").count("Attacked in 2 ways; findings: 1 “holds”, 1 “leak”.") == 2
    assert both("audit").count("0.250 (0.200 to 0.300)") == 2


def test_a_table_is_a_data_frame_and_a_part_of_it_looks_like_one() -> None:
    table = comparison()
    table.attrs["chance"] = 0.25
    assert isinstance(table, pd.DataFrame)
    part = table[table["method"] == "infl"]
    assert type(part) is type(table.head(1)) is type(table[["mean"]]) is pd.DataFrame
    assert part.attrs == {"chance": 0.25}
    assert "worst_site" in repr(part)
    pd.testing.assert_frame_equal(pd.DataFrame(pickle.loads(pickle.dumps(table))), pd.DataFrame(table))
    pd.testing.assert_frame_equal(pd.DataFrame(copy.deepcopy(table)), pd.DataFrame(table))


@pytest.mark.parametrize("table", [comparison(), findings()])
def test_a_table_that_its_user_has_changed_looks_like_any(table: pd.DataFrame) -> None:
    del table[table.columns[0]]
    assert repr(table) == repr(pd.DataFrame(table))
    assert table._repr_html_() == pd.DataFrame(table)._repr_html_()  # type: ignore[operator]
    table = table.iloc[:0]
    assert repr(table).startswith("Empty")


def test_of_one_seed_no_deviation_is_shown() -> None:
    row = {"method": "infl", "metric": "auroc", "mean": 0.9, "sd": 0.0, "worst_site": 0.8, "n_seeds": 1, "seconds": 1.0}
    assert by_method(pd.DataFrame([row]))["auroc"].tolist() == ["0.900"]
    assert by_method(pd.DataFrame([row | {"n_seeds": 2}]))["auroc"].tolist() == ["0.900 ± 0.000"]
    assert by_method(pd.DataFrame([row | {"sd": 0.1}]))["auroc"].tolist() == ["0.900 ± 0.100"]  # over sites


def test_what_is_missing_is_a_dash_and_large_numbers_have_no_decimals() -> None:
    wide = by_method(comparison())
    assert wide.iloc[1, 1:].tolist() == ["0.500 ± –", "–"]
    assert by_method(comparison(), ["none", "auroc"])["none"].tolist() == ["", ""]
    assert by_finding(findings())["got (95 %)"].tolist()[1] == "150 (1.000 to 200)"
    assert by_finding(findings().assign(value=np.nan))["got (95 %)"].tolist()[0].startswith("–")
