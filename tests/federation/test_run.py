"""What a run keeps: the best round by validation, else the last, and the history of all."""

import pytest
import torch
from anndata import AnnData
from tests.federation.conftest import TappedTransport, fit, run_over, weights

import infl
from infl.federation.messages import Answer, Plan

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


def test_best_round_by_validation_is_kept(small_sites: dict[str, AnnData]) -> None:
    run = fit(small_sites, lock=None, lr=0.05, rounds=8)
    best = run.history["val_loss"].idxmin()
    assert run.history.index[run.history["best"]].tolist() == [best]
    if best < 8:
        shorter = fit(small_sites, lock=None, lr=0.05, rounds=int(best))
        torch.testing.assert_close(weights(run), weights(shorter))


def test_early_stopping(small_sites: dict[str, AnnData]) -> None:
    run = fit(small_sites, lr=0.1, rounds=60, patience=2)
    assert len(run.history) < 60
    judged = run.history["val_loss"]
    assert judged.notna().all()
    assert len(judged) - 1 - judged.iloc[:-1].idxmin() == 2  # a round's model is judged while the next is trained
    assert run.history.index[run.history["best"]].tolist() == [judged.idxmin()]


def test_without_validation_the_last_round_is_kept(small_sites: dict[str, AnnData]) -> None:
    run = fit(small_sites, validation=0.0)
    assert run.history.index[run.history["best"]].tolist() == [4]


@pytest.mark.parametrize("seal", ["group", "pairwise", "none"])
def test_losses_and_metrics_are_of_all_sites_or_not_told(small_sites: dict[str, AnnData], seal: str) -> None:
    """A sum of some beside one of all would tell the missing site's; the best round is one of those that are told."""

    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round in (2, 4) and reply.site == "site_2" else reply

    lines: list[TappedTransport] = []
    run = run_over(small_sites, lambda t: lines.append(TappedTransport(t, lose)) or lines[0], seal=seal)
    assert run.history["n_sites"].tolist() == [4, 3, 4, 3]
    assert run.history["loss"].isna().tolist() == [False, True, False, True]
    judged = [c for c in run.history if c.startswith("val_")]
    assert len(judged) > 1  # a round's model is judged in the next one; the last one, at the end
    assert run.history[judged].isna().all(axis=1).tolist() == [True, False, True, False]
    assert run.history.index[run.history["best"]].tolist() == [run.history["val_loss"].idxmin()]
    sums = {total.seq: total for plan in lines[0].asked for total in plan.previous}.values()
    assert {len(total.words.of_all) > 0 for total in sums if total.responders != total.cohort} == {False}
    assert all(len(total.words.of_all) for total in sums if total.kind == "train" and total.responders == total.cohort)


def test_small_runs_say_kilobytes_and_large_ones_megabytes(khan_sites) -> None:
    few = {site: adata[:, :3].copy() for site, adata in khan_sites.items()}
    for sites, unit in ((few, "kB"), (khan_sites, "MB")):
        options = {"width": 0, "progress": False, "rounds": 1, "target": "tumour_class"}
        run = infl.tl.fit_federated(sites, **(options if unit == "kB" else options | {"width": 64}))
        sent = float(run.history["bytes_sent"].sum())
        line = run.summary().splitlines()[-1]
        shown = f"{sent / 1e3:.1f} kB" if unit == "kB" else f"{sent / 1e6:.2f} MB"
        assert line.startswith(f"left the sites: {shown} in "), line
