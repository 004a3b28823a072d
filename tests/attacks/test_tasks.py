"""Every attack that applies to a run of a task can be run on it, whichever task it is, and finds no leak.

With so few records some cannot be judged; a lying coordinator always can be. What asks for images or for many records is tried
elsewhere (``NEED_MORE``).
"""

from __future__ import annotations

import sys
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import infl
from infl.attacks import ATTACKS, AuditContext
from infl.attacks._kit.theft import thefts

_place = spec_from_file_location("infl_bits", Path(__file__).parents[1] / "bits.py")  # the fixed set of small runs
assert _place is not None and _place.loader is not None
bits = sys.modules["infl_bits"] = module_from_spec(_place)
_place.loader.exec_module(bits)

NEED_MORE = {"patch_inversion", "missing_site"}


class FittedError(Exception):
    """A case has its run."""


class Caught(bits.Record):
    """Takes the first run of a case, and ends it."""

    def run(self, run: Any, sites: Any = None, name: str = "") -> None:
        raise FittedError(run, sites)


def fitted(case: str) -> tuple[Any, Any]:
    with pytest.raises(FittedError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bits.CASES[case](Caught())
    return caught.value.args


@pytest.mark.long
@pytest.mark.parametrize("case", ["adapter", "histology", "mosaic", "perturbation", "scanvi", "scvi", "spatial"])
def test_an_audit_of_any_task_runs_to_its_end(case: str) -> None:
    for module in {"adapter": ["peft", "transformers"], "scanvi": ["scvi"], "scvi": ["scvi"]}.get(case, []):
        pytest.importorskip(module, reason=f"needs the extra of model={case!r}")
    run, sites = fitted(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = infl.tl.audit(run, sites, attacks=[name for name in ATTACKS if name not in NEED_MORE], progress=False)
    status = table.groupby("attack")["status"].agg(set)
    always = {"split_view", "downgrade", "replayed_round", "extra_rounds", "code_in_file"}
    for name in always | (
        {"refusal_oracle"} if case != "mosaic" else set()
    ):  # which changes the one matrix of an AnnData
        assert status[name] == {"holds"}, name
    assert "leak" not in set(table["status"]), table[["attack", "status", "note"]].to_string()


def test_a_thief_of_several_labels_has_samples_with_labels() -> None:
    """Also where a site lacks the columns, and records the labels."""
    from tests.tl.conftest import cohort, fit

    sites = cohort()
    for number, adata in enumerate(sites.values()):
        order = np.arange(adata.n_obs)
        adata.obs["label"] = adata.obs["label"].astype(object).where(order % 4 > 0, None)
        adata.obs["half"] = pd.Series(np.where(order < 20, "x", "y"), adata.obs_names, dtype=object).where(
            order % 8 > 3
        )
        if number == 2:
            del adata.obs["label"], adata.obs["half"]
    context = AuditContext(fit(sites, target=["label", "half"], rounds=1), sites)
    theft = next(thefts(context, 1))
    x, truth = theft.samples
    assert len(x) == len(truth) == len(theft.strata) > 0 and bool((truth >= 0).any(1).all())
    assert set(truth[:, 0].tolist()) >= {0, 1}
    assert 0 <= theft.question.score(theft.module(x), truth) <= 1
