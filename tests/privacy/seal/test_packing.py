"""Ranges and names of a packing, and lanes of more than a few words."""

import numpy as np
import pytest

from infl.errors import SettingsError
from infl.privacy.seal import Context, Field, GroupSeal, Packing, add
from infl.privacy.seal.packing import RANGE


def test_ranges_are_those_of_the_specification() -> None:
    assert RANGE == {32: 2**31 - 1, 64: 2**59}


def test_the_name_that_is_there_twice_is_said() -> None:
    fields = [Field(name, (2,), -10) for name in ("a", "b", "c", "b")]
    with pytest.raises(SettingsError, match="'b' is named twice"):
        Packing(tuple(fields))


def test_long_lanes_of_sums_are_sealed_as_short_ones() -> None:
    n, cohort = 1000, ("a", "b", "c")
    packing = Packing((Field("w", (n,), -20), Field("s", (n,), 0, bits=64)))
    context = Context("run", 1, 0, cohort, "train", packing.digest())
    seal, total = GroupSeal(bytes(range(32))), None
    assert seal.streams_opened == 0
    sums = np.arange(n, dtype=float)
    for site in cohort:
        total = add(total, seal.seal(context, site, np.full(n, 0.5, np.float32), sums, packing))
    assert total is not None
    low, high = seal.unseal(context, cohort, total, packing)
    np.testing.assert_array_equal(high, 3 * sums)
    np.testing.assert_array_equal(low * 2.0**-20, np.full(n, 1.5))


def test_the_arrays_of_a_lane_lie_one_after_the_other() -> None:
    sizes = {"a": 3, "b": 5, "c": 2, "d": 7}
    packing = Packing(
        tuple(Field(f"{name}{bits}", (n,), -10, bits=bits) for name, n in sizes.items() for bits in (32, 64))
    )
    for bits in (32, 64):
        places = {field.name[0]: (part.start, part.stop) for field, part in packing.lane(bits)}
        assert places == {"a": (0, 3), "b": (3, 8), "c": (8, 10), "d": (10, 17)}
