"""``infl demo``: five hospitals, one tumour classifier, from the data to a page for the data steward."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._files import explained, write_atomic
from infl._threads import one_thread

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

    from infl.federation.run import FederatedRun

TARGET = "tumour_class"
STATEMENTS = {
    "purpose": "A demonstration, to see what infl does and to check it.",
    "users": "Whoever ran `infl demo`.",
    "not_for": "Anything that concerns a patient.",
    "people": "83 childhood tumours of a public study (Khan et al. 2001), dealt out to five simulated hospitals.",
    "legal_basis": "The data are published.",
}
"""What the report says in the name of people."""


@one_thread()
def run_demo(out: Path, *, seeds: int = 5) -> pd.DataFrame:
    """Fit, lock and compare on the bundled tumours; write everything into `out`, and return the comparison."""
    import matplotlib as mpl

    mpl.use("Agg")
    import infl
    from infl._tables import method_label
    from infl.cli.tables import print_table
    from infl.keys import Keyring

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
    table = infl.tl.compare(sites, target=TARGET, seeds=seeds, key_seed=0, n_jobs=-1)
    write_atomic(out / "comparison.csv", table.to_csv(index=False).encode(), overwrite=True)
    shown = table.assign(method=table["method"].map(method_label))
    shown.attrs = table.attrs
    print_table(shown, ["balanced_accuracy", "auroc"])

    figures = _figures(sites, run, curve, table)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=150, bbox_inches="tight")
    infl.governance.report(
        run,
        out / "report.html",
        comparison=table,
        lock_curve=curve,
        site_metrics=infl.tl.site_metrics(run, test, validation_only=False),
        statements=STATEMENTS,
        min_count=1,  # the data are public
        overwrite=True,
    )
    for row in keys.itertuples():
        _say(f"{row.who}: balanced accuracy {row.balanced_accuracy:.2f} on the 20 published test tumours")
    _say(f"done in {time.perf_counter() - begun:.0f} s; open {out / 'report.html'}")
    return table


def _say(line: str) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(f"[bold]infl[/bold] {line}")


def _keys_table(run: FederatedRun, test: dict[str, AnnData], key: object) -> pd.DataFrame:
    """Judge the stored model with the right key, ten wrong ones and none, on tumours that no hospital trained on."""
    import pandas as pd

    from infl.keys import Keyring
    from infl.models.locked.outputs import infer
    from infl.models.pooling import pool

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
) -> dict[str, Figure]:
    """Return figures by file name."""
    import matplotlib.pyplot as plt

    import infl

    def draw(function: Callable[..., Any], *arguments: object) -> Figure:
        figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        function(*arguments, ax=ax)
        return figure

    return {
        "comparison": draw(infl.pl.compare, table),
        "lock": draw(infl.pl.lock, curve),
        "rounds": draw(infl.pl.rounds, run),
        "tsne": _tsne(sites),
    }


def _tsne(sites: dict[str, AnnData]) -> Figure:
    """Draw the samples of all sites in the model's latent space; UMAP would compile itself for longer than all fits take."""
    import anndata
    import matplotlib.pyplot as plt
    import scanpy as sc

    together = anndata.concat(sites, label="hospital")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba says much about itself
        sc.tl.tsne(together, use_rep="X_infl")
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    palette = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"]
    for ax, column in zip(axes, [TARGET, "hospital"], strict=True):
        classes = together.obs[column].astype("category").cat.categories
        sc.pl.tsne(
            together,
            color=column,
            ax=ax,
            show=False,
            palette=palette[: len(classes)],
            size=120,
            title=column.replace("_", " "),
        )
    return figure
