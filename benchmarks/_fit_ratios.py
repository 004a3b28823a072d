"""A locked, sealed fit of five sites, a FedAvg loop written by hand, and the published keyed method, for performance.py.

``python _fit_ratios.py CASE`` prints processor seconds of each, taken in turn, as JSON: the same model, optimiser and steps.
"""

from __future__ import annotations

import json
import sys
import time

import torch

import infl
from infl.keys import Keyring
from lock import by_hand, parts
from panels import PANELS, use_data_folder


def main(case: str) -> None:
    torch.set_num_threads(1)
    if case in PANELS:
        (sites, _, target), rounds, repeats = parts(case, 0), 20, 7
    else:
        use_data_folder()
        sites, target, rounds, repeats = infl.pp.split_sites(infl.datasets.papalexi(), 5), "perturbation", 1, 3
    key, taken = Keyring.create(), {"infl": [], "hand": [], "published": []}
    options = {"target": target, "rounds": rounds, "key": key, "progress": False}
    ways = {
        "infl": lambda: infl.tl.fit_federated(sites, **options),
        "hand": lambda: by_hand(sites, target, rounds),
        "published": lambda: infl.tl.fit_federated(sites, lock="published", **options),
    }
    for number in range(repeats + 1):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            if number:  # the first one loads what is loaded late
                taken[name].append(time.process_time() - begun)
    print(json.dumps({"taken": taken, "samples": sum(adata.n_obs for adata in sites.values())}))


if __name__ == "__main__":
    main(sys.argv[1])
