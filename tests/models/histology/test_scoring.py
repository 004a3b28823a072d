"""What the histology model is judged by, and what it is compared on."""

import warnings

import numpy as np
import pytest

import infl
from infl.errors import InflWarning
from infl.models.histology import Histology
from infl.models.histology.scoring import gains, pearson
from infl.models.histology.spots import parts_of
from infl.models.neighbours import Sections
from infl.sums.share import share_moments


def test_the_network_counts_for_what_it_surely_adds_over_sections_and_regions():
    rng = np.random.default_rng(0)
    step, rest = rng.normal(size=(2, 8, 3))
    section, region = np.repeat([0, 1], 4), np.repeat([5, 2, 9, 1], 2)
    found = gains(step, rest, section, region)
    parts = np.split(step, 2), np.split(rest, 2)
    each = [((a - a.mean(0)) * (b - b.mean(0))).mean(1) for a, b in zip(*parts, strict=True)]
    room = [((a - a.mean(0)) ** 2).mean(1) for a in parts[0]]
    np.testing.assert_allclose(found[0], share_moments([g.sum() for g in each], [m.sum() for m in room]))
    of_regions = (np.concatenate(values).reshape(4, 2).sum(1) for values in (each, room))
    np.testing.assert_allclose(found[1], share_moments(*of_regions))

    helps = Histology().after({"features": []})[0]
    everywhere, in_one = (
        helps.combine({"moments": np.stack([share_moments(g, [1] * len(g))] * 2)}, {})["share"]
        for g in ([0.5] * 3, [1.5, 0, 0])
    )
    assert (everywhere, in_one) == (0.5, 0)


def test_parts_that_are_held_out_are_told_apart():
    row = np.column_stack([np.arange(9.0), np.zeros(9)])
    part = parts_of(Sections({"": np.arange(9)}, row, "a"), np.array([0, 1, 2, 5, 6]), n_neighbors=2)
    assert len({*part[:3]}) == len({*part[5:7]}) == 1 and len({*part}) == 6
    apart = parts_of(Sections({"x": np.arange(4), "y": np.arange(4, 9)}, row, "a"), np.arange(9), n_neighbors=2)
    assert len({*apart[:4]}) == len({*apart[4:]}) == 1 and len({*apart}) == 2


def test_correlation_of_sums_is_that_of_values():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 3))
    b[:, 2] = 1.0
    da, db = a - a.mean(0), b - b.mean(0)
    found = pearson({"guess": (da**2).sum(0), "truth": (db**2).sum(0), "both": (da * db).sum(0)})
    np.testing.assert_allclose(found, [*(np.corrcoef(a[:, j], b[:, j])[0, 1] for j in (0, 1)), 0.0])


@pytest.mark.long
def test_compare_knows_the_task(sites):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        table = infl.tl.compare(
            sites, "histology", seeds=1, rounds=2, holdout="site", methods=["infl", "pooled", "baseline"], progress=False,
            section_key="section",
        )  # fmt: skip
    value = table[table["metric"] == "pearson"].set_index("method")["mean"]
    assert value["infl"] > 0.3 and abs(value["infl"] - value["pooled"]) < 0.05 and value["baseline"] > 0.1
