"""What a perturbation model reads from a site: mean changes by condition, and which genes a label names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from infl.data.units import units_of
from infl.errors import DataError
from infl.models.matrix import FeatureMatrix
from infl.models.perturbation.effects import Genes
from infl.models.site_data import SiteData

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

COLUMNS = ("perturbation", "gene_target", "perturbation_name", "condition", "guide_target", "target_gene")
"""Where pertpy's and scPerturb's objects have the perturbation, in the order in which they are tried."""
CONTROLS = ("control", "ctrl", "non-targeting", "NT", "unperturbed", "negative control", "vehicle", "DMSO")
MAX_COVARIANCE = 3000
"""The covariance over control cells is summed for up to this number of genes; beyond it, members that need it are left out."""


def has_products(p: int) -> bool:
    """Whether the covariance of p genes over control cells is summed."""
    return p <= MAX_COVARIANCE


class Conditions(SiteData):
    """Mean changes of a site's conditions against its own control cells.

    Attributes
    ----------
    genes, number, n, delta, squares
        Of each condition of the panel that the site has: perturbed genes, its number in the panel, cells, mean change,
        sum of squared changes.
    control, n_control, control_squares, products
        Mean of control cells, how many, their summed squares and cross-products about the mean (None: too many genes).
    labels
        Canonical label of every cell.
    """

    def __init__(
        self, x: FeatureMatrix, labels: np.ndarray, panel: Mapping[str, Any], target_sum: float | None, site: str
    ) -> None:
        self.panel, self.labels = panel, labels
        names = [name for name in panel["conditions"] if (labels == name).any()]
        self.genes = [tuple(name.split("+")) for name in names]
        self.number = [panel["conditions"].index(name) for name in names]
        p = len(panel["features"])
        control_rows = np.flatnonzero(labels == "")
        self.n_control = len(control_rows)
        self.control, self.control_squares = np.zeros(p), np.zeros(p)
        self.products = np.zeros((p, p)) if has_products(p) else None

        def blocks(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for part in np.array_split(rows, max(1, -(-len(rows) // 2048))):
                yield part, _log(x.rows(part), target_sum, site)

        if self.n_control:
            self.control = np.sum([block.sum(0) for _, block in blocks(control_rows)], axis=0) / self.n_control
            for _, block in blocks(control_rows):
                away = block - self.control
                self.control_squares += (away**2).sum(0)
                if self.products is not None:
                    self.products += away.T @ away
        of = pd.Index(names).get_indexer(labels)
        self.n = np.bincount(of[of >= 0], minlength=len(names)).astype(float)
        self.delta, self.squares = np.zeros((len(names), p)), np.zeros((len(names), p))
        for part, block in blocks(np.flatnonzero(of >= 0)) if names else ():
            members = sparse.csr_matrix((np.ones(len(part)), (of[part], np.arange(len(part)))), (len(names), len(part)))
            change = block - self.control
            self.delta += members @ change
            self.squares += members @ change**2
        self.delta /= np.maximum(self.n, 1)[:, None]
        held = np.isin(names, panel["held"])
        self.train, self.validation = np.flatnonzero(~held), np.flatnonzero(held)

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return perturbed nodes and genes, changes, and weights (mean 1) of the conditions `index`."""
        codes = [encode(self.panel, self.genes[i]) for i in index]
        weight = np.sqrt(self.n[index])
        return (
            torch.from_numpy(np.array([node for node, _ in codes])),
            torch.from_numpy(np.array([own for _, own in codes])),
            torch.from_numpy(self.delta[index].astype(np.float32)),
            torch.from_numpy((weight / weight.mean()).astype(np.float32)),
        )

    def network(self, module: nn.Module, i: int) -> np.ndarray:
        """Return the network's prediction of one condition. ``(p,)``"""
        return network(module, self.panel, self.genes[i])


def encode(panel: Mapping[str, Any], genes: Genes) -> tuple[np.ndarray, np.ndarray]:
    """Return which nodes and which measured genes a condition perturbs, as zeros and ones."""
    of = [np.isin(panel[kind], list(genes)).astype(np.float32) for kind in ("nodes", "features")]
    return of[0], of[1]


@torch.no_grad()
def network(module: nn.Module, panel: Mapping[str, Any], genes: Genes) -> np.ndarray:
    """Return a network's prediction of one condition. ``(p,)``"""
    node, own = encode(panel, genes)
    return module(torch.from_numpy(node)[None], torch.from_numpy(own)[None])[0].double().numpy()


def _log(rows: np.ndarray, target_sum: float | None, site: str) -> np.ndarray:
    rows = rows.astype(np.float64)
    if target_sum is None:
        return rows
    total = rows.sum(1, keepdims=True)
    if (total == 0).any():
        raise DataError(
            f"{site} has {int((total == 0).sum())} cells without a count: remove them (scanpy.pp.filter_cells)"
        )
    return np.log1p(rows / total * target_sum)


def genes_of(label: str, control: str, singles: Collection[str] = ()) -> Genes:
    """Return the perturbed genes of a label, sorted; () for controls.

    Parameters
    ----------
    label
        Of a cell.
    control
        Label of control cells, beside the usual ones.
    singles
        Known genes; where all parts of ``"A_B"`` are among them, it is two.

    Examples
    --------
    >>> genes_of("STAT1+IRF1", "control"), genes_of("KLF1+ctrl", "control"), genes_of("A_B", "control", {"A", "B"})
    (('IRF1', 'STAT1'), ('KLF1',), ('A', 'B'))
    """
    parts = [part.strip() for part in label.replace(",", "+").replace(";", "+").split("+")]
    if len(parts) == 1 and singles and "_" in label and set(label.split("_")) <= set(singles):
        parts = label.split("_")
    none = {control.lower(), *(name.lower() for name in CONTROLS)}
    return tuple(sorted({part for part in parts if part and part.lower() not in none}))


def column_of(sites: Mapping[str, AnnData | MuData], target: str) -> str:
    """Return the column with the perturbations: `target`, or else the first of the usual names that all sites have.

    Raises
    ------
    DataError
        A site lacks it; the message lists what it has.
    """
    tried = (target,) if target else COLUMNS
    for column in tried:
        if all(column in adata.obs for adata in sites.values()):
            return column
    missing = next((s for s, adata in sites.items() if tried[0] not in adata.obs), next(iter(sites)))
    has = ", ".join(map(repr, list(sites[missing].obs)[:6]))
    raise DataError(f"{missing} has no obs column {tried[0]!r} with the perturbations: set target= (it has {has})")


def check_control(labels: np.ndarray, control: str, column: str, site: str) -> None:
    """Refuse a site without control cells, naming the label that may be theirs."""
    if control in labels:
        return
    near = [c for c in labels if c.lower() in {x.lower() for x in CONTROLS}]
    near += difflib.get_close_matches(control, labels, 1)
    hint = f"is it {near[0]!r}? set control={near[0]!r}" if near else "set control=, or leave the site out"
    raise DataError(f"{site} has no control cells: no {control!r} in obs[{column!r}]; {hint}")


def check_units(adata: AnnData | MuData, site: str, *, layer: str | None, target_sum: float | None) -> None:
    """Refuse counts where logarithms are due, the other way round, and scaled values."""
    kind, where = units_of(adata, layer), layer or "X"
    if kind == "raw counts" and target_sum is None:
        raise DataError(
            f"{site} has raw counts in {where}: run infl.pp.normalize_total and infl.pp.log1p first, or set target_sum="
        )
    if target_sum is not None and kind not in ("raw counts", None):
        raise DataError(f"{site} has {kind} in {where} where counts are due: leave target_sum out, or choose layer=")
    if kind == "scaled values":
        raise DataError(f"{site} has scaled values in {where}: effects need log-normalised expression")
