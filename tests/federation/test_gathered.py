"""What a coordinator adds: answers that were asked for, each site's once."""

from dataclasses import replace

import numpy as np
import pytest

from infl.errors import FederationError, KeyringError
from infl.federation.gathered import Gathered
from infl.federation.messages import Answer, Key, Plan, Subtotal
from infl.privacy.seal import MaskedArrays

PLAN = Plan("run", 3, "train", 1, 0, ("a", "b", "c", "d"), (2, 1, 0), "agreed", 1, "key", ())


def words(*low: int) -> MaskedArrays:
    return MaskedArrays(np.array(low, np.uint32), np.array([sum(low)], np.uint64))


def answer(site: str, *low: int, **changes: object) -> Answer:
    return replace(Answer(site, "run", 3, 0, 1, "key", words(*low), {"b": b"share"}), **changes)


def test_a_sum_of_parts_is_the_sum_of_all() -> None:
    whole, north, south = Gathered(PLAN), Gathered(replace(PLAN, cohort=("a", "b"))), Gathered(PLAN)
    answers = {site: answer(site, 2**31 + n, n) for n, site in enumerate("abd")}
    for one in answers.values():
        whole.take(one)
    north.take(answers["b"])
    north.take(answers["a"])
    part = north.subtotal("north")
    assert part is not None and part.sites == ("a", "b")
    south.take(answers["d"])
    south.take(part)
    assert south.responders == whole.responders == ("a", "b", "d") and south.shares == whole.shares
    assert south.words is not None and whole.words is not None and south.words.digest() == whole.words.digest()


def test_of_nobody_there_is_no_subtotal() -> None:
    assert Gathered(PLAN).subtotal("north") is None


@pytest.mark.parametrize("sites", [(), ("a", "a"), ("a", "e"), ("b", "c")])
def test_a_region_counts_no_site_twice_and_none_that_was_not_asked(sites: tuple[str, ...]) -> None:
    gathered = Gathered(PLAN)
    gathered.take(answer("b", 1, 1))
    with pytest.raises(FederationError, match="an answer of 'north' to exchange 3 was not asked for; refused"):
        gathered.take(Subtotal("north", "run", 3, 0, 1, "key", sites, words(1, 1), {}))
    assert gathered.responders == ("b",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seq": 2}, "to exchange 2 was not asked for"),
        ({"run": "other"}, "another run or attempt"),
        ({"attempt": 1}, "another run or attempt"),
        ({"words": words(1)}, "another run or attempt"),
    ],
)
def test_an_answer_to_something_else_is_refused(changes: dict[str, object], why: str) -> None:
    gathered = Gathered(PLAN)
    with pytest.raises(FederationError, match=why):
        gathered.take(answer("a", 1, 1, **changes))
    assert gathered.words is None and gathered.responders == ()


def test_an_answer_under_another_key_is_refused_with_both_names() -> None:
    with pytest.raises(KeyringError, match=r"a used key version 2 \(other\), the run has 1 \(key\)"):
        Gathered(PLAN).take(answer("a", 1, 1, key_version=2, fingerprint="other"))


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(FederationError, match="a sent Key where an answer was due"):
        Gathered(PLAN).take(Key("a", 3, b""))
