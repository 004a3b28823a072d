"""The picture of an audit marks what an attacker learns, as the table has it."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from tests.pl.conftest import legend

import infl
from infl._tables import by_finding
from infl.attacks import Status
from infl.errors import DataError
from infl.pl import colours


def marked(ax, colour):
    """Rows and places of the marks of one colour."""
    places = [
        c.get_offsets()
        for c in ax.collections[1:]
        if len(c.get_facecolor()) and to_hex(c.get_facecolor()[0]).upper() == colour
    ]
    return {int(y): x for x, y in np.concatenate(places)}


def test_audit_marks_what_learns_something(attacks):
    ax = infl.pl.audit(attacks)
    assert marked(ax, colours.VERMILION) == pytest.approx({0: 0.93, 1: 0.40, 5: 0.57})
    assert marked(ax, colours.BLUE) == pytest.approx({2: 0.0, 3: 0.27, 4: 0.61})
    assert legend(ax) == ["chance", "learns nothing", "learns something", "unprotected run"]


def test_audit_believes_the_table(attacks):
    attacks["status"] = ["holds", "leak"] * 3
    assert set(marked(infl.pl.audit(attacks), colours.VERMILION)) == {1, 3, 5}
    attacks.loc[1, "status"] = "of another version"  # neither good nor bad, and called what the table calls it
    ax = infl.pl.audit(attacks)
    assert set(marked(ax, colours.VERMILION)) == {3, 5} and set(marked(ax, colours.BLUE)) == {0, 2, 4}
    assert "of another version" in legend(ax)
    limits = attacks.drop(columns="status").assign(
        chance_low=attacks["chance"] - 0.5, chance_high=attacks["chance"] + 0.5
    )
    assert set(marked(infl.pl.audit(limits), colours.VERMILION)) == {0}


def test_audit_shows_what_was_not_promised_in_another_colour(attacks):
    attacks["status"] = ["holds", "leak", "not promised", "not judged", "holds", "not promised"]
    ax = infl.pl.audit(attacks)
    assert set(marked(ax, colours.VERMILION)) == {1}
    assert set(marked(ax, colours.ORANGE)) == {2, 5}
    assert {0, 4} == set(marked(ax, colours.BLUE))
    assert set(marked(ax, colours.GREY)) == {3}


def test_legend_and_table_have_the_same_words_and_a_mark_for_each(attacks):
    """What was not judged looks like nothing else: not like a leak, and not like what holds, without colour either."""
    attacks["status"] = [str(status) for status in Status]
    ax = infl.pl.audit(attacks)
    assert legend(ax) == ["chance", *attacks["status"], "unprotected run"]
    assert set(legend(ax)[1:-1]) == set(by_finding(attacks)["verdict"])
    looks = [(h.get_marker(), h.get_color()) for h in ax.get_legend().legend_handles[1:-1]]
    assert len(set(looks)) == len(Status)
    marks = [marker for marker, _ in looks]
    assert marks.count(marks[3]) == 1 and marks[3] != marks[1]


def test_audit_shows_what_is_undecided_with_its_interval(attacks):
    attacks["status"] = ["holds", "leak", "inconclusive", "cannot tell", "holds", "holds"]
    attacks["low"], attacks["high"] = attacks["value"] - 0.1, attacks["value"] + 0.2
    ax = infl.pl.audit(attacks)
    assert set(marked(ax, colours.GREY)) >= {2, 3}
    assert {0, 4, 5} == set(marked(ax, colours.BLUE))
    assert {"inconclusive", "cannot tell"} <= set(legend(ax))
    ends = [path.vertices for lines in ax.collections for path in lines.get_paths() if len(path.vertices) == 2]
    for y, value in enumerate(attacks["value"]):
        assert any(np.allclose(line, [[value - 0.1, y], [value + 0.2, y]]) for line in ends)


def test_audit_of_large_values_uses_a_scale_for_each_row(attacks):
    attacks.loc[0, ["metric", "value", "chance", "control"]] = ["mse", 12.0, 20.0, 4.0]  # lower is better
    attacks.loc[1, "control"] = np.nan
    ax = infl.pl.audit(attacks)
    assert ax.get_xlabel() == "0: chance, 1: unprotected run"
    assert marked(ax, colours.VERMILION)[0] == pytest.approx(0.5)


def test_audit_of_something_else(attacks):
    with pytest.raises(DataError, match=r"no column 'control': pl\.audit draws what infl\.tl\.audit returns"):
        infl.pl.audit(attacks.drop(columns="control"))
