"""The coordinator: it names who is missing, refuses what it did not ask for, and gets no weight."""

from pathlib import Path

import pytest
from anndata import AnnData
from tests.federation.conftest import TappedTransport, fit, relative, run_over, weights

from infl.errors import FederationError, KeyringError
from infl.federation.messages import Answer, Plan

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


def test_client_sampling_asks_a_share_each_round(small_sites: dict[str, AnnData]) -> None:
    lines: list[TappedTransport] = []
    run = run_over(small_sites, lambda t: lines.append(TappedTransport(t)) or lines[0], participation=0.75, rounds=6)
    cohorts = {p.round: p.cohort for p in lines[0].asked if p.kind == "train"}
    assert [len(c) for c in cohorts.values()] == [3] * 6
    assert len(set(cohorts.values())) > 1
    assert (run.history["n_sites"] == 3).all()


def test_lost_site_costs_itself_only(small_sites: dict[str, AnnData]) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round == 2 and reply.site == "site_2" else reply

    run = run_over(small_sites, lambda t: TappedTransport(t, lose))
    assert run.history["n_sites"].tolist() == [4, 3, 4, 4]
    plain = run_over(small_sites, lambda t: TappedTransport(t, lose), seal="none", lock=None)
    assert relative(weights(run), weights(plain)) < 1e-5


def test_too_few_answers_name_the_missing(small_sites: dict[str, AnnData]) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and reply.site in ("site_2", "site_4") else reply

    with pytest.raises(FederationError, match=r"only 2 of 4 .* missing: site_2, site_4"):
        run_over(small_sites, lambda t: TappedTransport(t, lose))


def test_every_site_must_be_counted(small_sites: dict[str, AnnData]) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "count" and reply.site == "site_1" else reply

    with pytest.raises(FederationError, match="missing: site_1"):
        run_over(small_sites, lambda t: TappedTransport(t, lose))


def test_answer_for_another_key_is_refused_with_both_names(small_sites: dict[str, AnnData]) -> None:
    from dataclasses import replace

    def other(plan: Plan, reply: Answer) -> Answer:
        return replace(reply, key_version=7, fingerprint="ffff") if reply.site == "site_2" else reply

    with pytest.raises(KeyringError, match=r"site_2 used key version 7 \(ffff\)"):
        run_over(small_sites, lambda t: TappedTransport(t, other))


def test_answers_that_nobody_asked_for_are_refused(small_sites: dict[str, AnnData]) -> None:
    from dataclasses import replace

    for change in ({"site": "site_9"}, {"site": "site_1"}, {"seq": 99}):
        with pytest.raises(FederationError, match="not asked for"):
            run_over(small_sites, lambda t, c=change: TappedTransport(t, lambda plan, reply: replace(reply, **c)))


def test_what_the_coordinator_gets_holds_no_weight(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    run = fit(small_sites, checkpoint=tmp_path / "run")
    files = [*(tmp_path / "run" / "sums").iterdir(), *(tmp_path / "run").glob("*.json")]
    assert len(files) == 3
    content = b"".join(file.read_bytes() for file in (*files, tmp_path / "run" / "sites.checkpoint"))
    for tensor in run.model.effective(run.key).values():
        assert tensor.numpy().tobytes()[:16] not in content
