"""Sets of features on the table of infl.tl.de: decoupler is handed the right numbers, and what is missing is one line."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import infl
from infl.errors import InflError, MissingExtraError

NET = pd.DataFrame({"source": ["up"] * 6 + ["mixed"] * 6 + ["rare"] * 2, "target": [*"abcdef", *"aghijk", *"ab"]})


@pytest.fixture
def table():
    t = np.r_[np.full(6, 8.0), np.linspace(-1, 1, 14), np.nan]
    return pd.DataFrame({"variable": list("abcdefghijklmnopqrstu"), "t_value": t, "log_fc": t / 4})


@pytest.fixture
def library(monkeypatch):
    """In decoupler's place: scores are means, p-values fall with them; what it was given is kept."""
    given = {}

    def ulm(data, net, tmin):
        given.update(data=data, net=net, tmin=tmin)
        sets = [name for name, of in net.groupby("source") if of["target"].isin(data.columns).sum() >= tmin]
        members = {name: net.loc[net["source"] == name, "target"] for name in sets}
        scores = pd.DataFrame({name: data[of].mean(axis=1) for name, of in members.items()})
        return scores, np.exp(-scores)

    monkeypatch.setitem(sys.modules, "decoupler", SimpleNamespace(mt=SimpleNamespace(ulm=ulm)))
    return given


def test_the_statistic_of_each_known_feature_is_tested(table, library):
    found = infl.tl.enrich(table, NET)
    assert found["source"].tolist() == ["up", "mixed"] and found["n"].tolist() == [6, 6]
    assert found["score"][0] == 8 and found["adj_p_value"].is_monotonic_increasing
    assert library["data"].shape == (1, 20) and library["data"]["a"].item() == 8 and library["tmin"] == 5
    infl.tl.enrich(table, NET, column="log_fc", tmin=2)
    assert library["data"]["a"].item() == 2 and library["tmin"] == 2


def test_decoupler_itself(table):
    pytest.importorskip("decoupler")
    found = infl.tl.enrich(table, NET)
    assert found["source"][0] == "up" and found["adj_p_value"][0] < 0.01 < found["adj_p_value"][1]


def test_without_decoupler_there_is_a_remedy(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "decoupler", None)
    with pytest.raises(MissingExtraError, match=r"needs decoupler: pip install 'infl\[enrich\]'"):
        infl.tl.enrich(table, NET)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"table": "de.csv"}, "table= is str, no table: give what infl.tl.de returned"),
        (
            {"column": "stat"},
            "table= has no column 'stat': give what infl.tl.de returned; it has 'variable', 't_value'",
        ),
        ({"net": NET.rename(columns={"target": "gene"})}, "net= has no column 'target': one row per member of a set"),
        ({"net": NET.iloc[:0]}, "net= is empty"),
        (
            {"net": NET.assign(target=NET["target"].str.upper())},
            r"the most: 0, of 'up'\): lower tmin=, or use the names",
        ),
        ({"method": "gsva"}, "method='gsva': give one of 'ulm'"),
    ],
    ids=["no table", "no column", "no target", "empty", "other names", "method"],
)
def test_what_cannot_be_tested_is_one_line(table, library, change, line):
    options = {"table": table, "net": NET} | change
    with pytest.raises(InflError, match=line) as error:
        infl.tl.enrich(**options)
    assert "\n" not in str(error.value)
