"""With ``method="deqms"`` the prior variance follows the number of peptides; ``tests/vectors/deqms.R`` wrote the answers."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.tl.test_de import DESIGN, by_feature, cohort, split

import infl
from infl.errors import InflError, MissingExtraError

DEQMS = json.loads((Path(__file__).parents[1] / "vectors" / "deqms.json").read_text())


def sites(values="x"):
    pooled = cohort(values)
    pooled.var["n_peptides"] = DEQMS["count"]
    return split(pooled, pooled.obs["site"])


@pytest.mark.parametrize(("values", "answer"), [("x", "plain"), ("holes", "missing")])
def test_as_the_papers_steps_in_r(values, answer):
    want = DEQMS[answer]
    found = by_feature(infl.tl.de(sites(values), DESIGN, method="deqms", counts_key="n_peptides"))
    np.testing.assert_allclose(found["t_value"], np.array(want["t"], dtype=float), rtol=1e-6)
    np.testing.assert_allclose(np.log10(found["p_value"]), np.array(want["log10_p"], dtype=float), atol=1e-6)


def test_numbers_of_sites_are_averaged_where_a_feature_was_measured():
    alike, differ = sites(), sites()
    for adata in (*alike.values(), *differ.values()):
        adata.var["n_peptides"] = adata.var["n_peptides"] + 1
    for adata in differ.values():
        adata.var["infl_present"] = True
    differ["a"].var["n_peptides"] = differ["a"].var["n_peptides"] + 0.5
    differ["b"].var["n_peptides"] = differ["b"].var["n_peptides"] - 0.5
    one, other = (infl.tl.de(s, DESIGN, method="deqms", counts_key="n_peptides") for s in (alike, differ))
    np.testing.assert_allclose(by_feature(one)["t_value"], by_feature(other)["t_value"], rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "options", "line"),
    [
        ({}, {}, r"counts_key=None and method='deqms': 'deqms', and it alone, needs the column"),
        ({}, {"counts_key": "n_peptides", "method": "limma"}, r"counts_key='n_peptides' and method='limma'"),
        (
            {},
            {"counts_key": "n_peptides", "trend": True},
            r"trend=True is for limma and voom, and 'deqms' has a trend of",
        ),
        ({}, {"counts_key": "psms"}, r"counts_key 'psms' is missing in var of a; it has 'n_peptides'"),
        ({0: 0}, {"counts_key": "n_peptides"}, r"of a is no number of at least 1 for 1 features \(first: 'p0'\)"),
        ({-1: 2}, {"counts_key": "n_peptides"}, r"there are 1 different ones: take method='limma'"),
    ],
    ids=["no column", "no method", "trend", "missing", "zero", "all alike"],
)
def test_what_cannot_work_is_one_line(change, options, line):
    cohorts = sites()
    for where, value in change.items():  # below 0: all features
        for adata in cohorts.values():
            adata.var.iloc[slice(None) if where < 0 else where, 0] = value
    with pytest.raises(InflError, match=line) as error:
        infl.tl.de(cohorts, DESIGN, **{"method": "deqms", **options})
    assert "\n" not in str(error.value) and "infl_de" not in cohorts["a"].uns


def test_without_scikit_misc_there_is_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "skmisc.loess", None)
    with pytest.raises(MissingExtraError, match=r"method 'deqms' needs scikit-misc: pip install 'infl\[hvg\]'"):
        infl.tl.de(sites(), DESIGN, method="deqms", counts_key="n_peptides")
