"""Sites of one process: messages go by a call, and all sites come to the same model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from tests.federation.conftest import TappedTransport, fit, weights

import infl
from infl._mudata import without_pull
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.federation.messages import Answer, Plan
from infl.federation.replica import Replica
from infl.keys import Keyring
from infl.models import Classifier, Mosaic, Spatial
from infl.models.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


def test_average_is_weighted_by_training_samples(small_sites: dict[str, AnnData]) -> None:
    """One round against the average written out."""
    run = fit(small_sites, rounds=1, lock=None, seal="none", validation=0.0)
    task = Classifier(target="label", width=8, n_blocks=1, validation=0.0)
    parts = []
    for name in small_sites:
        panel = task.agree(small_sites)
        agreement = Agreement.new(task, panel, [*small_sites], None, rounds=1, lock=None, seal="none")
        outcome = run_in_process(
            agreement, task, small_sites, None, wrap=lambda t, n=name: TappedTransport(t, _only(n))
        )
        parts.append(weights(outcome.run))
    begun = Replica(agreement, None, task).theta
    expected = begun + sum(part - begun for part in parts)  # who is lost counts as zero, with the weight agreed on
    alone = [task.read(small_sites[name], panel, site=name, rng=np.random.default_rng(0)) for name in small_sites]
    assert [len(data.train) for data in alone] == [adata.n_obs for adata in small_sites.values()]
    torch.testing.assert_close(weights(run), expected, rtol=1e-5, atol=1e-6)


def _only(site: str) -> Callable[[Plan, Answer], Answer | None]:
    return lambda plan, reply: reply if plan.kind != "train" or reply.site == site else None


def test_final_sums_that_stay_closed_leave_out_what_follows_from_them(
    small_sites: dict[str, AnnData], capsys: pytest.CaptureFixture[str]
) -> None:
    kinds: list[str] = []

    def lose(plan: Plan, reply: Answer) -> Answer | None:
        kinds.append(plan.kind)
        return None if plan.kind == "latent" and reply.site == "site_2" else reply

    task, key = Classifier(target="label", width=8, n_blocks=1, coordinate=1), Keyring.create()
    agreement = Agreement.new(task, task.agree(small_sites), small_sites, key, rounds=2)
    outcome = run_in_process(agreement, task, small_sites, key, wrap=lambda t: TappedTransport(t, lose))
    assert "site_2 missing in the sums for 'latent': they stay closed" in capsys.readouterr().err
    assert kinds[-12:] == ["temperature"] * 4 + ["confidence"] * 4 + ["close"] * 4  # the programme is what it was
    assert not {"latent_sum", "temperature"} & {*outcome.run.model.private_arrays(key)}
    assert "class_counts" in outcome.run.model.private_arrays(key)
    whole = run_in_process(agreement, task, small_sites, key)
    assert {"latent_sum", "temperature"} <= {*whole.run.model.private_arrays(key)}
    assert torch.equal(outcome.replica.theta, whole.replica.theta)


@pytest.mark.parametrize("lost_in", ["domains 1", "centres_1_0"])
def test_final_sums_that_build_on_each_other_are_left_out_together(
    lost_in: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mixture half way, or clusters of one of several levels, would be no model's."""
    rng = np.random.default_rng(0)
    spots = {s: AnnData(rng.poisson(3.0, (60, 12)).astype(np.float32)) for s in ("a", "b", "c", "d")}
    for name, adata in spots.items():
        adata.var_names, adata.obs_names = [f"g{i}" for i in range(12)], [f"{name}{i}" for i in range(60)]
        adata.obsm["spatial"] = rng.random((60, 2))
    mosaic = lost_in.startswith("centres")
    task: Task = Mosaic(n_domains=2, n_latent=3) if mosaic else Spatial(n_domains=2, n_latent=3, steps=3)
    with without_pull():
        sites: dict[str, Any] = {s: MuData({"rna": adata}) for s, adata in spots.items()} if mosaic else spots

    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == lost_in and reply.site == "b" else reply

    key = Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=1)
    for wrap, whole in ((lambda t: TappedTransport(t, lose), False), (lambda t: t, True)):
        outcome = run_in_process(agreement, task, sites, key, wrap=wrap)
        assert (f"b missing in the sums for '{lost_in}'" in capsys.readouterr().err) is not whole
        infl.tl.predict(adata := sites["a"].copy(), outcome.run.model, key=key)
        assert ("infl_domain" in adata.obs and bool(adata.obs["infl_domain"].notna().all())) is whole
        assert np.isfinite(adata.obsm["X_infl"]).all()
