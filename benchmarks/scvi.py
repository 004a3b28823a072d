"""scVI over three replicates as sites: what federation, lock and seal cost, and what a thief has (docs/scvi.md).

On a quarter of the cells of a CRISPR screen (5,182 × 299). Pooled scVI is scvi-tools' own training with the same module,
optimiser and KL warm-up, judged on cells that neither saw. Taking as many steps as a site, each on a batch of all three
sites' size, it is what a federated run with one exchange a step would be; taking a step for every batch of one site's size,
it goes over the cells as often, in three times as many steps.

The latent is judged with scib-metrics on control cells and cells whose strong target is knocked out, a sample of the three
quarters that nobody was fitted on: `replicate` is the batch, knocked out or not the label, all metrics and weights are the
package's own. Purity is the share of such cells among a cell's 15 nearest neighbours that have its label, both labels
weighted alike: 0.5 where the latent does not tell them apart.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

sys.path.append(sys.path.pop(0))  # `import scvi` means scvi-tools, not this file

import numpy as np
import scanpy as sc
import torch
from anndata import AnnData
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from scib_metrics.benchmark import Benchmarker
from scib_metrics.nearest_neighbors import NeighborsResults
from scvi.model import SCVI
from sklearn.neighbors import NearestNeighbors

import infl
from _evidence import over_resplits
from _table import Table
from infl.federation.seeds import generator
from infl.keys import Keyring
from infl.models.locked import LockedModel
from infl.models.locked.outputs import infer
from infl.models.scvi import Scvi
from infl.models.task import ADAM_EPS, Step

SEEDS = int(os.environ.get("INFL_BENCH_SEEDS", "5"))
ROUNDS = int(os.environ.get("INFL_BENCH_ROUNDS", "30"))
STRONG = ("IFNGR1", "IFNGR2", "JAK2", "STAT1")
SITE, STATE = "replicate", "state"
N_JUDGED = 1000
TASK = Scvi(validation=0.0)
TRAININGS = ("federated", "pooled in as many steps", "pooled in as many passes, three times the steps")
TEST_SHARE, DATA = 0.15, "papalexi"
SCIB = ("Total", "Batch correction", "Bio conservation")


class Clock(Callback):
    """Seconds of each epoch of scvi-tools' training, whose optimiser may begin anew in each."""

    def __init__(self, *, restart: bool = False) -> None:
        self.seconds: list[float] = []
        self.restart = restart

    def on_train_epoch_start(self, trainer: Trainer, *_: object) -> None:
        self.begun = time.perf_counter()
        for optimiser in trainer.optimizers if self.restart else ():
            optimiser.state.clear()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


def parts(seed: int) -> tuple[AnnData, AnnData, AnnData]:
    """Return training cells, held-out cells, and a sample of other controls and strong knock-outs, to judge the latent by."""
    cells, rng = infl.datasets.papalexi(), generator(seed, "held out")
    mine = np.arange(cells.n_obs) % 4 == seed % 4
    held = rng.random(mine.sum()) < 0.15
    target = cells.obs["perturbation"].astype(str)
    others = np.flatnonzero(~mine & target.isin([*STRONG, "control"]))
    judged = cells[np.sort(rng.permutation(others)[:N_JUDGED])].copy()
    judged.obs[STATE] = np.where(judged.obs["perturbation"] == "control", "control", "knocked out")
    drawn = cells[mine]
    return drawn[~held].copy(), drawn[held].copy(), judged


def federated(
    train: AnnData, seed: int, rounds: int = ROUNDS, *, task: Scvi = TASK, site_key: str = SITE, **options: object
):
    return infl.tl.fit_federated(train, task, site_key=site_key, rounds=rounds, seed=seed, progress=False, **options)


def pooled(
    train: AnnData, seed: int, batch_size: int, rounds: int = ROUNDS, *, restart: bool = False
) -> tuple[LockedModel, list[float]]:
    """Train with scvi-tools; return its model and the seconds of each epoch. `restart`: the optimiser forgets before each."""
    torch.manual_seed(seed)
    cells, clock = train.copy(), Clock(restart=restart)
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


def nearest(latent: np.ndarray, n: int) -> NeighborsResults:
    """Return the nearest cells of each, itself first."""
    distance, index = NearestNeighbors(n_neighbors=n).fit(latent).kneighbors(latent)
    return NeighborsResults(indices=index, distances=distance)


def purity(latent: np.ndarray, cells: AnnData) -> float:
    """Return the purity of strong knock-outs against controls."""
    near = nearest(latent, 16).indices[:, 1:]
    _, code, count = np.unique(cells.obs[STATE], return_inverse=True, return_counts=True)
    weight = 1 / count[code]
    own = (weight[near] * (code[near] == code[:, None])).sum(1) / weight[near].sum(1)
    return float(np.mean([own[code == c].mean() for c in (0, 1)]))


def scib(latents: Mapping[str, np.ndarray], cells: AnnData) -> dict[str, dict[str, float]]:
    """Return scib-metrics' total and its two parts for each latent."""
    cells = cells.copy()
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    for name, latent in latents.items():
        cells.obsm[name] = latent
    bench = Benchmarker(
        cells, batch_key=SITE, label_key=STATE, embedding_obsm_keys=list(latents), n_jobs=1, progress_bar=False
    )
    bench.prepare(neighbor_computer=nearest)
    bench.benchmark()
    table = bench.get_results(min_max_scale=False)
    return {name: {part: float(table.loc[name, part]) for part in SCIB} for name in latents}


def federation(table: Table) -> list[tuple[LockedModel, Keyring]]:
    """Federated against pooled, and what keys are worth; return the models with their keys."""
    runs: list[tuple[LockedModel, Keyring]] = []
    loss: dict[str, list[float]] = {name: [] for name in TRAININGS}
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in TRAININGS[:2]}
    worth: dict[str, list[float]] = {"right": [], "none": [], "wrong": [], "untrained": []}
    for seed in range(SEEDS):
        train, test, judged = parts(seed)
        run = federated(train, seed)
        panel = run.model.header.panel
        same_steps, _ = pooled(train, seed, TASK.batch_size * len(panel["sites"]))
        same_passes, _ = pooled(train, seed, TASK.batch_size)
        models = dict(zip(TRAININGS, ((run.model, run.key), (same_steps, None), (same_passes, None)), strict=True))
        for name, (model, key) in models.items():
            loss[name].append(negative_elbo(model.module(key), test, panel))
        latents = {name: infer(judged, *models[name])["latent"] for name in TRAININGS[:2]}
        for name, score in scib(latents, judged).items():
            scores[name].append(score)

        data = TASK.read(judged, panel, site="judged")
        keys = [Keyring.create() for _ in range(10)]
        fresh = [TASK.build(panel).eval() for _ in range(10)]
        worth["right"].append(purity(latents["federated"], judged))
        worth["none"].append(purity(infer(judged, run.model, None)["latent"], judged))
        worth["wrong"].append(
            np.mean([purity(infer(judged, run.model, key, verify=False)["latent"], judged) for key in keys])
        )
        worth["untrained"].append(np.mean([purity(TASK.infer(m, data, {})["latent"], judged) for m in fresh]))
        runs.append((run.model, run.key))
        print(seed, *(v[-1] for v in [*loss.values(), *scores.values(), *worth.values()]), flush=True)

    ours = np.array(loss["federated"])
    for name, asked in zip(TRAININGS[1:], (True, False), strict=True):
        gap = over_resplits(ours / np.array(loss[name]) - 1, TEST_SHARE)
        what, more = f"held-out negative ELBO a cell, relative to {name}", {"data": DATA, "pooled": loss[name]}
        if asked:
            table.bound(what, gap, most=0.01, federated=loss["federated"], **more)
        else:
            table.estimate(what, "for comparison", gap, federated=loss["federated"], **more)
    for part in SCIB:
        ours, reference = (np.array([score[part] for score in scores[name]]) for name in TRAININGS[:2])
        gap = over_resplits(ours - reference, TEST_SHARE)
        what = f"scib-metrics, {part.lower()} of the latent, minus pooled in as many steps"
        more = {"data": DATA, "federated": ours.tolist(), "pooled": reference.tolist()}
        if part == "Total":
            table.equal(what, gap, 0.02, **more)
        else:
            table.estimate(what, "for comparison", gap, **more)
    chance = np.array(worth["untrained"])
    for who, what in (("none", "no key"), ("wrong", "ten wrong keys")):
        excess = over_resplits(np.array(worth[who]) - chance, TEST_SHARE)
        more = {"right_key": worth["right"], "untrained": chance.tolist()}
        table.bound(f"{what}: purity above that of an untrained network", excess, most=0.05, data=DATA, **more)
    return runs


def lock_and_seal_change_nothing(table: Table) -> None:
    difference = []
    for seed in range(SEEDS):
        train, test, _ = parts(seed)
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
    train, _, _ = parts(0)
    ratio = []
    for seed in range(repeats):
        run = federated(train, seed, rounds=10)
        _, seconds = pooled(train, seed, TASK.batch_size, rounds=10)
        ratio.append(min(run.history.attrs["seconds"]) / min(seconds))
    table.add(
        "seconds of a locked and sealed round over an epoch of scvi-tools on the same cells",
        "<= 1.2",
        ratio,
        ok=float(np.mean(ratio)) <= 1.2,
    )


def thief(table: Table, runs: Sequence[tuple[LockedModel, Keyring]], n_cells: int = 200, steps: int = 60) -> None:
    """Fine-tuning stolen weights on few cells of one's own against training from scratch on the same, for as many steps.

    The same is done with the weights that the key opens: what there was to steal.
    """
    gain: dict[str, list[float]] = {"stolen": [], "opened": []}
    for seed, (model, key) in enumerate(runs):
        _, _, cells = parts(seed)  # cells that the model was not fitted on
        panel, rng = model.header.panel, np.random.default_rng(seed)
        order = rng.permutation(cells.n_obs)
        own, rest = TASK.read(cells[order[:n_cells]], panel, site="thief"), cells[order[n_cells:]]
        batches = [rng.choice(n_cells, 64, replace=False) for _ in range(steps)]
        loss = {}
        for start in ("scratch", "stolen", "opened"):
            torch.manual_seed(seed)
            module = TASK.build(panel) if start == "scratch" else model.module(key if start == "opened" else None)
            optimiser = torch.optim.AdamW(module.train().parameters(), lr=3e-3)
            for number, index in enumerate(batches):
                optimiser.zero_grad()
                TASK.loss(module, own.batch(index), Step(1, 1, number, steps)).backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 100.0)
                optimiser.step()
            loss[start] = negative_elbo(module.eval(), rest, panel)
        for start, values in gain.items():
            values.append((loss["scratch"] - loss[start]) / loss["scratch"])
    found = {start: over_resplits(values, TEST_SHARE) for start, values in gain.items()}
    what = f"thief with {n_cells} cells: relative gain of stolen weights over scratch, held-out ELBO"
    table.bound(what, found["stolen"], most=0.02, data=DATA)
    what = f"the same with {n_cells} cells and the weights that the key opens"
    table.estimate(what, "for comparison", found["opened"], data=DATA)


def restarted(train: AnnData, seed: int) -> LockedModel:
    """Train on pooled data in as many steps, with an optimiser that begins anew each epoch, as a site's does each round."""
    model, _ = pooled(train, seed, TASK.batch_size * train.obs[SITE].nunique(), restart=True)
    return model


def mixing(table: Table) -> None:
    """Why batches mix less than in the pooled latent: one thing at a time is as it is there, or steps are shorter."""
    ways = (
        "federated",
        "steps a third as long",
        "sites hold all replicates alike",
        "pooled, optimiser anew each epoch",
        "pooled",
    )
    scores: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for seed in range(SEEDS):
        train, _, judged = parts(seed)
        alike = train.copy()
        alike.obs["part"] = [f"part {i}" for i in generator(seed, "alike").integers(0, 3, train.n_obs)]
        shorter, beside = replace(TASK, lr=TASK.lr / 3), replace(TASK, categorical_covariates=[SITE])
        runs = [
            federated(train, seed),
            federated(train, seed, task=shorter),
            federated(alike, seed, task=beside, site_key="part"),
        ]
        models = [(run.model, run.key) for run in runs]
        models += [(restarted(train, seed), None), (pooled(train, seed, TASK.batch_size * 3)[0], None)]
        latents = {way: infer(judged, *model)["latent"] for way, model in zip(ways, models, strict=True)}
        for way, score in scib(latents, judged).items():
            scores[way].append(score)
    for part in SCIB:
        pooled_score = np.array([score[part] for score in scores["pooled"]])
        for way in ways[:-1]:
            found = np.array([score[part] for score in scores[way]])
            gap, facts = over_resplits(found - pooled_score, TEST_SHARE), {"data": DATA, "scores": found.tolist()}
            table.estimate(
                f"why, {way}: {part.lower()} of the latent, minus pooled in as many steps",
                "for comparison",
                gap,
                **facts,
            )
    table.save()


def main(parts: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    table = Table("scvi")
    if "mixing" in parts:
        mixing(table)
        return
    lock_and_seal_change_nothing(table)
    round_time(table)
    runs = federation(table)
    thief(table, runs)
    mixing(table)
    table.save()


if __name__ == "__main__":
    main(sys.argv[1:])
