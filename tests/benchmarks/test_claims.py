"""What is claimed has what it is judged by, and decisions are those that the limits allow."""

import pytest

import _claims
import _evidence
import _origin


@pytest.fixture(scope="module")
def rows():
    return [(name, row) for name, content in _origin.results() for row in content["rows"]]


def row(**more):
    return {"what": "a", "asked": "above 0", "measured": 0.5, "spread": None, "seeds": 1, "ok": None} | more


def one(**more) -> _claims.Claim:
    [claim] = _claims.claims([("bench", {"rows": [row(**more)], "code": {}})])
    return claim


def test_rows_that_were_not_judged_claim_nothing() -> None:
    assert list(_claims.claims([("bench", {"rows": [row(), row(verdict="reported")]})])) == []


def test_a_claim_says_what_decided_it() -> None:
    over = {"interval": [0.1, 0.9], "unit": "patient", "n_units": 4, "data": "khan", "kind": "development"}
    shown = one(ok=True, **over)
    assert (shown.basis, shown.decision, shown.measured, shown.over) == (
        "interval",
        "shown",
        "0.5 [0.1, 0.9]",
        "4 patients",
    )
    assert one(verdict="inconclusive", **over).decision == "inconclusive"
    assert one(ok=False, **over).decision == "**not shown**"
    attack = {"low": -0.1, "high": 0.3, "trials": 20}
    assert (one(status="inconclusive", **attack).basis, one(status="inconclusive", **attack).decision) == (
        "attack",
        "inconclusive",
    )
    assert one(status="leak", ok=False, **attack).decision == "**leak**"
    assert one(status="inconclusive", ok=False, **attack).decision == "inconclusive"
    assert one(status=["holds", "leak", "inconclusive"], ok=False, **attack).decision == "**leak**"
    assert one(status=["holds", "holds"], ok=True, **attack).decision == "holds"
    starts = one(ok=True, spread=0.1, seeds=5, spread_of="starts")
    assert (starts.basis, starts.over, starts.measured) == ("starts", "5 seeds", "0.5 ± 0.1")
    assert (one(ok=True).basis, one(ok=False).decision) == ("figure", "**not met**")
    assert [_claims.plural(unit) for unit in ("study", "patient")] == ["studies", "patients"]


def test_what_failed_comes_first() -> None:
    lines = _claims.table([one(ok=True), one(verdict="inconclusive", interval=[0, 1]), one(ok=False)]).splitlines()[2:]
    assert [line.split(" | ")[-1].removesuffix(" |").strip("*†") for line in lines] == [
        "not met",
        "inconclusive",
        "met",
    ]
    assert _claims.counted([one(ok=True), one(ok=False), one(ok=True)]) == "2 met, 1 not met"


def test_an_interval_names_its_units_its_set_and_its_kind() -> None:
    found = [c for c in _claims.claims() if c.basis == "interval" and c.data]
    assert len(found) > 50
    assert [c for c in found if not c.over or c.kind != _evidence.DATA_SETS[c.data].kind] == []


def test_no_attack_holds_with_a_limit_above_its_margin(rows) -> None:
    holding = [(name, row) for name, row in rows if row.get("status") == "holds" and row.get("limit") is not None]
    assert len(holding) > 100
    assert [(name, r["what"]) for name, r in holding if r["high"] > r["limit"]] == []
    assert [(name, r["what"]) for name, r in rows if r.get("status") == "holds" and r.get("ok") is not True] == []


def test_equal_is_said_of_no_interval_that_crosses_its_margin(rows) -> None:
    equal = [(name, row) for name, row in rows if row.get("verdict") == "equal"]
    assert equal
    for name, found in equal:
        margin = float(found["asked"].removeprefix("within ").removesuffix(", shown"))
        assert abs(found["measured"]) < margin and found["p"] < 0.05, (name, found["what"])
