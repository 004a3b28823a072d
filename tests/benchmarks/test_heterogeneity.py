"""Differences are judged over what would be drawn anew."""

import json

import pytest

from _texts import RESULTS
from heterogeneity import judge


def row(what: str, asked: str, measured: float, **more: object) -> dict:
    return {"what": what, "asked": asked, "measured": measured, "ok": True, "low": 0.0, "high": 1.0} | more


def test_studies_are_the_unit_where_they_are_left_out() -> None:
    ours, theirs = {"a": 0.9, "b": 0.5, "c": 0.7}, {"a": 0.6, "b": 0.5, "c": 0.4}
    rows = [
        {"what": "studies: infl, setting chosen in the fold", "by_site": ours},
        {"what": "studies: fedavg", "by_site": theirs},
        row("studies: infl minus fedavg", "above 0 with 95 % interval", 0.2, spread=0.01, seeds=10),
    ]
    judge(rows)
    assert rows[2]["interval"] == pytest.approx([0.2 - 4.302653 * 0.1, 0.2 + 4.302653 * 0.1])  # sd 0.1732, √3
    assert (rows[2]["ok"], rows[2]["unit"], rows[2]["n_units"]) == (False, "study", 3)
    assert "low" not in rows[2] and "interval" not in rows[0]


@pytest.mark.parametrize(
    ("what", "asked", "measured", "ok"),
    [
        ("khan, a site lacks 40 %: its gain over alone", "above 0", 0.2, True),
        ("khan, a site lacks 40 %: its gain over alone", "above 0", 0.1, False),
        ("khan, a site lacks 40 %: loss of the others", "at most 0.02", 0.0, False),
        ("khan, a site lacks 40 %: loss of the others", "at most 0.3", 0.0, True),
        ("breast rna, α = 0.1: best rule by validation (x) minus pooled", "at least -0.04", 0.0, False),
        ("stem cells: best rule by validation (x) minus alone", "as measured", 0.3, None),
    ],
)
def test_what_was_asked_is_met_where_the_interval_shows_it(what: str, asked: str, measured: float, ok: bool) -> None:
    rows = [row(what, asked, measured, spread=0.1, seeds=10)]
    judge(rows)
    half = 2.262157 * 0.1 * (0.1 + 3 / 7) ** 0.5
    assert rows[0]["interval"] == pytest.approx([measured - half, measured + half])
    assert rows[0]["ok"] is ok


def test_saved_differences_are_judged() -> None:
    rows = json.loads((RESULTS / "heterogeneity.json").read_text())["rows"]
    again = json.loads(json.dumps(rows))
    judge(again)
    assert again == rows and sum("interval" in row for row in rows) == 18
