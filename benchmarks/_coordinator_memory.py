"""Peak memory of a coordinator between machines, for performance.py: ``python _coordinator_memory.py WEIGHTS SITES``.

Answers come one after the other, as bytes, from sites that are not in this process; sums are kept on disk as in a real run.
Its own memory is what the system cannot take back; pages of the file with the sum that is being sent come on top.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np

from _memory import status
from infl.deploy.remote import Patience, RemoteTransport
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.coordinator import Coordinator, Exchange
from infl.federation.messages import END_KIND, Answer, Done
from infl.federation.wire import encode
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy.seal import Field, MaskedArrays, Packing

ROUNDS = 3


class InstantSites(RemoteTransport):
    """Sites that answer at once, the next one when the coordinator waits for it."""

    def __init__(self, agreement: Agreement) -> None:
        super().__init__(agreement.sites, self.read, Patience(silence=float("inf"), repeat=float("inf")))
        self.agreement, self.waiting = agreement, []
        self.low, self.n_high = np.empty(0, np.uint32), 0
        self.sent, self.sent_bytes, self.own, self.all = 0, 0, 0, 0
        for peer in self.peers.values():
            peer.heard = float("inf")

    def read(self, site, content):
        self.sent_bytes = max(self.sent_bytes, sum(map(len, content)))
        self.sent += sum(int(np.frombuffer(part, np.uint8).max()) for part in content)  # as whatever sends it reads it

    def note(self):
        """Write down the largest memory so far, of its own and with pages of files."""
        sizes = status()
        self.own, self.all = max(self.own, sizes["RssAnon"]), max(self.all, sizes["VmRSS"])

    def ask(self, cohort, plan_for):
        self.plan, self.waiting = plan_for(cohort[0]), list(cohort)
        if len(self.low) != self.plan.lanes[0]:
            self.low = np.zeros(self.plan.lanes[0], np.uint32)  # never written: takes no memory
        yield from super().ask(cohort, plan_for)

    def _next(self):
        if self.waiting:
            site, plan, agreement = self.waiting.pop(0), self.plan, self.agreement
            if plan.kind == END_KIND:
                self.receive(site, encode(Done(site, plan.seq)))
            else:
                words = MaskedArrays(self.low, np.zeros(plan.lanes[1], np.uint64))
                who = (site, agreement.run, plan.seq, plan.attempt, agreement.key_version, agreement.fingerprint)
                self.receive(site, encode(Answer(*who, words)))
            self.note()
        return super()._next()


def main(n: int, n_sites: int) -> None:
    sites = [f"site_{i}" for i in range(n_sites)]
    agreement = Agreement.new(Classifier(target="y"), {"features": [], "classes": ["a", "b"]}, sites, Keyring.create())
    packing = Packing((Field("w", (n,), -31), Field("n", (), 0, bits=64)))
    before = InstantSites(agreement)
    count = Exchange("count", 0, replace(packing, fields=packing.fields[1:]))
    list(Coordinator(agreement, (count,), before).run())
    with tempfile.TemporaryDirectory() as folder:
        store, line = Checkpoint(folder), InstantSites(agreement)

        def save(progress):
            line.note()
            kept = store.save_progress(progress)
            line.note()
            return kept

        exchanges = tuple(Exchange("train", number, packing) for number in range(1, ROUNDS + 1))
        begun = time.process_time()
        assert len(list(Coordinator(agreement, exchanges, line, on_change=save).run())) == ROUNDS
        seconds = (time.process_time() - begun) / ROUNDS
    sizes = {"own": line.own - before.own, "resident": line.all - before.all}
    print(json.dumps(sizes | {"seconds": seconds, "plan": line.sent_bytes}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
