"""What a small fit does, in counts: a change that does more of it is noticed here, on any machine."""

import hmac
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.federation.conftest import make_sites
from torch.utils._python_dispatch import TorchDispatchMode

import infl.federation.gathered
import infl.privacy.seal.masks
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.federation.site import Site
from infl.federation.stacked import StackedTrainer
from infl.keys import Keyring
from infl.models import Classifier
from infl.models.locked import LockedModel
from infl.nn.steps import Stepper
from infl.privacy.seal import Context, Field, GroupSeal, Ledger, Packing, add
from infl.privacy.seal.context import MaskedArrays
from infl.privacy.seal.masks import Stream
from infl.privacy.seal.packing import Quantiser

N_SITES, ROUNDS = 5, 3
EXCHANGES = 3 + ROUNDS + 4
"""Count, means, deviations; rounds; last judgement, temperature, confidence, close."""


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count calls from now on."""
    seen: Counter = Counter()

    def watch(owner: Any, name: str, what: str) -> None:
        function: Callable = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            seen[what] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    class Digests:
        digest = staticmethod(hmac.digest)

    monkeypatch.setattr(infl.privacy.seal.masks, "hmac", Digests)
    watch(Digests, "digest", "HMAC")
    watch(Stream, "__init__", "stream")
    watch(Site, "handle", "plan")
    watch(MaskedArrays, "digest", "SHA-256 of a message")
    watch(Quantiser, "__init__", "quantised lane")
    watch(infl.federation.gathered, "add", "addition")
    watch(Stepper, "step", "step")
    watch(Classifier, "evaluate_each", "judging pass")
    watch(LockedModel, "__init__", "locked model")
    return seen


def test_a_fit_does_no_more_than_it_needs(counts: Counter) -> None:
    sites, task, key = make_sites(N_SITES), Classifier(target="label", width=8, n_blocks=1), Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=ROUNDS)
    outcome = run_in_process(agreement, task, sites, key)
    messages = EXCHANGES * N_SITES
    assert outcome.replica.seq == EXCHANGES - 1
    # these lanes are short, so a mask is drawn once for the two neighbours, or a site and who opens: N + 1 for each of three lanes
    # (update, marks, tag), and two tags an exchange
    masks = N_SITES + 1
    keys = (3 * masks + 2) * EXCHANGES
    # in all exchanges but the last one, masks more for sums of all sites and for their tag, which is one more for all
    keys += (2 * masks + 1) * (EXCHANGES - 1)
    streams = keys - 2 * masks * (EXCHANGES - ROUNDS)  # outside rounds there is no update, and nothing to mark
    batches = max(len(site.trainer.batches(_plan(agreement))) for site in outcome.sites.values())
    assert counts == {
        "stream": streams,
        "HMAC": keys,
        "plan": messages + N_SITES,  # the last one brings the last sum
        "SHA-256 of a message": messages + EXCHANGES,  # and of each sum, for the chain
        "quantised lane": 2 * messages,
        "addition": messages,
        "step": ROUNDS * batches,  # of all sites at once
        "judging pass": ROUNDS + 1,
        "locked model": 1,
    }


def _plan(agreement: Agreement) -> Any:
    from infl.federation.messages import Plan

    return Plan(agreement.run, 0, "train", 1, 0, agreement.sites, Packing(()), agreement.digest, 1, "", ())


class Operations(TorchDispatchMode):
    """Counts torch's operations, those of backward passes among them."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.n += 1
        return function(*arguments, **(options or {}))


def test_a_stack_calls_few_operations_more_for_one_site_more(monkeypatch: pytest.MonkeyPatch) -> None:
    train, found = StackedTrainer._train, {}
    for n_sites in (8, 16):
        operations = Operations()

        def counted(*arguments: Any, operations: Operations = operations) -> Any:
            with operations:
                return train(*arguments)

        monkeypatch.setattr(StackedTrainer, "_train", counted)
        one, task = make_sites(1)["site_1"], Classifier(target="label", width=8, n_blocks=1)
        sites = {f"site_{number}": one.copy() for number in range(n_sites)}  # of one step a round
        settings = {"rounds": ROUNDS, "lock": None, "seal": "none", "min_sites": 3}
        run_in_process(Agreement.new(task, task.agree(sites), sites, None, **settings), task, sites, None)
        found[n_sites] = operations.n / ROUNDS
    a_site = (found[16] - found[8]) / 8
    assert a_site <= 25  # a fifth more than when this was written: batch, dropout's masks, update
    assert found[8] - 8 * a_site <= 440  # the step itself, of all of them; alone a site would take as many


def test_sealing_adding_and_opening_copy_a_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infl.privacy.seal.lanes.cores", lambda: 1)
    n = 1 << 21
    message, cohort = 4 * n, ("a", "b", "c")
    packing = Packing((Field("w", (n,), -31),))
    update = np.full(n, 0.25, dtype=np.float32)
    seal, ledger = GroupSeal(bytes(32)), Ledger(None, bytes(32))
    context = Context("run", 1, 0, cohort, "train", packing.digest())
    sums = np.empty(0)
    seal.seal(context, "b", update, sums, packing)  # buffers of a thread are kept
    scratch = 4 << 20

    def peak(function: Callable[[], Any]) -> tuple[Any, int]:
        tracemalloc.start()
        result = function()
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result, largest

    messages = []
    for site in cohort:
        words, size = peak(
            lambda site=site: seal.seal(context, site, update, sums, packing, ledger=ledger if site == "a" else None)
        )
        assert message <= size <= message + scratch
        messages.append(words)
    total, size = peak(lambda: add(None, messages[0]))
    assert message <= size <= message + (1 << 16)
    for words in messages[1:]:
        total, size = peak(lambda total=total, words=words: add(total, words))
        assert size <= 1 << 16
    opened, size = peak(lambda: seal.unseal(context, cohort, total, packing))
    assert message <= size <= message + scratch
    assert opened[0][0] == opened[0][-1] == 3 * (1 << 29)
