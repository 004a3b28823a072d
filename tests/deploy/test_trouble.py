"""What coordinator and sites say when something is not as agreed: in one line, to everybody concerned, and going on where it can."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from safetensors import safe_open
from safetensors.numpy import save_file
from tests.federation.test_engine import TappedTransport, run_over

from infl import __version__
from infl.deploy.remote import Patience
from infl.deploy.run_attempt import RunFolder
from infl.deploy.site_worker import DECLINED, SiteWorker
from infl.errors import DataError, FederationError, FileError, SealError, SettingsError
from infl.federation import checkpoint
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Progress
from infl.federation.local import run_in_process
from infl.federation.messages import Alive, Done, Key, Offer, Plan, Stopped, Total, Trouble
from infl.federation.replica import Replica
from infl.federation.report import round_bar
from infl.federation.rules import fedprox
from infl.federation.site import Site
from infl.federation.wire import decode, encode
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy.seal import MaskedArrays

TASK = Classifier(target="label", width=8, n_blocks=1)


def specified(sites: dict[str, AnnData], **settings: Any) -> Agreement:
    return Agreement.new(
        TASK, TASK.agree(sites), sites, None, **{"rounds": 2, "lock": None, "seal": "none", **settings}
    )


def offer(agreement: Agreement) -> bytes:
    return encode(Offer(__version__, agreement.to_json().encode()))


CODE = f"site_1: {DECLINED}"


def said_by(prepare: Callable[[Agreement], Any], *contents: bytes, noted: list[str] | None = None) -> list[Any]:
    """Return the messages that a site sends to the coordinator when it gets these, one after the other."""
    sent: list[Any] = []
    note = (noted if noted is not None else []).append
    worker = SiteWorker("site_1", prepare, lambda content: sent.append(decode(content)), note=note)
    for content in contents:
        worker.receive(content)
    worker._inbox.put(None)
    worker.run()
    return sent


class SiteFolder:
    """Makes a site whose answer to any plan is what a test wants."""

    def __init__(self, sites: dict[str, AnnData], handle: Callable[[Plan], Any]) -> None:
        self.sites, self.handle = sites, handle

    def __call__(self, agreement: Agreement) -> Site:
        site = Site("site_1", self.sites["site_1"], Replica(agreement, None, TASK))
        site.handle = self.handle  # type: ignore[method-assign]
        return site


def raises(error: Exception) -> Callable[[Any], Any]:
    def call(*_: Any) -> Any:
        raise error

    return call


# -- at a site ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error",
    [DataError("site_1 has no column 'label'"), SettingsError("no"), ZeroDivisionError("patient 7")],
)
def test_why_a_site_declines_stays_at_the_site(
    small_sites: dict[str, AnnData], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """One code, whatever the reason is: from reasons, offers would read columns and classes of the data."""
    noted: list[str] = []
    (said,) = said_by(raises(error), offer(specified(small_sites)), noted=noted)
    assert said == Trouble("site_1", 0, CODE)
    assert str(error) in caplog.text or str(error) in noted


def test_a_second_run_is_refused_where_one_was_accepted(small_sites: dict[str, AnnData]) -> None:
    site_folder = SiteFolder(small_sites, raises(AssertionError("asked")))
    noted: list[str] = []
    consent, said = said_by(
        site_folder, offer(specified(small_sites)), offer(specified(small_sites, rounds=3)), noted=noted
    )
    assert consent.site == "site_1"
    assert said == Trouble("site_1", 0, CODE)
    assert noted == ["site_1: another run was offered after one was accepted; refused"]


def a_plan(agreement: Agreement) -> Plan:
    return Plan(agreement.run, 0, "count", 0, 0, agreement.sites, (0, 2, 3), agreement.digest, 0, "", ())


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (SealError("round rejected: the tag does not fit"), "round rejected: the tag does not fit"),
        (ZeroDivisionError("patient 7"), "site_1: a defect of infl; see the log at the site"),
    ],
)
def test_a_site_that_cannot_answer_says_why_and_is_there_for_the_next_plan(
    small_sites: dict[str, AnnData], error: Exception, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([error, None])

    def handle(plan: Plan) -> Any:
        answer = next(answers)
        if answer is not None:
            raise answer
        return None

    agreement = specified(small_sites)
    plan = encode(a_plan(agreement))
    noted: list[str] = []
    again = encode(replace(a_plan(agreement), attempt=1))
    _, trouble, done = said_by(SiteFolder(small_sites, handle), offer(agreement), plan, again, noted=noted)
    assert trouble == Trouble("site_1", 0, CODE) and noted == [why]
    assert isinstance(done, Done)


def test_a_plan_before_any_offer_is_not_answered(small_sites: dict[str, AnnData]) -> None:
    assert said_by(raises(AssertionError("prepared")), encode(a_plan(specified(small_sites)))) == []


def test_messages_that_are_not_for_sites_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert said_by(raises(AssertionError("prepared")), encode(Alive("site_2", 0, 0, ""))) == []
    assert "Alive is not for sites" in caplog.text


# -- at the coordinator ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda plan, reply: Key(reply.site, reply.seq, b""), "sent Key where an answer was due"),
        (lambda plan, reply: Stopped("stranger", reply.seq), "an answer of 'stranger' to exchange 0 was not"),
    ],
)
def test_answers_that_end_a_run(small_sites: dict[str, AnnData], answer: Callable[..., Any], why: str) -> None:
    with pytest.raises(FederationError, match=why):
        run_over(small_sites, lambda transport: TappedTransport(transport, answer))


def test_shares_that_never_come_end_a_pairwise_run_in_one_line(small_sites: dict[str, AnnData]) -> None:
    class Deaf(TappedTransport):
        def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Any:
            for reply in super().ask(cohort, plan_for):
                if type(reply).__name__ != "Reveal":
                    yield reply

    with pytest.raises(FederationError, match="was opened already, and another one would give"):
        run_over(small_sites, Deaf, seal="pairwise")


def test_a_sum_of_strangers_or_out_of_turn_is_not_counted(small_sites: dict[str, AnnData]) -> None:
    replica = Replica(specified(small_sites), None, TASK)
    words = object()
    late = Total(3, "count", 0, 0, ("site_1",), ("site_1",), words)  # type: ignore[arg-type]
    with pytest.raises(FederationError, match="the sum of exchange 0 is missing, the next that came is 3"):
        replica.catch_up((late,))
    strange = Total(0, "count", 0, 0, ("stranger",), ("stranger",), words)  # type: ignore[arg-type]
    with pytest.raises(SealError, match="other sites are asked than agreed"):
        replica.catch_up((strange,))
    assert replica.seq == -1


# -- files -------------------------------------------------------------------------------------------------------------
def test_how_long_a_coordinator_waits_is_kept_with_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.patience == Patience()
    (tmp_path / "waiting.json").write_text('{"silence": 3.0}')
    assert run.patience == Patience(silence=3.0)


@pytest.mark.parametrize("protected", [True, False])
def test_a_checkpoint_that_is_damaged_is_one_line(
    small_sites: dict[str, AnnData], tmp_path: Path, protected: bool
) -> None:
    key = Keyring.create() if protected else None
    agreement = Agreement.new(
        TASK,
        TASK.agree(small_sites),
        small_sites,
        key,
        rounds=2,
        **({} if protected else {"lock": None, "seal": "none"}),
    )
    run_in_process(agreement, TASK, small_sites, key, checkpoint=tmp_path / "run")
    files = [file for file in (tmp_path / "run").rglob("*.safetensors") if file.stat().st_size]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(FileError, match="is damaged"):
        run_in_process(agreement, TASK, small_sites, key, checkpoint=tmp_path / "run", resume=True)


# -- and to the user ---------------------------------------------------------------------------------------------------
def test_the_bar_shows_rounds_and_the_last_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    with round_bar(2, True) as show:
        show(1, [{"loss": 0.9, "val_loss": 0.5}])
    shown = capsys.readouterr().err
    assert "2/2" in shown and "loss 0.500" in shown


def test_no_bar_is_drawn_where_none_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with round_bar(2, False) as show:
        show(1, [{"loss": 0.9, "val_loss": 0.5}])
    assert capsys.readouterr().err == ""


def test_the_proximal_term_is_not_negative() -> None:
    with pytest.raises(SettingsError, match=r"fedprox mu=-1: give a number of at least 0"):
        fedprox(mu=-1)


def test_a_checkpoint_of_an_earlier_version_is_one_line(
    small_sites: dict[str, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Keyring.create()
    agreement = Agreement.new(TASK, TASK.agree(small_sites), small_sites, key, rounds=2)
    state = checkpoint._replica_state

    def without_chain(replica: Replica) -> Any:
        arrays, facts = state(replica)
        return arrays, {name: value for name, value in facts.items() if name != "chain"}

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_replica_state", without_chain)
        run_in_process(agreement, TASK, small_sites, key, checkpoint=tmp_path / "run")
    with pytest.raises(FileError, match="of infl 0.1"):
        run_in_process(agreement, TASK, small_sites, key, checkpoint=tmp_path / "run", resume=True)


def test_a_sum_of_an_earlier_version_is_one_line(tmp_path: Path) -> None:
    """It had two lanes."""
    words = MaskedArrays(np.zeros(2, np.uint32), np.zeros(2, np.uint64))
    total = Total(0, "count", 0, 0, ("a", "b"), ("a", "b"), words)
    checkpoint.Checkpoint(tmp_path).save_progress(Progress(1, 1, (total,)))
    [path] = (tmp_path / "sums").glob("*.safetensors")
    with safe_open(path, "numpy") as file:
        metadata, lanes = file.metadata(), {name: file.get_tensor(name) for name in ("low", "high")}
    save_file(lanes, path, metadata)
    with pytest.raises(FileError, match="earlier version of infl laid them out: begin the run again"):
        checkpoint.Checkpoint(tmp_path).progress()
