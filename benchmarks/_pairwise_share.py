"""What the pairwise seal takes of a round, for rounds.py: ``python _pairwise_share.py SITES SAMPLES``.

All sites and the coordinator work in one process, so processor time is that of all of them. A fit of one round and one of three
give what a round takes: keys, set-up sums and the last judgement come once.
"""

from __future__ import annotations

import json
import sys
import time

import torch

import infl.federation.coordinator
import infl.privacy.seal.reveal
from _fits_on_demand import WIDTH, drawn_sites
from _round_share import SPENT, timed
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy.seal import GroupSeal, PairwiseSite

AT_SITES, AT_COORDINATOR = ("cover", "reveal", "meet"), "uncover"
FEW, MANY = 1, 3
"""Rounds of the two fits."""


def main(n_sites: int, n_obs: int) -> None:
    torch.set_num_threads(1)
    sites, key = drawn_sites(n_sites, n_obs), Keyring.create()
    task = Classifier(target="y", width=WIDTH, batch_size=128, validation=0.0, calibrate=False)
    for name in AT_SITES:
        timed(PairwiseSite, name, name)
    timed(infl.federation.coordinator, AT_COORDINATOR, AT_COORDINATOR)
    timed(infl.privacy.seal.reveal, "combine", "of it secret sharing")
    for name in ("seal", "unseal"):
        timed(GroupSeal, name, name)
    taken, weights = [], 0
    for rounds in (FEW, FEW, MANY):  # the first one loads what is loaded late
        SPENT.clear()
        agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=rounds, local_epochs=5, seal="pairwise")
        begun = time.process_time()
        weights = run_in_process(agreement, task, sites, key).replica.flat_model.shared.total
        taken.append(SPENT | {"all": time.process_time() - begun})
    _, few, many = taken
    a_round = {name: (many[name] - few[name]) / (MANY - FEW) for name in many}
    print(json.dumps({"weights": weights, "round": a_round}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
