"""The same model, data and steps under three simulators, for performance.py: ``python _simulate.py WHICH ROUNDS [SITES]``.

Prints the whole time in seconds, with the software's own imports and start-up, to the last round's model, and the processor
time of all its processes. `infl` locks and seals; Flower (Ray) and NVIDIA FLARE (its simulator, two threads) average in the
open.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from infl.nn.mlp import ResidualMLP

N_OBS, N_FEATURES, N_CLASSES, BATCH, LR = 64, 100, 4, 32, 1e-3
torch.set_num_threads(1)


def site(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of one site."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(N_OBS, N_FEATURES)).astype(np.float32)
    return x, (x[:, :N_CLASSES].argmax(1)).astype(np.int64)


MODEL = {"n_features": N_FEATURES, "n_classes": N_CLASSES, "width": 64, "n_blocks": 2, "dropout": 0.2}


def build() -> ResidualMLP:
    torch.manual_seed(0)
    return ResidualMLP(**MODEL)


def train(module: torch.nn.Module, number: int) -> None:
    """One epoch at one site."""
    x, y = map(torch.from_numpy, site(number))
    optimiser = torch.optim.AdamW(module.parameters(), lr=LR)
    for index in torch.randperm(len(x)).split(BATCH):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(x[index]), y[index]).backward()
        optimiser.step()


def with_infl(rounds: int, n_sites: int) -> None:
    import anndata
    import pandas as pd

    import infl

    sites = {}
    for number in range(n_sites):
        x, y = site(number)
        obs = pd.DataFrame({"y": pd.Categorical([f"c{k}" for k in y])}, index=[str(i) for i in range(N_OBS)])
        sites[f"site_{number}"] = anndata.AnnData(x, obs=obs)
    options = {"validation": 0.0, "width": 64, "n_blocks": 2, "batch_size": BATCH, "calibrate": False}
    infl.tl.fit_federated(sites, target="y", rounds=rounds, progress=False, **options)


def with_flower(rounds: int, n_sites: int) -> None:
    from flwr.client import ClientApp, NumPyClient
    from flwr.common import ndarrays_to_parameters
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.simulation import run_simulation

    class Client(NumPyClient):
        def __init__(self, number: int) -> None:
            self.number = number

        def fit(self, parameters, config):
            module = build()
            for tensor, value in zip(module.parameters(), parameters, strict=True):
                tensor.data = torch.from_numpy(np.array(value))
            train(module, self.number)
            return [tensor.detach().numpy() for tensor in module.parameters()], N_OBS, {}

    def client_fn(context):
        return Client(int(context.node_config["partition-id"])).to_client()

    def server_fn(context):
        first = ndarrays_to_parameters([tensor.detach().numpy() for tensor in build().parameters()])
        strategy = FedAvg(
            fraction_fit=1.0,
            fraction_evaluate=0.0,
            min_fit_clients=n_sites,
            min_available_clients=n_sites,
            initial_parameters=first,
        )
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(ServerApp(server_fn=server_fn), ClientApp(client_fn=client_fn), n_sites, backend_config=resources)


CLIENT = """
import sys
sys.path.insert(0, {here!r})
import nvflare.client as flare
from _simulate import build, train
flare.init()
number = int(flare.get_site_name().split("-")[-1]) - 1
while flare.is_running():
    model = flare.receive()
    module = build()
    module.load_state_dict(model.params)
    train(module, number)
    flare.send(flare.FLModel(params=module.cpu().state_dict(), meta={{"NUM_STEPS_CURRENT_ROUND": 2}}))
"""


def with_flare(rounds: int, n_sites: int) -> None:
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.recipe import SimEnv

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "client.py"
        script.write_text(CLIENT.format(here=str(Path(__file__).resolve().parent)))
        model = {"class_path": "infl.nn.mlp.ResidualMLP", "args": MODEL}
        recipe = FedAvgRecipe(
            name="simulate", min_clients=n_sites, num_rounds=rounds, model=model, train_script=str(script)
        )
        recipe.execute(SimEnv(num_clients=n_sites, num_threads=2, workspace_root=folder))


def processor_time() -> float:
    """Return the processor seconds of this process and its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


WAYS = {"infl": with_infl, "flower": with_flower, "flare": with_flare}

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    begun, processor = time.perf_counter(), processor_time()
    WAYS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 100)
    print(json.dumps({"seconds": time.perf_counter() - begun, "processor": processor_time() - processor}))
