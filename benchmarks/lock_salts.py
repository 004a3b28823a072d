"""What many locks tell together: of one model, and of several models under one key; and what small vectors tell alone.

The figures of docs/decisions/0021-salts-follow-from-what-made-the-tensor.md and docs/concepts/lock.md.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import infl
from _table import Table
from infl.attacks import AuditContext
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.statistics import rank_correlation
from infl.attacks._kit.weights import averaged, rescaled
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.keys import Keyring
from infl.models import Classifier
from infl.models.locked import Header, LockedModel, lock_model
from infl.models.locked.header import digest_of
from infl.models.locked.private import pack_arrays, vault
from infl.nn.lock import Field, widening

STRENGTHS = (0.3, 0.5, 0.75, 1.0)
RELOCKS = (1, 16, 64, 256)
MODELS = (1, 2, 4, 8, 16)
KEYS = 4

Weights = dict[str, torch.Tensor]


def moments(strength: float) -> tuple[float, float]:
    """Means of 1 / M and of 1 / M² over keys, which everybody can compute."""
    m, _ = Field(bytes(32), b"moments", strength).factors("w", (400, 400))
    return float((1 / m).mean()) if strength < 1 else 0.0, float((1 / m).square().mean())


def best_guess(file: ModelFile, stored: list[Weights], strength: float, start: Weights) -> dict[str, float]:
    """Accuracy of what a thief makes of files that it believes to have similar weights."""
    mean = averaged(stored)
    first, second = moments(strength)
    guesses = {"mean": mean, "mean, at the usual spread": rescaled(mean, start)}
    if first > 0:
        unbiased = {n: t / first for n, t in mean.items()}
        for share in (0.1, 0.3):  # the mean is noisy: towards the start, which a public seed gives
            guesses[f"{share:g} of the way from the start"] = {
                n: start[n] + share * (t - start[n]) for n, t in unbiased.items()
            }
    sizes = averaged([{n: t.square() for n, t in s.items()} for s in stored])
    spread = {n: sizes[n].mean() - start[n].square().mean() * second for n in sizes}
    guesses["sizes from squares, signs of the start"] = {
        n: ((t - spread[n]).clamp(min=0) / second).sqrt() * start[n].sign() for n, t in sizes.items()
    }
    return {name: file.accuracy(guess) for name, guess in guesses.items()}


def locked(
    model: LockedModel, weights: Weights, key: Keyring, strength: float, rng: np.random.Generator | None
) -> Weights:
    """Stored weights under a key, with salts of their own content or (the old rule) fresh ones."""
    header = replace(model.header, strength=strength, key_version=key.current, fingerprint=key.fingerprint())
    salts = None if rng is None else {name: rng.bytes(16).hex() for name in weights}
    return lock_model(header, weights, {}, key, salts=salts).stored


def one_model(file: ModelFile, table: Table) -> None:
    """The same weights, locked again and again."""
    rng = np.random.default_rng(0)
    for strength in STRENGTHS:
        for rule in ("fresh salts", "salts by content"):
            values = []
            counts = RELOCKS if rule == "fresh salts" else RELOCKS[:2]
            for _ in range(2):
                key = Keyring.create()
                stored = [
                    locked(file.model, file.unlocked, key, strength, rng if rule == "fresh salts" else None)
                    for _ in range(max(counts))
                ]
                values.append([file.accuracy(averaged(stored[:n])) for n in counts])
            for n, column in zip(counts, np.transpose(values), strict=True):
                asked = "that of 1" if rule == "salts by content" and n > 1 else "-"
                table.add(f"one model, strength {strength:g}, {rule}, {n} locks", asked, column)


def versions(file: ModelFile, table: Table) -> None:
    """One model under several key versions, which are that many locks of it."""
    for strength in STRENGTHS:
        values = []
        for _ in range(KEYS):
            key = Keyring.create()
            stored = []
            for _ in range(max(MODELS)):
                stored.append(locked(file.model, file.unlocked, key, strength, None))
                key.rotate()
            values.append([file.accuracy(averaged(stored[:n])) for n in MODELS])
        for n, column in zip(MODELS, np.transpose(values), strict=True):
            table.add(f"one model, strength {strength:g}, {n} key versions", "-", column)


def several_models(sites: dict, table: Table) -> None:
    """Models of different runs under one key: all other seeds, or the same seed and other patients of the same hospitals."""
    task = Classifier(target="tumour_class")
    panel = task.agree(sites)
    kinds: dict[str, list[LockedModel]] = {}
    context, key = None, Keyring.create()
    for kind in ("other seeds", "same seed, other patients"):
        for number in range(max(MODELS)):
            rng = np.random.default_rng(number)
            chosen = sites
            if kind != "other seeds":
                chosen = {
                    s: a[rng.permutation(a.n_obs)[: max(2, round(0.8 * a.n_obs))]].copy() for s, a in sites.items()
                }
            seed = number if kind == "other seeds" else 0
            agreement = Agreement.new(task, panel, chosen, key, rounds=10, seed=seed)
            run = run_in_process(agreement, task, chosen, key).run
            kinds.setdefault(kind, []).append(run.model)
            if context is None:
                context = AuditContext(run, sites)
    file = ModelFile(context)
    for kind, models in kinds.items():
        opened = [model.effective(key) for model in models]
        for strength in STRENGTHS:
            best: dict[int, list[float]] = {n: [] for n in MODELS}
            for trial in range(KEYS):
                ring = Keyring.create()
                order = np.random.default_rng(trial).permutation(len(models))
                stored = [locked(models[i], opened[i], ring, strength, None) for i in order]
                for n in MODELS:
                    best[n].append(list(best_guess(file, stored[:n], strength, file.initial).values()))
            # the variant is chosen by its mean, which flatters the thief a little
            for n, trials in best.items():
                columns = np.array(trials)
                table.add(f"{kind}, strength {strength:g}, {n} models", "-", columns[:, columns.mean(0).argmax()])
        table.add(f"{kind}, one unlocked", "-", file.accuracy(opened[0]))
        table.add(f"{kind}, average of the unlocked", "-", file.accuracy(averaged(opened)))


def vectors(table: Table) -> None:
    """What stored sizes tell of effective ones in scVI's vectors, with the term as it was and as wide as the weights ask."""
    import anndata as ad

    path = Path(os.environ.get("INFL_DATA_DIR", Path(__file__).parents[2] / "shared" / "data")) / "papalexi_crispr.h5ad"
    cells = ad.read_h5ad(path)[::8].copy()
    run = infl.tl.fit_federated(cells, "scvi", site_key="replicate", rounds=20, local_epochs=3, progress=False)
    file = ModelFile(AuditContext(run, {}))
    units = file.task.units(file.model.header.panel)
    for name, tensor in file.unlocked.items():
        if tensor.ndim > 1 or tensor.numel() < 20:
            continue
        learned = (tensor - file.initial[name]).numpy()
        found: dict[str, list[float]] = {}
        for trial in range(30):
            for rule, steps in (("before", 0), ("now", widening(tensor, units.get(name)))):
                field = Field(trial.to_bytes(32, "little"), b"vectors", widening=steps)
                stored = field.lock(name, tensor, units.get(name))
                guess = stored.abs() * file.initial[name].sign() - file.initial[name]
                found.setdefault(f"size, {rule}", []).append(
                    rank_correlation(stored.abs().numpy(), tensor.abs().numpy())
                )
                blind = stored[torch.randperm(len(stored), generator=torch.Generator().manual_seed(trial))].abs()
                chance = blind * file.initial[name].sign() - file.initial[name]
                found.setdefault(f"training, {rule}", []).append(
                    rank_correlation(guess.numpy(), learned) - rank_correlation(chance.numpy(), learned)
                )
        rms, steps = float(tensor.square().mean().sqrt()), widening(tensor, units.get(name))
        for what, values in found.items():
            table.add(f"scVI {name}, {what}", "0" if "now" in what else "-", values, rms=rms, widening=steps)


def old_lock(header: Header, weights: Weights, key: Keyring) -> None:
    """What infl 0.1 did: one salt for a file."""
    key.check(header.key_version, header.fingerprint)
    units = header.build_task().units(header.panel)
    header = replace(header, format=1, salt=os.urandom(16).hex(), salts={}, widenings={}, digest="")
    field = Field(
        key.subkey("lock", salt=bytes.fromhex(header.salt)), bytes.fromhex(header.salt), header.strength, 0, 1
    )
    stored = {n: field.lock(n, t, units.get(n)) for n, t in weights.items()}
    header = replace(header, digest=digest_of(header, stored))
    nonce = os.urandom(12)
    vault(key, header).encrypt(nonce, pack_arrays({}), header.digest.encode())


def old_unlock(model: LockedModel, field: Field) -> Weights:
    units = model.header.build_task().units(model.header.panel)
    return {n: field.unlock(n, t, units.get(n)) for n, t in model.stored.items()}


def timing(table: Table) -> None:
    """A model of a million weights, paired within one process."""
    task = Classifier(target="t", width=256, n_blocks=2)
    panel = {"features": [f"g{i}" for i in range(2000)], "classes": ["a", "b"]}
    module = task.build(panel)
    weights = {n: p.detach().clone() for n, p in module.named_parameters()}
    key = Keyring.create()
    header = Header("classifier", task.options(), panel, "field", 1.0, 1, key.fingerprint(), 0, ("a",))
    model = lock_model(header, weights, {}, key)
    n = sum(t.numel() for t in weights.values())
    old_field = Field(key.subkey("lock"), b"salt of a file..", 1.0, 0, 1)
    pairs = {
        "lock": (lambda: old_lock(header, weights, key), lambda: lock_model(header, weights, {}, key)),
        "unlock": (
            lambda: old_unlock(model, old_field),
            lambda: model.effective(key),
        ),
    }
    for what, works in pairs.items():
        seconds: list[list[float]] = [[], []]
        for _ in range(21):
            for times, work in zip(seconds, works, strict=True):
                begun = time.process_time()
                work()
                times.append(time.process_time() - begun)
        ratio = float(np.median(np.array(seconds[1][1:]) / np.array(seconds[0][1:])))
        more = {"before_s": min(seconds[0]), "now_s": min(seconds[1])}
        table.add(f"{what}, {n:,} weights, now / before", "1", ratio, seeds=20, **more)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path.append(sys.path.pop(0))  # `import scvi` means scvi-tools, not a benchmark
    table = Table("lock_salts")
    sites = infl.datasets.khan_sites()
    run = infl.tl.fit_federated(sites, target="tumour_class", rounds=20, progress=False)
    file = ModelFile(AuditContext(run, sites))
    works = [
        timing,
        lambda t: one_model(file, t),
        lambda t: versions(file, t),
        lambda t: several_models(sites, t),
        vectors,
    ]
    for work in works:
        work(table)
        table.save()
