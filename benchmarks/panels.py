"""The bulk panels that several benchmarks judge on, dealt out to five sites."""

from __future__ import annotations

import os
from pathlib import Path

import infl

HERE = Path(__file__).resolve()


def use_data_folder() -> None:
    """Look for data in INFL_DATA_DIR, else in the folder beside the repository."""
    if infl.settings.data_dir is None:
        infl.settings.data_dir = Path(os.environ.get("INFL_DATA_DIR", HERE.parents[2] / "shared" / "data"))


def panel_sites(name: str, *, n_sites: int = 5, seed: int = 0, alpha: float | None = None) -> tuple[dict, str]:
    """Return sites and target of ``"khan"``, ``"breast rna"`` or ``"breast protein"``."""
    use_data_folder()
    if name == "khan" and alpha is None:
        return infl.datasets.khan_sites(n_sites, seed=seed), "tumour_class"  # as the demo deals them out
    if name == "khan":
        adata, target = infl.datasets.khan(), "tumour_class"
    else:
        breast = infl.datasets.breast_tcga()
        adata, target = breast.mod[name.split()[1]].copy(), "subtype"
        adata.obs[target] = breast.obs[target].reindex(adata.obs_names)
    return infl.pp.split_sites(adata, n_sites, stratify=target, alpha=alpha, seed=seed), target


PANELS = ("khan", "breast rna", "breast protein")
