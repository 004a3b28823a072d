"""Random sequences of questions under rules of disclosure, and a judge of its own of what was released.

``python -m tests.questions 250 7`` asks the 250 sequences of seed 7; ``benchmarks/questions.py`` asks many such batches. The judge reads what each site sent before it was sealed, as the others
can when they pool all they know, and looks at sets of records by linear algebra where the register looks at atoms.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import infl
from infl.data.asked import asking
from infl.pp._matrix import matrices
from infl.pp._moments import Rows, moment_sums
from infl.privacy import Disclosure, DisclosureRules
from infl.sums import over_sites, run_sums
from infl.tl._group_sums import Grouped, group_sums

SITES = ("a", "b", "c", "d")
N_OBS, N_VARS = 13, 2
RULES = DisclosureRules(k=3, dominance=0.75, min_holders=2, colluders=1, features_per_record=0.65)


@dataclass(frozen=True)
class Question:
    """Sums of all, or of groups: `labels` has a group for each record of each site, -1 for one that the object has not.

    `panel`: which name the features go by.
    """

    members: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    groups: int
    nonzero: bool
    panel: int


@dataclass
class Released:
    """What one site gave in one question: sets of its records by cell, values behind them, and who took part."""

    site: str
    question: Question
    sets: dict[int, np.ndarray] = field(default_factory=dict)
    sums: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    closed: dict[int, list[int]] = field(default_factory=dict)
    nonzero: list[tuple[int, int]] = field(default_factory=list)


def values(site: str) -> np.ndarray:
    """A site's records: one feature that most have, one that few have."""
    rng = np.random.default_rng(SITES.index(site))
    x = rng.integers(1, 5, (N_OBS, N_VARS)).astype(float)
    x[:, 1] *= rng.random(N_OBS) < 0.35
    return x


VALUES = {site: values(site) for site in SITES}


def _labels(draw: Any, near: tuple[tuple[int, ...], ...] | None) -> tuple[tuple[int, ...], ...]:
    """Groups of all sites' records; at one site some are others than before, elsewhere they are as before."""
    if near is None or draw(st.integers(0, 3)) == 0:
        cuts = [draw(st.lists(st.integers(0, N_OBS), min_size=2, max_size=2)) for _ in SITES]
        return tuple(tuple(int((row >= np.array(cut)).sum()) for row in range(N_OBS)) for cut in cuts)
    changed, which = list(map(list, near)), draw(st.integers(0, len(SITES) - 1))
    for row in draw(st.lists(st.integers(0, N_OBS - 1), min_size=1, max_size=4)):
        changed[which][row] = draw(st.integers(-1, 2))
    return tuple(map(tuple, changed))


@st.composite
def sequences(draw: Any) -> list[Question]:
    """One to five questions, each near one before it."""
    asked: list[Question] = []
    for _ in range(draw(st.integers(1, 5))):
        near = draw(st.sampled_from(asked)).labels if asked else None
        members = SITES if draw(st.integers(0, 3)) else draw(st.sampled_from([SITES[:3], SITES[1:]]))
        asked.append(
            Question(
                members,
                _labels(draw, near),
                draw(st.sampled_from([0, 3])),
                draw(st.booleans()),
                draw(st.integers(0, 2)),
            )
        )
    return asked


def ask(questions: list[Question], disclosure: Disclosure) -> list[Released]:
    """Ask them one after the other, and return what each site gave."""
    found = []
    with disclosure:
        for question in questions:
            found += _ask(question)
    return found


def _ask(question: Question) -> list[Released]:
    objects, codes, places = {}, {}, {}
    for site in question.members:
        own = np.array(question.labels[SITES.index(site)])
        places[site] = np.flatnonzero(own >= 0)
        obs = pd.DataFrame(index=[f"{site}{row}" for row in places[site]])
        var = pd.DataFrame(index=[f"panel {question.panel} {j}" for j in range(N_VARS)])
        objects[site], codes[site] = AnnData(VALUES[site][places[site]], obs=obs, var=var), own[places[site]]
    with asking("questions", objects), _sent() as sent:
        at = matrices(objects, None, None)
        if question.groups:
            k = question.groups
            sites: dict[str, Any] = {site: Grouped(at[site], codes[site], k) for site in objects}
            state = run_sums(group_sums(k, N_VARS, nonzero=question.nonzero), sites, None, about="questions")
        else:
            k, codes = 1, {site: np.zeros(len(places[site]), dtype=int) for site in objects}
            state = run_sums(moment_sums(N_VARS), {site: Rows(at[site]) for site in objects}, None, about="questions")
    n, mean = (np.atleast_2d(state[name]) for name in ("n", "mean"))
    shares = [
        arrays for arrays in sent if "size" in arrays and "n" in arrays and np.asarray(arrays["n"]).dtype.kind == "f"
    ]
    found = []
    for site, share in zip(objects, shares, strict=True):
        one = Released(site, question)
        whole = np.zeros(N_OBS, dtype=bool)
        whole[places[site]] = True
        for group, j in np.ndindex(k, N_VARS):
            members = np.zeros(N_OBS, dtype=bool)
            members[places[site][codes[site] == group]] = True
            if not np.isnan(n[group, j]) and np.atleast_2d(share["n"])[group, j]:
                one.sets[group] = members
                if not np.isnan(mean[group, j]):
                    one.sums[group, j] = VALUES[site][members, j]
            if question.groups and np.isnan(mean[group, j]):
                one.closed.setdefault(j, []).extend(np.flatnonzero(members))
            if question.nonzero and question.groups and np.asarray(share["nonzero"])[group, j]:
                one.nonzero.append((int((VALUES[site][members, j] != 0).sum()), int(members.sum())))
        if np.asarray(share["size"]).any():
            one.sets[k] = whole
        found.append(one)
    return found


@contextmanager
def _sent() -> Iterator[list[dict[str, Any]]]:
    """Read what leaves each site, before it is sealed; here it is added as it is, since no question is about the seal."""
    seen: list[dict[str, Any]] = []
    add = over_sites._added

    def added(shares: Any, sites: Any, packing: Any, purpose: str, key: Any) -> dict[str, np.ndarray]:
        total: dict[str, np.ndarray] = {}
        for _, arrays in shares:
            seen.append(dict(arrays))
            for name, values in arrays.items():
                total[name] = total.get(name, 0.0) + np.asarray(values, dtype=float)
        return total

    over_sites._added = added  # type: ignore[attr-defined]
    try:
        yield seen
    finally:
        over_sites._added = add  # type: ignore[attr-defined]


def broken(released: list[Released], rules: DisclosureRules) -> list[str]:
    """Return which rules what was released breaks."""
    return [
        rule
        for rule, breaks in {
            "records": _few,
            "differencing": _differences,
            "dominance": _dominated,
            "sites": _few_sites,
            "members": _members,
            "features": _features,
        }.items()
        if breaks(released, rules)
    ]


def _few(released: list[Released], rules: DisclosureRules) -> bool:
    few = any(0 < s.sum() < rules.k for one in released for s in one.sets.values())
    return few or any(0 < n < rules.k or 0 < of - n < rules.k for one in released for n, of in one.nonzero)


def _differences(released: list[Released], rules: DisclosureRules) -> bool:
    """Whether a combination of released sums is of fewer than k records: the rank falls by more than those records' columns."""
    for site in SITES:
        sets = [s.astype(float) for one in released if one.site == site for s in one.sets.values()]
        if not sets:
            continue
        matrix = np.unique(np.array(sets), axis=0)
        rank = np.linalg.matrix_rank(matrix)
        for size in range(1, rules.k):
            for few in combinations(range(N_OBS), size):
                if np.linalg.matrix_rank(np.delete(matrix, few, axis=1)) < rank:
                    return True
    return False


def _dominated(released: list[Released], rules: DisclosureRules) -> bool:
    for one in released:
        if any(x.max(initial=0) > rules.dominance * x.sum() for x in one.sums.values()):
            return True
        for j, rows in one.closed.items():  # what is closed follows from a known total if other groups are open
            x = VALUES[one.site][rows, j]
            if any(feature == j for _, feature in one.sums) and x.max(initial=0) > rules.dominance * x.sum():
                return True
    return False


def _few_sites(released: list[Released], rules: DisclosureRules) -> bool:
    questions = {id(one.question): one.question for one in released}
    for number, question in questions.items():
        for group in range(max(question.groups, 1) + 1):
            n = sum(group in one.sets for one in released if id(one.question) == number)
            if 0 < n < rules.needed:
                return True
        if _left_to_few(question, [one for one in released if id(one.question) == number], rules):
            return True
    return False


def _left_to_few(question: Question, released: list[Released], rules: DisclosureRules) -> bool:
    """Whether too few sites have a part in the difference of a sum over all records and those over the groups that are open."""
    whole = [one for one in released if question.groups in one.sets]
    opened = {group for one in released for group in one.sets} - {question.groups}
    if len(whole) < rules.needed or not opened:
        return False
    left = []
    for one in released:
        records = np.zeros(N_OBS) - one.sets.get(question.groups, np.zeros(N_OBS))
        left.append(bool((records + sum(one.sets[group] for group in opened & {*one.sets})).any()))
    return 0 < sum(left) < rules.needed


def _members(released: list[Released], rules: DisclosureRules) -> bool:
    """Whether the same records of a site were given to members that differ by too few."""
    seen: dict[tuple[str, bytes], set[tuple[str, ...]]] = {}
    for one in released:
        for chosen in one.sets.values():
            seen.setdefault((one.site, chosen.tobytes()), set()).add(one.question.members)
    return any(
        0 < len(set(a) ^ set(b)) < rules.min_holders for of in seen.values() for a, b in combinations(sorted(of), 2)
    )


def _features(released: list[Released], rules: DisclosureRules) -> bool:
    load: dict[tuple[str, int], np.ndarray] = {}
    for one in released:
        for chosen in one.sets.values():
            of_panel = load.setdefault((one.site, one.question.panel), np.zeros(N_OBS))
            of_panel[chosen] = np.maximum(of_panel[chosen], N_VARS / max(chosen.sum(), 1))
    whole = {site: sum((x for (at, _), x in load.items() if at == site), np.zeros(N_OBS)) for site in SITES}
    return any(x.max() > rules.features_per_record + 1e-9 for x in whole.values())


def without(rule: str) -> DisclosureRules:
    """Return the rules without one of them, for those that are settings."""
    off: dict[str, dict[str, Any]] = {
        "records": {"k": 1},
        "dominance": {"dominance": 1.0},
        "sites": {"colluders": 0},
        "members": {"min_holders": 1, "colluders": 2},
        "features": {"features_per_record": np.inf},
    }
    return replace(RULES, **off[rule])


@dataclass
class Checked:
    """What a batch asked: digests of its sequences, which may come more than once, how much was given and withheld, and what broke."""

    digests: list[str] = field(default_factory=list)
    questions: int = 0
    given: int = 0
    withheld: int = 0
    broken: list[str] = field(default_factory=list)
    last: list[Question] = field(default_factory=list)


def check(n: int, number: int, rules: DisclosureRules = RULES) -> Checked:
    """Ask `n` sequences, those of a seed, under `rules`, or as many as it takes to break one of :data:`RULES`."""
    checked = Checked()

    @seed(number)
    @settings(
        max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(sequences())
    def one(questions: list[Question]) -> None:
        checked.digests.append(sha256(repr(questions).encode()).hexdigest()[:8])
        released = ask(questions, Disclosure(rules))
        checked.questions += len(questions)
        for of_site in released:
            checked.given += len(of_site.sets)
            checked.withheld += max(of_site.question.groups, 1) + 1 - len(of_site.sets)
        checked.broken, checked.last = broken(released, RULES), questions
        assert not checked.broken

    with suppress(AssertionError):
        one()
    return checked


if __name__ == "__main__":
    infl.settings.verbosity = "warning"
    done = check(*map(int, sys.argv[1:3] or ["250", "0"]))
    print(f"{len({*done.digests})} sequences, {done.questions} questions: {done.given} sets given, {done.withheld} not")
    if done.broken:
        sys.exit(f"{', '.join(done.broken)} broken by {done.last}")
