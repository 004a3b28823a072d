"""What a site lays into a message: all that fits, zeros and a mark where something does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infl.errors import SettingsError
from infl.federation.packings import rescaled, update_exponent
from infl.privacy.seal import Field, Packing
from infl.privacy.seal.packing import LANE_RANGE, limit
from infl.sums.lanes import (
    LEFT_OUT_COUNT,
    MOST_STEPS_AT_ONCE,
    WIDENING_STEP,
    WIDER_COUNT,
    fitted,
    join_sums,
    split_sums,
    sums_packing,
)

UPDATE = (Field("w", (2,), -20), Field("b", (3,), -24))
TRAIN = Packing(
    (
        *UPDATE,
        Field("n", (), 0, bits=64),
        *sums_packing({"train_loss": ()}).fields,
        Field(WIDER_COUNT, (2, MOST_STEPS_AT_ONCE), 0, bits=64),
        *sums_packing({"metric.loss": (), "metric.of": (2,)}).fields[:-1],
    )
)
SUMS = {
    "n": np.array(7.0),
    "train_loss": np.array(3.5),
    "metric.loss": np.array(1.5),
    "metric.of": np.array([2.0, 4.0]),
}
ROOM = [limit(32, 3, 0.5) * f.step for f in UPDATE]
"""Largest values of a site with half the weight, after weighting."""


def laid(update: list[float], **changes: object) -> tuple[list[float], dict[str, np.ndarray], bool]:
    arrays = SUMS | {name.replace("__", "."): np.asarray(value) for name, value in changes.items()}
    low, high, fits = fitted(np.array(update, np.float32), arrays, TRAIN, 3, weight=0.5)
    return low.tolist(), split_sums(high, TRAIN), fits


def test_what_fits_is_as_it_is() -> None:
    low, sums, fits = laid([1.0, -2.0, 0.5, 0.0, 3.0])
    assert fits and low == [1.0, -2.0, 0.5, 0.0, 3.0]
    assert {name: sums[name].tolist() for name in SUMS} == {name: value.tolist() for name, value in SUMS.items()}
    assert sums[LEFT_OUT_COUNT] == 0 and not sums[WIDER_COUNT].any()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_last_value_that_fits_and_the_first_that_does_not(number: int, sign: int) -> None:
    place, step = (0, 2)[number], UPDATE[number].step
    update = np.zeros(5)
    for units, fits in ((0, True), (1, False)):
        update[place] = sign * (ROOM[number] + units * step) / 0.5
        low, _, fit = fitted(update, SUMS, TRAIN, 3, weight=0.5)
        assert fit is fits and bool(low[place]) is fits


@pytest.mark.parametrize(
    ("factor", "steps"), [(1.01, 1), (15.9, 1), (16.1, 2), (2.0**23.9, 6), (2.0**27.9, 7), (2.0**31.9, 8), (2.0**60, 8)]
)
def test_an_array_out_of_range_says_by_how_many_steps(factor: float, steps: int) -> None:
    low, sums, fits = laid([0.0, 0.0, 0.0, 2 * ROOM[1] * factor, 0.0])
    assert not fits and low == [0.0] * 5
    assert sums[LEFT_OUT_COUNT] == 1 and sums["n"] == 0 and sums["train_loss"] == 0
    assert sums[WIDER_COUNT].sum() == 1 and sums[WIDER_COUNT][1, steps - 1] == 1
    asked = rescaled({}, sums[WIDER_COUNT], np.zeros(5, np.int32), TRAIN)
    assert asked == {"b": WIDENING_STEP * steps}
    assert sums["metric.loss"] == 1.5 and sums["metric.of"].tolist() == [2.0, 4.0]  # they are of the model before
    wider = TRAIN.coarser(asked)
    if steps < MOST_STEPS_AT_ONCE:  # and then it fits
        update = np.array([0.0, 0.0, 0.0, 2 * ROOM[1] * factor, 0.0], np.float32)
        assert fitted(update, SUMS, wider, 3, weight=0.5)[2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_left_out_and_asks_for_no_scale(value: float) -> None:
    low, sums, fits = laid([0.0, value, 1.0, 1.0, 1.0])
    assert not fits and low == [0.0] * 5 and sums[LEFT_OUT_COUNT] == 1 and not sums[WIDER_COUNT].any()


def test_a_loss_that_is_not_finite_takes_the_update_with_it() -> None:
    low, sums, fits = laid([1.0] * 5, train_loss=np.nan)
    assert not fits and low == [0.0] * 5 and sums["n"] == 0 and sums["metric.loss"] == 1.5


def test_metrics_that_are_not_finite_are_all_zero_and_the_update_stays() -> None:
    low, sums, fits = laid([1.0] * 5, metric__loss=np.inf)
    assert not fits and low == [1.0] * 5 and sums["n"] == 7 and sums[LEFT_OUT_COUNT] == 0
    assert sums["metric.loss"] == 0 and sums["metric.of"].tolist() == [0.0, 0.0]


def test_the_widest_need_of_several_sites_decides() -> None:
    asked = np.zeros((2, MOST_STEPS_AT_ONCE))
    asked[0, [0, 4]], asked[1, 2] = (3, 1), 2
    nothing = np.zeros(5, np.int32)
    assert rescaled({}, asked, nothing, TRAIN) == {"w": 5 * WIDENING_STEP, "b": 3 * WIDENING_STEP}
    assert rescaled({"w": WIDENING_STEP}, asked, nothing, TRAIN) == {"w": 6 * WIDENING_STEP, "b": 3 * WIDENING_STEP}
    assert rescaled({}, np.zeros((2, MOST_STEPS_AT_ONCE)), nothing, TRAIN) == {}


@pytest.mark.parametrize("sign", [1, -1])
def test_scales_go_back_a_step_when_sums_are_far_below_the_range(sign: int) -> None:
    """One odd update must not leave all later ones on a scale on which they are zero."""
    quiet, wide = np.zeros((2, MOST_STEPS_AT_ONCE)), {"w": 2 * WIDENING_STEP, "b": WIDENING_STEP}
    low = np.zeros(5, np.int32)
    low[1] = sign * (LANE_RANGE[32] >> 2 * WIDENING_STEP)  # of w, as large as may be
    assert rescaled(wide, quiet, low, TRAIN) == {"w": 2 * WIDENING_STEP}
    low[1] -= sign
    assert rescaled(wide, quiet, low, TRAIN) == {"w": WIDENING_STEP}
    assert rescaled({"w": WIDENING_STEP}, quiet, low, TRAIN) == {}


@given(st.lists(st.floats(-1e34, 1e34), min_size=1, max_size=5), st.integers(1, 4))
def test_limbs_add_to_the_sum(values: list[float], n: int) -> None:
    packing = sums_packing({"x": (len(values),)})
    rows = [np.array(values) / 2**k for k in range(n)]
    total = sum(join_sums({"x": row}, packing) for row in rows)
    for field, place in packing.lane(64):
        assert np.abs(total[place]).max() <= limit(64, 1) * field.step
    np.testing.assert_allclose(split_sums(total, packing)["x"], sum(rows), rtol=1e-14, atol=n * 2.0**-21)


def test_an_array_that_a_task_forgot_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"'x' is to be summed with shape \(2,\), and there is none"):
        join_sums({}, sums_packing({"x": (2,)}))


def test_the_first_scale_has_room_for_64_steps_an_epoch_and_a_gain_of_4() -> None:
    """A step of Adam is below 3.2 lr; the lane has 31 bits beside the sign."""
    largest = 1 / (3.2 * 64 * 4)
    for epochs in (1, 3):
        assert update_exponent(0.999 * largest / epochs, epochs) == -31
        assert update_exponent(1.001 * largest / epochs, epochs) == -30


def test_sums_lie_on_three_scales_and_are_of_all() -> None:
    fields = sums_packing({"x": (2,), "y": ()}).fields
    assert [(f.name, f.shape, f.exponent) for f in fields] == [
        ("x", (2,), -20),
        ("y", (), -20),
        ("x.high", (2,), 20),
        ("y.high", (), 20),
        ("x.higher", (2,), 60),
        ("y.higher", (), 60),
        (LEFT_OUT_COUNT, (), 0),
    ]
    assert all(f.of_all and f.bits == 64 for f in fields)
