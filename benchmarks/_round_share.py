"""What lock and seal take of a round, for performance.py: ``python _round_share.py WIDTH SAMPLES``.

One site and one round of 5 local epochs, so the message is sealed, added and opened once. The lock is applied once a run, when
its model is handed out: its whole time is counted here.
"""

from __future__ import annotations

import json
import sys
import time

import anndata
import numpy as np
import pandas as pd
import torch

import infl.federation.coordinator
import infl.federation.replica
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy.seal import GroupSeal, Ledger

N_FEATURES = 400
SPENT: dict[str, float] = {}


def timed(owner: object, name: str, what: str) -> None:
    """Count the processor time of a function under `what`."""
    function = getattr(owner, name)

    def counted(*arguments, **options):
        begun = time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            SPENT[what] = SPENT.get(what, 0.0) + time.process_time() - begun

    setattr(owner, name, counted)


def main(width: int, n_obs: int) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_obs, N_FEATURES)).astype(np.float32)
    obs = pd.DataFrame({"y": pd.Categorical(np.where(x[:, 0] > 0, "a", "b"))}, index=[str(i) for i in range(n_obs)])
    sites = {"site": anndata.AnnData(x, obs=obs)}
    task, key = Classifier(target="y", width=width, batch_size=128, validation=0.0, calibrate=False), Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=1, local_epochs=5, min_sites=1)
    timed(GroupSeal, "seal", "seal")
    timed(Ledger, "record", "of it the ledger")
    timed(GroupSeal, "unseal", "open")
    timed(infl.federation.coordinator, "add", "add")
    timed(infl.federation.replica, "lock_model", "lock")
    begun = time.process_time()
    outcome = run_in_process(agreement, task, sites, key)
    total = time.process_time() - begun
    weights = outcome.replica.flat_model.shared.total
    print(json.dumps({"weights": weights, "total": total, "spent": SPENT}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
