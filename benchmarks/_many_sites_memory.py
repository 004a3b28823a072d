"""Peak memory of a simulated fit, for performance.py: ``python _many_sites_memory.py SITES ASKED``.

All sites have the same small amount of data each; what the data take is measured before the fit and taken off.
"""

from __future__ import annotations

import json
import sys
import time

import anndata
import numpy as np
import pandas as pd
import torch

from _memory import resident
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.keys import Keyring
from infl.models import Classifier

N_OBS, N_FEATURES, ROUNDS = 40, 200, 10


def site(number: int) -> anndata.AnnData:
    rng = np.random.default_rng(number)
    x = rng.normal(size=(N_OBS, N_FEATURES)).astype(np.float32)
    obs = pd.DataFrame({"y": pd.Categorical(np.where(x[:, 0] > 0, "a", "b"))}, index=[f"{i}" for i in range(N_OBS)])
    return anndata.AnnData(x, obs=obs)


def fit(n_sites: int, asked: int) -> dict[str, float]:
    start = resident()[0]
    sites = {f"site_{number}": site(number) for number in range(n_sites)}
    data = resident()[0] - start
    task, key = Classifier(target="y", width=256), Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=ROUNDS, participation=asked / n_sites)
    begun = time.process_time()
    run_in_process(agreement, task, sites, key)
    return {"data": data, "beyond": resident()[1] - data, "seconds": time.process_time() - begun}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(fit(int(sys.argv[1]), int(sys.argv[2]))))
