"""What a sealed message belongs to: any other exchange, cohort or packing has another digest; sums wrap around."""

from dataclasses import fields, replace

import numpy as np
import pytest

from infl.errors import FederationError
from infl.privacy.seal import Context, MaskedArrays, add

BASE = Context("run", 3, 0, ("a", "b", "c"), "train", "0f", "a1", "e2")
CHANGES = {
    "run": "other",
    "round": 4,
    "attempt": 1,
    "cohort": ("a", "b", "d"),
    "kind": "count",
    "packing": "0e",
    "agreement": "a2",
    "epochs": "",
}


@pytest.mark.parametrize("name", [field.name for field in fields(Context)])
def test_a_digest_is_of_every_field(name):
    assert replace(BASE, **{name: CHANGES[name]}).digest() != BASE.digest() == replace(BASE).digest()


def test_names_cannot_be_cut_another_way():
    cuts = [("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ("d", "c", "ab")]
    assert len({replace(BASE, cohort=cohort).digest() for cohort in cuts}) == len(cuts)


def test_a_site_has_its_place_in_the_cohort_and_only_one():
    assert [BASE.position(site) for site in "abc"] == [0, 1, 2]
    with pytest.raises(FederationError, match="two sites are called 'a': give each its own name"):
        replace(BASE, cohort=("a", "b", "a"))


def words(*values):
    return MaskedArrays(np.array(values, np.uint32), np.array(values, np.uint64), np.array(values, np.uint64))


def test_words_add_up_modulo_their_size_and_messages_stay_as_they_were():
    first, second = words(1, 2**32 - 1), words(2, 3)
    total = add(add(None, first), second)
    assert total.low.tolist() == [3, 2] and total.high.tolist() == [3, 2**32 + 2]
    assert first.low.tolist() == [1, 2**32 - 1] and second.low.tolist() == [2, 3]
    top = MaskedArrays(np.zeros(0, np.uint32), np.array([2**64 - 1], np.uint64))
    assert add(add(None, top), top).high.tolist() == [2**64 - 2]


def test_a_sum_in_which_somebody_is_missing_is_without_what_is_of_all():
    assert words(1, 2).of_some().lanes == (2, 2, 0) and words(1, 2).lanes == (2, 2, 2)
    assert words(1, 2).digest() != words(2, 1).digest() == words(2, 1).copy().digest()
