"""``infl demo``: five hospitals, one tumour classifier, from the data to a page for the data steward."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infl._files import explained, write_atomic
from infl._report import Report

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from infl.federation.run import FederatedRun

TARGET = "tumour_class"
METHOD_NAMES = {
    "pooled": "pooled in one place",
    "alone": "each hospital alone",
    "fedavg": "federated, unprotected",
    "infl": "infl (lock and seal), right key",
    "infl_wrong_key": "infl, wrong key",
    "infl_no_key": "infl, no key",
    "published": "published method, right key",
    "published_wrong_key": "published method, wrong key",
    "baseline": "logistic regression, pooled",
}


def run_demo(out: Path, *, seeds: int = 5) -> None:
    """Fit, lock, attack and compare on the bundled tumours; write everything into `out`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import sklearn.linear_model  # noqa: F401 - limits hold for what is loaded before them
    import torch
    from threadpoolctl import threadpool_limits

    import infl
    from infl.cli.tables import print_table
    from infl.keys import Keyring

    torch.set_num_threads(1)  # of matrices this small more threads wait for each other
    threadpool_limits(1)
    begun = time.perf_counter()
    with explained(out, "make"):
        out.mkdir(parents=True, exist_ok=True)
    sites = infl.datasets.khan_sites()
    panel = infl.pp.harmonise(sites, target=TARGET)
    _say(
        f"{len(sites)} hospitals, {sum(panel.n_obs.values())} tumours, {len(panel.features):,} genes, {len(panel.classes)} classes"
    )
    train = {name: adata[adata.obs["published_split"] == "train"].copy() for name, adata in sites.items()}
    test = {name: adata[adata.obs["published_split"] == "test"].copy() for name, adata in sites.items()}

    _say("one model together: each hospital trains at home, locked and sealed updates travel")
    key = Keyring.create()
    run = infl.tl.fit_federated(train, target=TARGET, key=key, patience=10)
    _say(f"kept round {run.history.index[run.history['best']][0]} of {len(run.history)}, chosen on validation data")

    keys = _keys_table(run, test, key)
    for name, adata in sites.items():
        infl.tl.predict(adata, run.model, key=key)
        write_atomic(out / f"{name}.h5ad", adata.write_h5ad, overwrite=True)
    run.save(out / "model.infl.safetensors", overwrite=True)
    curve = infl.tl.lock_curve(run.model, test, key=key, validation_only=False)

    _say("the same data, other ways (held-out tumours, several seeds)")
    table = infl.tl.compare(sites, target=TARGET, seeds=seeds, patience=10, n_jobs=-1)
    write_atomic(out / "comparison.csv", table.to_csv(index=False).encode(), overwrite=True)
    shown = table.assign(method=table["method"].map(METHOD_NAMES))
    shown.attrs = table.attrs
    print_table(shown, ["balanced_accuracy", "auroc"])

    figures = _figures(sites, run, curve, table)
    for name, (figure, _) in figures.items():
        figure.savefig(out / f"{name}.png", dpi=150, bbox_inches="tight")
    page = _page(sites, run, keys, shown, figures)
    write_atomic(out / "report.html", page.html().encode(), overwrite=True)
    for row in keys.itertuples():
        _say(f"{row.who}: balanced accuracy {row.balanced_accuracy:.2f} on the 20 published test tumours")
    _say(f"done in {time.perf_counter() - begun:.0f} s; open {out / 'report.html'}")


def _say(line: str) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(f"[bold]infl[/bold] {line}")


def _keys_table(run: FederatedRun, test: dict[str, AnnData], key: object) -> pd.DataFrame:
    """Judge the stored model with the right key, ten wrong ones and none, on tumours that no hospital trained on."""
    import pandas as pd

    from infl.keys import Keyring
    from infl.tl._compare import pool
    from infl.tl._predict import infer

    together = pool(test)
    task, panel = run.model.header.build_task(), run.model.header.panel

    def value(key: Keyring | None, *, verify: bool = True) -> float:
        outputs = infer(together, run.model, key, verify=verify)
        return task.score(together, outputs, panel)[task.headline]

    wrong = [value(Keyring.create(), verify=False) for _ in range(10)]
    rows = [
        ("right key", value(run.key), np.nan),
        ("ten wrong keys (mean)", float(np.mean(wrong)), float(np.max(wrong))),
        ("no key", value(None), np.nan),
        ("chance", 1 / len(panel["classes"]), np.nan),
    ]
    return pd.DataFrame(rows, columns=["who", "balanced_accuracy", "highest"])


def _figures(
    sites: dict[str, AnnData], run: FederatedRun, curve: pd.DataFrame, table: pd.DataFrame
) -> dict[str, tuple]:
    """Return figures with captions by file name."""
    import matplotlib.pyplot as plt

    import infl

    def draw(function: object, *arguments: object) -> object:
        figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        function(*arguments, ax=ax)  # type: ignore[operator]
        return figure

    return {
        "comparison": (
            draw(infl.pl.compare, table),
            "Balanced accuracy on held-out tumours: mean and standard deviation over seeds.",
        ),
        "lock": (
            draw(infl.pl.lock, curve),
            "What the stored model is worth, by who holds which key, at each strength of the lock.",
        ),
        "rounds": (draw(infl.pl.rounds, run), "Training and federated validation over the rounds."),
        "umap": (_umap(sites), "UMAP of the shared latent, obsm['X_infl'], by tumour class and by hospital."),
    }


def _umap(sites: dict[str, AnnData]) -> object:
    import anndata
    import matplotlib.pyplot as plt
    import scanpy as sc

    together = anndata.concat(sites, label="hospital")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn and numba say much about themselves
        sc.pp.neighbors(together, use_rep="X_infl")
        sc.tl.umap(together)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    palette = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"]
    for ax, column in zip(axes, [TARGET, "hospital"], strict=True):
        classes = together.obs[column].astype("category").cat.categories
        sc.pl.umap(
            together,
            color=column,
            ax=ax,
            show=False,
            palette=palette[: len(classes)],
            size=120,
            title=column.replace("_", " "),
        )
    return figure


def _page(
    sites: dict[str, AnnData],
    run: FederatedRun,
    keys: pd.DataFrame,
    comparison: pd.DataFrame,
    figures: dict[str, tuple],
) -> Report:
    """Return the page for the data steward."""
    import pandas as pd

    report = Report("infl: five hospitals, one tumour classifier")
    report.text(
        "Five simulated hospitals hold 83 childhood tumours (Khan et al. 2001). They fitted one classifier together. "
        "No tumour's data left its hospital: what travelled were changes of model weights and sums, sealed, so that "
        "the coordinator that added them could read none of them. The model that came out is locked: without the key "
        "it is of no use."
    )
    report.heading("What the model is worth, and to whom")
    values = keys.assign(
        balanced_accuracy=keys["balanced_accuracy"].map("{:.2f}".format),
        highest=keys["highest"].map(lambda v: "" if np.isnan(v) else f"{v:.2f}"),
    )
    report.table(
        values.rename(columns={"who": "with", "balanced_accuracy": "balanced accuracy", "highest": "highest of ten"}),
        "On the 20 published test tumours, which no hospital trained on.",
    )
    report.figure(*figures["lock"])
    report.heading("What it cost")
    wide = comparison.assign(
        value=[f"{m:.3f} ± {s:.3f}" for m, s in zip(comparison["mean"], comparison["sd"], strict=True)]
    )
    wide = wide.pivot_table(index="method", columns="metric", values="value", aggfunc="first", sort=False).reset_index()
    wide.columns = [str(c).replace("_", " ") for c in wide.columns]
    report.table(
        wide, f"Held-out tumours of all hospitals; mean ± standard deviation over {comparison['n_seeds'].max()} seeds."
    )
    report.figure(*figures["comparison"])
    report.heading("Who took part")
    report.table(
        pd.DataFrame(
            {
                "hospital": list(sites),
                "tumours": [a.n_obs for a in sites.values()],
                "classes": [", ".join(sorted(set(a.obs[TARGET]))) for a in sites.values()],
            }
        ),
        "Sites of the run.",
    )
    report.heading("What left each hospital")
    ledger = run.ledger.assign(kB=run.ledger["bytes"] / 1e3)
    summary = (
        ledger.groupby("site").agg(messages=("bytes", "size"), kB=("kB", "sum"), sealed=("sealed", "all")).reset_index()
    )
    summary["kB"] = summary["kB"].map("{:,.0f}".format)
    summary["sealed"] = summary["sealed"].map({True: "all", False: "not all"})
    report.table(summary, "From the hospitals' own ledgers, written before anything was sent.")
    report.heading("How it was fitted")
    s = run.settings
    facts = {
        "model": f"{s['task']}, {sum(t.numel() for t in run.model.stored.values()):,} weights",
        "rounds": f"{len(run.history)}, kept: {run.history.index[run.history['best']][0]} (by validation at the hospitals)",
        "aggregation": s["aggregation"],
        "lock": f"{s['lock']}, strength {s['strength']:g}",
        "seal": f"{s['seal']}, sums of fewer than {s['min_sites']} hospitals are not opened",
        "key fingerprint": s["fingerprint"],
        "seed": s["seed"],
        "infl": run.model.header.infl_version,
    }
    report.table(
        pd.DataFrame({"setting": list(facts), "value": list(map(str, facts.values()))}), "Settings of the run."
    )
    report.figure(*figures["rounds"])
    report.figure(*figures["umap"])
    report.heading("What this does not protect from")
    report.text(
        "Every hospital holds the key and the finished model: what the model itself remembers of its training data is "
        "bounded by differential privacy only, which this demonstration does not use. A coordinator that conspires "
        "with a hospital can open the other hospitals' updates under the group seal. The lock is a keyed "
        "reparametrisation whose worth is measured by attacks, not an encryption scheme with a proof."
    )
    return report
