"""Updates of 8 and 5 bits per weight: how many bytes ten sites send, and what it costs on held-out samples (docs/performance.md).

``python benchmarks/bits.py``. The same splits, seeds and rounds with 32 bits and with fewer.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.model_selection import train_test_split

import infl
from _evidence import over_resplits
from _table import Table
from panels import use_data_folder

SPLITS, TEST_SHARE, N_SITES, ROUNDS = 10, 0.3, 10, 20
BITS = {8: 2.6, 5: 3.5}
"""And how many times fewer bytes are asked for."""


def whole(name: str) -> tuple:
    """Return a panel and its target."""
    use_data_folder()
    if name == "khan":
        return infl.datasets.khan(), "tumour_class"
    breast = infl.datasets.breast_tcga()
    adata = breast.mod["rna"].copy()
    adata.obs["subtype"] = breast.obs["subtype"].reindex(adata.obs_names)
    return adata, "subtype"


def fit(name: str, seed: int, bits: int | None) -> tuple[float, float, float]:
    """Return balanced accuracy and log loss on held-out samples, and the bytes of a round."""
    adata, target = whole(name)
    labels = adata.obs[target].to_numpy()
    train, test = train_test_split(np.arange(adata.n_obs), test_size=TEST_SHARE, stratify=labels, random_state=seed)
    sites = infl.pp.split_sites(adata[train].copy(), N_SITES, stratify=target, seed=seed)
    run = infl.tl.fit_federated(sites, target=target, rounds=ROUNDS, seed=seed, bits=bits, progress=False)
    held = adata[test].copy()
    infl.tl.predict(held, run)
    true, probability = labels[test].astype(str), held.obsm["infl_probabilities"]
    found = balanced_accuracy_score(true, held.obs["infl_prediction"].astype(str))
    loss = log_loss(true, probability.astype(float), labels=run.model.header.panel["classes"])
    return float(found), float(loss), float(run.history["bytes_sent"].iloc[-1])


def main() -> None:
    table = Table("bits")
    for name in ("khan", "breast rna"):
        found = {bits: np.array([fit(name, seed, bits) for seed in range(SPLITS)]) for bits in (None, *BITS)}
        for bits, least in BITS.items():
            fewer = float(np.median(found[None][:, 2] / found[bits][:, 2]))
            table.add(
                f"{name}, ten sites, {bits} bits: bytes of a round, 32 bits / {bits} bits",
                f">= {least}",
                fewer,
                seeds=SPLITS,
                ok=fewer >= least,
            )
            cost = over_resplits(found[None][:, 0] - found[bits][:, 0], TEST_SHARE)
            table.estimate(
                f"{name}, ten sites, {bits} bits: balanced accuracy that it costs",
                "<= 0.005",
                cost,
                data=name,
                ok=cost.value <= 0.005,
                with_32_bits=round(float(found[None][:, 0].mean()), 4),
            )
            loss = over_resplits(found[bits][:, 1] - found[None][:, 1], TEST_SHARE)
            told = {"data": name, "with_32_bits": round(float(found[None][:, 1].mean()), 4)}
            table.estimate(f"{name}, ten sites, {bits} bits: log loss that it adds", "", loss, **told)
    table.save()


if __name__ == "__main__":
    main()
