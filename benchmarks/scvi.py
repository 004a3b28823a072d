"""scVI over three replicates as sites: what federation, lock and seal cost, and what a thief has (docs/single_cell.md).

On a quarter of the cells of a CRISPR screen (5,182 × 299), three draws. Pooled scVI is scvi-tools' own training with the
same module, optimiser and KL warm-up, judged on cells that neither saw. Taking as many steps as a site, each on a batch of
all three sites' size, it is what a federated run with one exchange a step would be; taking a step for every batch of one
site's size, it goes over the cells as often, in three times as many steps. Batch mixing and purity are shares among the 15
nearest neighbours, classes weighted alike: mixing is 1 where batches mix perfectly, purity 0.5 where the latent does not
tell knock-outs from controls. scib-metrics is not used.
"""

from __future__ import annotations

import os
import sys
import time
import warnings

sys.path.append(sys.path.pop(0))  # `import scvi` means scvi-tools, not this file

import numpy as np
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scvi.model import SCVI
from sklearn.neighbors import NearestNeighbors

import infl
from _table import Table
from infl.federation.seeds import generator
from infl.keys import Keyring
from infl.models.locked import LockedModel
from infl.models.scvi import Scvi
from infl.models.task import ADAM_EPS, Step
from infl.tl._predict import infer

SEEDS = int(os.environ.get("INFL_BENCH_SEEDS", "3"))
ROUNDS = int(os.environ.get("INFL_BENCH_ROUNDS", "40"))
STRONG = ("IFNGR1", "IFNGR2", "JAK2", "STAT1")
SITE = "replicate"
TASK = Scvi(validation=0.0)


class Clock(Callback):
    """Seconds of each epoch of scvi-tools' training."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self.begun = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


def parts(seed: int) -> tuple[AnnData, AnnData]:
    """Return training and held-out cells."""
    cells = infl.datasets.papalexi()[seed % 4 :: 4]
    held = generator(seed, "held out").random(cells.n_obs) < 0.15
    return cells[~held].copy(), cells[held].copy()


def federated(train: AnnData, seed: int, rounds: int = ROUNDS, **options: object):
    return infl.tl.fit_federated(train, TASK, site_key=SITE, rounds=rounds, seed=seed, progress=False, **options)


def pooled(train: AnnData, seed: int, batch_size: int, rounds: int = ROUNDS) -> tuple[LockedModel, list[float]]:
    """Train with scvi-tools; return its model and the seconds of each epoch."""
    torch.manual_seed(seed)
    cells, clock = train.copy(), Clock()
    SCVI.setup_anndata(cells, batch_key=SITE)
    model = SCVI(cells, **TASK.module_options())
    model.train(
        max_epochs=rounds,
        train_size=1.0,
        batch_size=batch_size,
        accelerator="cpu",
        plan_kwargs={
            "optimizer": "AdamW",
            "lr": TASK.lr,
            "eps": ADAM_EPS,
            "weight_decay": TASK.weight_decay,
            "n_epochs_kl_warmup": TASK.kl_warmup * rounds,
        },
        callbacks=[clock],
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
    )
    return infl.tl.from_scvi(model, key=None, lock=None), clock.seconds


def negative_elbo(module: torch.nn.Module, cells: AnnData, panel: dict) -> float:
    """Return the negative evidence lower bound a cell, each cell with its own site as batch."""
    sums = []
    for site in panel["sites"]:
        part = cells[cells.obs[SITE] == site]
        sums.append(TASK.evaluate(module, TASK.read(part, panel, site=site), np.arange(part.n_obs)))
    return TASK.summarise({name: sum(s[name] for s in sums) for name in sums[0]})["loss"]


def neighbours(latent: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of a cell's 15 nearest neighbours with its own label, cells and neighbours weighted so that classes are alike."""
    near = NearestNeighbors(n_neighbors=16).fit(latent).kneighbors(return_distance=False)[:, :15]
    classes, code, count = np.unique(labels, return_inverse=True, return_counts=True)
    weight = 1 / count[code]
    own = (weight[near] * (code[near] == code[:, None])).sum(1) / weight[near].sum(1)
    return float(np.mean([own[code == c].mean() for c in range(len(classes))]))


def purity(latent: np.ndarray, cells: AnnData) -> float:
    """Return the purity of strong knock-outs against controls."""
    target = cells.obs["perturbation"].astype(str)
    chosen = target.isin([*STRONG, "control"]).to_numpy()
    return neighbours(latent[chosen], (target[chosen] == "control").to_numpy())


def mixing(latent: np.ndarray, cells: AnnData) -> float:
    """Return how well batches mix: 1 when a cell's neighbours are of its own batch by chance only, 0 when all are."""
    chance = 1 / cells.obs[SITE].nunique()
    return (1 - neighbours(latent, cells.obs[SITE].to_numpy())) / (1 - chance)


def federation(table: Table) -> LockedModel:
    """Federated against pooled, and what keys are worth."""
    loss, mixed, pure = [], [], []
    worth: dict[str, list[float]] = {"right": [], "none": [], "wrong": [], "untrained": []}
    for seed in range(SEEDS):
        train, test = parts(seed)
        run = federated(train, seed)
        panel = run.model.header.panel
        same_steps, _ = pooled(train, seed, TASK.batch_size * len(panel["sites"]))
        same_passes, _ = pooled(train, seed, TASK.batch_size)
        models = ((run.model, run.key), (same_steps, None), (same_passes, None))
        loss.append([negative_elbo(model.module(key), test, panel) for model, key in models])
        latents = [infer(test, model, key)["latent"] for model, key in models]
        mixed.append([mixing(z, test) for z in latents])
        pure.append([purity(z, test) for z in latents])

        data = TASK.read(test, panel, site="held out")
        worth["right"].append(pure[-1][0])
        worth["none"].append(purity(infer(test, run.model, None)["latent"], test))
        keys = [Keyring.create() for _ in range(10)]
        worth["wrong"].append(np.mean([purity(infer(test, run.model, k, verify=False)["latent"], test) for k in keys]))
        fresh = [TASK.build(panel).eval() for _ in range(10)]
        worth["untrained"].append(np.mean([purity(TASK.infer(m, data, {})["latent"], test) for m in fresh]))
        print(seed, loss[-1], mixed[-1], pure[-1], flush=True)

    for column, pooling in ((1, "pooled in as many steps"), (2, "pooled in as many passes, three times the steps")):
        asked = column == 1
        ours, reference = np.array(loss).T[[0, column]]
        gap = (ours - reference) / reference
        table.add(
            f"held-out negative ELBO a cell, relative to {pooling}",
            "<= 0.01" if asked else "for comparison",
            gap,
            ok=bool(gap.mean() <= 0.01) if asked else None,
            federated=ours.tolist(),
            pooled=reference.tolist(),
        )
        total = 0.4 * np.array(mixed) + 0.6 * np.array(pure)
        for what, values in (
            ("0.4 batch mixing + 0.6 purity of the latent (scIB's weights)", total),
            ("batch mixing of the latent", mixed),
            ("purity of strong knock-outs against control", pure),
        ):
            ours, reference = np.array(values).T[[0, column]]
            judged = asked and values is total
            table.add(
                f"{what}, minus {pooling}",
                ">= -0.02" if judged else "for comparison",
                ours - reference,
                ok=bool((ours - reference).mean() >= -0.02) if judged else None,
                federated=ours.tolist(),
                pooled=reference.tolist(),
            )
    chance = np.array(worth["untrained"])
    for who, what in (("none", "no key"), ("wrong", "ten wrong keys")):
        excess = np.array(worth[who]) - chance
        table.add(
            f"{what}: purity above that of an untrained network",
            "<= 0.05",
            excess,
            ok=bool(excess.mean() <= 0.05),
            right_key=worth["right"],
            untrained=chance.tolist(),
        )
    return run.model


def lock_and_seal_change_nothing(table: Table) -> None:
    difference = []
    for seed in range(SEEDS):
        train, test = parts(seed)
        sealed = federated(train, seed, rounds=4)
        plain = federated(train, seed, rounds=4, lock=None, seal="none")
        a, b = infer(test, sealed.model, sealed.key)["latent"], infer(test, plain.model, None)["latent"]
        difference.append(float(np.abs(a - b).max()))
    table.add(
        "latent, locked and sealed against neither, largest difference",
        "<= 1e-3",
        difference,
        ok=max(difference) <= 1e-3,
    )


def round_time(table: Table, repeats: int = 3) -> None:
    """The quickest locked and sealed round over the quickest epoch of scvi-tools, as many batches of one size each, in turn."""
    train, _ = parts(0)
    ratio = []
    for seed in range(repeats):
        run = federated(train, seed, rounds=10)
        _, seconds = pooled(train, seed, TASK.batch_size, rounds=10)
        ratio.append(float(run.history["seconds"].min()) / min(seconds))
    table.add(
        "seconds of a locked and sealed round over an epoch of scvi-tools on the same cells",
        "<= 1.2",
        ratio,
        ok=float(np.mean(ratio)) <= 1.2,
    )


def thief(table: Table, model: LockedModel, n_cells: int = 200, steps: int = 60) -> None:
    """Fine-tuning stolen weights on few cells of one's own against training from scratch on the same."""
    difference, scratch_loss = [], []
    for seed in range(5):
        _, test = parts(3)  # cells that the model was not fitted on
        panel, rng = model.header.panel, np.random.default_rng(seed)
        order = rng.permutation(test.n_obs)
        own, rest = TASK.read(test[order[:n_cells]], panel, site="thief"), test[order[n_cells:]]
        batches = [rng.choice(n_cells, 64, replace=False) for _ in range(steps)]
        losses = []
        for stolen in (True, False):
            torch.manual_seed(seed)
            module = model.module() if stolen else TASK.build(panel)
            optimiser = torch.optim.AdamW(module.train().parameters(), lr=3e-3)
            for number, index in enumerate(batches):
                optimiser.zero_grad()
                TASK.loss(module, own.batch(index), Step(1, 1, number, steps)).backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 100.0)
                optimiser.step()
            losses.append(negative_elbo(module.eval(), rest, panel))
        difference.append((losses[1] - losses[0]) / losses[1])
        scratch_loss.append(losses[1])
    table.add(
        f"thief with {n_cells} cells: relative gain of stolen weights over scratch, held-out ELBO",
        "<= 0.02",
        difference,
        ok=float(np.mean(difference)) <= 0.02,
        scratch=scratch_loss,
    )


def main() -> None:
    warnings.simplefilter("ignore")
    table = Table("scvi")
    lock_and_seal_change_nothing(table)
    round_time(table)
    thief(table, federation(table))
    table.save()


if __name__ == "__main__":
    main()
