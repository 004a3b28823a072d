"""From the records of a comparison to its table."""

import numpy as np
import pytest

from infl._tables import Comparison, few_held_out
from infl.errors import DataError, SettingsError
from infl.tl._comparison import worst_site


def test_the_worst_site_has_the_largest_error_and_the_smallest_accuracy() -> None:
    by_seed = {0: [0.5, 0.9, float("nan")], 1: [0.7, 0.3, 0.4]}
    assert np.isclose(worst_site("accuracy", by_seed), (0.5 + 0.3) / 2)
    assert np.isclose(worst_site("calibration_error", by_seed), (0.9 + 0.7) / 2)
    assert np.isnan(worst_site("auroc", {0: [float("nan")]}))


def compared(holdout: str = "observations") -> Comparison:
    """Two methods at two sites on three splits; at the second site the first is worse."""
    values = [
        {
            "method": method,
            "metric": "accuracy",
            "seed": seed,
            "site": site,
            "value": value + 0.01 * seed * (method == "b"),
        }
        for method, by_site in {"a": (0.9, 0.7, 0.8), "b": (0.6, 0.5, 0.55)}.items()
        for site, value in zip(("s1", "s2", ""), by_site, strict=True)
        for seed in range(3)
    ]
    table = Comparison({"method": ["a", "b"], "metric": ["accuracy"] * 2})
    table.attrs |= {"values": values, "n_test": {"s1": 30, "s2": 4}, "holdout": holdout, "test_share": 0.25}
    return table


def test_a_row_per_site_with_the_worst_one_marked() -> None:
    rows = compared().by_site()
    assert rows["n_test"].tolist() == [30, 4] * 2 and rows["worst"].tolist() == [False, True] * 2
    np.testing.assert_allclose(rows["mean"], [0.9, 0.7, 0.61, 0.51])
    np.testing.assert_allclose(rows["sd"], [0, 0, 0.01, 0.01], atol=1e-12)
    assert "s2 (4)" in few_held_out(compared())


def test_a_difference_is_of_pairs_on_the_same_split() -> None:
    """0.25, 0.24, 0.23: deviation 0.01, error 0.01 √(1/3 + 1/3), t(2) = 4.303; over sites 0.29 and 0.19."""
    found = compared().difference("a", "b")
    np.testing.assert_allclose([found["mean"], found["high"] - found["mean"]], [0.24, 0.01 * (2 / 3) ** 0.5 * 4.302653])
    over_sites = compared("site").difference("a", "b")
    assert over_sites["n"] == 2 and over_sites["mean"] == pytest.approx(0.24)
    for wrong, said in (
        ({"other": "c"}, "method 'c' is not in the table"),
        ({"metric": "x"}, "metric='x' is not in the table"),
    ):
        with pytest.raises(SettingsError, match=said):
            compared().difference("a", **({"other": "b"} | wrong))
    one = compared()
    one.attrs["values"] = [record for record in one.attrs["values"] if record["seed"] == 0]
    with pytest.raises(DataError, match="1 pair of 'a' and 'b' has no interval"):
        one.difference("a", "b")
