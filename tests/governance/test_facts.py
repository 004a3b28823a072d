"""The facts of a report: of the right run, with what people say beside them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.governance.conftest import Reader, metrics, read

import infl
from infl.governance import Facts, steward_page


def test_options_have_no_path_and_no_long_list(usual: Any, tmp_path: Path) -> None:
    options = usual.run.settings["options"] | {"base": "/srv/models/bert", "graph": [["A", "B"]] * 500}
    run = replace(usual.run, settings=usual.run.settings | {"options": options})
    page, card, _ = read(run, tmp_path)
    assert "base bert; graph 500 entries" in page.text and "/srv" not in page.text
    assert card["model_details"]["training_algorithms"]["options"]["base"] == "bert"
    several = replace(run, settings=run.settings | {"options": options | {"target": ["cell_type", "state"]}})
    assert Facts(several).target == "cell_type, state"


@pytest.mark.parametrize(("seal", "conspirator"), [("group", "yes, if it has the messages"), ("pairwise", "no")])
def test_the_seal_decides_what_conspirators_read(usual: Any, seal: str, conspirator: str) -> None:
    run = replace(usual.run, settings=usual.run.settings | {"seal": seal})
    page = Reader(steward_page(Facts(run)).html())
    cells = [data for tag, data in page.texts if tag in ("th", "td")]
    assert cells[cells.index("coordinator that conspires with a site") + 1] == conspirator
    assert ("A site that conspires with the coordinator" in page.text) == (seal == "group")
    assert "only sums over 3 sites or more" in page.text


def test_a_revoked_site_has_no_grant(usual: Any) -> None:
    ring = infl.keys.Keyring.create()
    for name in ("a", "b", "a2"):
        ring.grant(name, infl.keys.Identity.create().public)
    ring.revoke("b")
    grants = Facts(replace(usual.run, key=ring)).grants
    assert grants is not None
    assert grants["site"].tolist() == ["a", "a2"] and grants["versions"].tolist() == ["1, 2", "1, 2"]
    empty = steward_page(Facts(replace(usual.run, key=infl.keys.Keyring.create())))
    assert "the key ring's trail has no grant" in empty.html().lower()


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    st.integers(1, 30),
)
def test_small_numbers_are_not_told(usual: Any, counts: list[tuple[int, int]], least: int) -> None:
    table = metrics(*map(list, zip(*counts, strict=True)))
    shown = Facts(usual.run, site_metrics=table, min_count=least).at_sites
    assert shown is not None
    for name in ("n_obs", "n_judged"):
        told = shown[name].dropna()
        assert (told >= least).all()
        assert told.tolist() == table[name].to_numpy()[shown[name].notna()].tolist()
        hidden = int(shown[name].isna().sum())
        assert hidden != 1 or len(table) == 1  # the sum would tell it
        if (table >= least)[["n_obs", "n_judged"]].all(axis=None):
            assert hidden == 0
    assert (shown["accuracy"].isna() == shown["n_judged"].isna()).all()
