"""Effects of perturbations from sums over sites: the baselines of the field, and a stack of them that is never much worse.

Everything here is computed from sums (effects, their noise, cross-products of control cells), so the federated result is
the pooled one. An effect Δ is a difference of mean log-expression to control cells *of the same site*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from infl.errors import SettingsError

MEMBERS = ("mean", "typical", "neighbours", "own", "coexpression", "loadings")
"""What is stacked; :meth:`Effects.member` says what each is."""
N_LOADINGS = 10
RIDGE = 1.0
NUGGET = 0.3
BALANCE = 0.5
"""Weights of conditions in the stack: 0 counts squared errors, 1 relative ones."""
Genes = tuple[str, ...]
Edge = tuple[str, str] | tuple[str, str, float]
_EDGES = "needs edges of two genes, and a weight or none: a list of pairs or a data frame"


@dataclass(frozen=True)
class Effects:
    """Effects of the training conditions, and what predicts those of others.

    Parameters
    ----------
    features
        Genes that are measured (p).
    conditions
        Perturbed genes of each training condition (k).
    delta
        Effects. ``(k, p)``
    variance
        Squared standard errors of `delta`. ``(k, p)``
    control
        Mean log-expression of control cells. ``(p,)``
    covariance
        Of the genes over control cells, within sites; None where there are too many genes. ``(p, p)``
    edges
        Weighted neighbours of each gene in the prior graph.

    Examples
    --------
    >>> effects = Effects(
    ...     ("A", "B"),
    ...     (("A",), ("B",), ("C",)),
    ...     np.array([[-1.0, 0.2], [0.1, -2.0], [0.0, 0.4]]),
    ...     np.full((3, 2), 0.01),
    ...     np.array([1.0, 2.0]),
    ...     np.eye(2),
    ...     {},
    ... )
    >>> effects.predict(("A",), without=0).round(1).tolist()  # its own gene falls, as others' did
    [-1.0, 0.0]
    """

    features: tuple[str, ...]
    conditions: tuple[Genes, ...]
    delta: np.ndarray
    variance: np.ndarray
    control: np.ndarray
    covariance: np.ndarray | None
    edges: Mapping[str, Mapping[str, float]]

    # -- parts -----------------------------------------------------------------------------------------------------
    @cached_property
    def _column(self) -> dict[str, int]:
        return {gene: i for i, gene in enumerate(self.features)}

    @cached_property
    def _singles(self) -> np.ndarray:
        return np.array([len(genes) == 1 for genes in self.conditions], dtype=bool)

    @cached_property
    def _norm(self) -> np.ndarray:
        """Size of each effect beyond its noise. ``(k,)``"""
        return np.sqrt(np.maximum((self.delta**2).sum(1), 1e-12))

    @cached_property
    def _loadings(self) -> np.ndarray:
        """Loadings of each gene on the leading components of control cells. ``(p, r)``"""
        if self.covariance is None:
            return np.zeros((len(self.features), 0))
        values, vectors = np.linalg.eigh(self.covariance)
        r = min(N_LOADINGS, len(values))
        return vectors[:, -r:] * np.sqrt(len(values))

    def _training(self, without: int | None) -> np.ndarray:
        rows = np.flatnonzero(self._singles)
        return rows if without is None else rows[rows != without]

    @cached_property
    def _gram(self) -> np.ndarray:
        """How much of their neighbourhoods the first genes of the conditions share. ``(k, k)``"""
        return np.array([[self._alike(a[0], b[0]) for b in self.conditions] for a in self.conditions])

    def _alike(self, a: str, b: str) -> float:
        """Cosine of two genes' neighbourhoods in the prior graph, themselves included."""
        if a == b or not self.edges.get(a) or not self.edges.get(b):
            return float(a == b)
        x, y = ({**self.edges[g], g: max(self.edges[g].values())} for g in (a, b))
        norm = (sum(v * v for v in x.values()) * sum(v * v for v in y.values())) ** 0.5
        return sum(v * y.get(g, 0.0) for g, v in x.items()) / norm

    def _own(self, gene: str) -> np.ndarray:
        out = np.zeros(len(self.features))
        if gene in self._column:
            out[self._column[gene]] = -self.control[self._column[gene]]
        return out

    def member(self, name: str, gene: str, without: int | None = None) -> np.ndarray:
        """Return one member's prediction of the effect of one gene. ``(p,)``

        Parameters
        ----------
        name
            ``"zero"``; ``"mean"`` of all training effects; ``"typical"``: of their directions, in the median size;
            ``"neighbours"``: kernel ridge regression on how much of their neighbourhood in the prior graph two genes share; ``"own"``: the gene's
            own transcript is lost; ``"coexpression"``: what goes with it in control cells is lost in proportion;
            ``"loadings"``: ridge regression of effects on the genes' loadings of control cells.
        gene
            Perturbed gene.
        without
            Number of a condition that is left out.
        """
        rows = self._training(without)
        zero = np.zeros(len(self.features))
        if name == "zero" or (not len(rows) and name not in ("own", "coexpression")):
            return zero
        if name == "mean":
            return self.delta[rows].mean(0)
        if name == "typical":
            direction = (self.delta[rows] / self._norm[rows, None]).mean(0)
            return direction * np.median(self._norm[rows])
        if name == "neighbours":
            alike = np.array([self._alike(gene, self.conditions[i][0]) for i in rows])
            gram = self._gram[np.ix_(rows, rows)] + NUGGET * np.eye(len(rows))
            return alike @ np.linalg.solve(gram, self.delta[rows]) if alike.any() else zero
        if name == "own":
            return self._own(gene)
        column = self._column.get(gene)
        if name == "coexpression":
            if column is None or self.covariance is None or self.covariance[column, column] <= 0:
                return zero
            lost = -self.covariance[column] / self.covariance[column, column] * self.control[column]
            lost[column] = 0
            return lost
        if name != "loadings":
            raise KeyError(name)
        mean = self.delta[rows].mean(0)
        known = [i for i in rows if self.conditions[i][0] in self._column]
        if column is None or len(known) < 2:
            return mean
        x = self._loadings[[self._column[self.conditions[i][0]] for i in known]]
        kernel = x @ x.T + RIDGE * len(known) * np.eye(len(known))
        return mean + self._loadings[column] @ x.T @ np.linalg.solve(kernel, self.delta[known] - mean)

    # -- stack -----------------------------------------------------------------------------------------------------
    @cached_property
    def _left_out(self) -> dict[int, np.ndarray]:
        """Members' predictions of each single training condition from the others. ``{row: (members, p)}``"""
        return {
            i: np.array([self.member(name, self.conditions[i][0], i) for name in MEMBERS]) for i in self._training(None)
        }

    @cached_property
    def _products(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Of each left-out condition: products of the members' predictions, and of these with the effect, weighted."""
        weight = 1 / (self._norm**2 + self.variance.sum(1)) ** BALANCE
        return {i: (p @ p.T * weight[i], p @ self.delta[i] * weight[i]) for i, p in self._left_out.items()}

    def weights(self, without: int | None = None) -> np.ndarray:
        """Return the members' weights, ≥ 0, that predict left-out training conditions best.

        Breiman, Stacked regressions, 1996. Each member's prediction of a condition is made without that condition.
        """
        rows = self._training(without)
        if not len(rows):
            return np.zeros(len(MEMBERS))
        gram, outcome = (np.sum([self._products[i][part] for i in rows], axis=0) for part in (0, 1))
        root = np.linalg.cholesky(gram + (1e-10 * np.trace(gram) + 1e-300) * np.eye(len(gram)))
        return nnls(root.T, solve_triangular(root, outcome, lower=True))[0]

    def predict(self, genes: Genes, without: int | None = None) -> np.ndarray:
        """Return the stack's prediction: of one gene, or the sum over several. ``(p,)``

        Single genes that were perturbed count with their measured effect, drawn to the stack's prediction by its noise.
        """
        seen = {c: i for i, c in enumerate(self.conditions) if i != without}
        total = np.zeros(len(self.features))
        for gene in genes:
            row = seen.get((gene,))
            total += self._unseen(gene, without) if row is None else self._drawn(row, gene, without)
        if genes in seen and len(genes) > 1:  # a combination that was measured itself
            row = seen[genes]
            return self._between(self.delta[row], self.variance[row], total)
        return total

    def _unseen(self, gene: str, without: int | None) -> np.ndarray:
        return self.weights(without) @ np.array([self.member(name, gene, without) for name in MEMBERS])

    def _drawn(self, row: int, gene: str, without: int | None) -> np.ndarray:
        stacked = self.weights(row if without is None else without) @ self._left_out[row]
        return self._between(self.delta[row], self.variance[row], stacked)

    @staticmethod
    def _between(measured: np.ndarray, variance: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Shrink a measured effect to a predicted one (James and Stein 1961), by the noise in it."""
        noise, misfit = variance.sum(), ((measured - predicted) ** 2).sum()
        trust = max(0.0, 1 - noise / misfit) if misfit > 0 else 1.0
        return predicted + trust * (measured - predicted)

    @cached_property
    def error(self) -> np.ndarray:
        """Root mean square error of the stack for conditions that it was made without. ``(p,)``"""
        misses = [(self.delta[i] - self.weights(i) @ self._left_out[i]) ** 2 for i in self._training(None)]
        return np.sqrt(np.mean(misses, 0)) if misses else np.full(len(self.features), np.nan)


def edges_of(graph: Any) -> tuple[Edge, ...]:
    """Return a graph's edges as data: two genes, and a weight where there is one; edges of weight 0 are left out.

    Parameters
    ----------
    graph
        Edges ``(gene, gene)``, ``(gene, gene, weight)`` or ``(gene, gene, {"weight": weight})``, a data frame with such
        columns, a networkx graph, or None.

    Raises
    ------
    infl.errors.SettingsError
        An edge is of another form, lacks a gene, or has no finite weight; which.

    Examples
    --------
    >>> edges_of([("A", "B"), ("B", "C", {"weight": 0.5, "source": "x"}), ("A", "C", 0)])
    (('A', 'B'), ('B', 'C', 0.5))
    """
    if graph is None:
        return ()
    if hasattr(graph, "itertuples"):
        graph = graph.itertuples(index=False)
    elif hasattr(graph, "edges"):
        graph = graph.edges(data=True)
    if isinstance(graph, str | Mapping) or not isinstance(graph, Iterable):
        raise SettingsError(f"graph= {_EDGES}, not {type(graph).__name__}")
    edges: list[Edge] = []
    for number, edge in enumerate(graph, 1):
        row = () if isinstance(edge, str) or not isinstance(edge, Iterable) else tuple(edge)
        if len(row) not in (2, 3):
            raise SettingsError(f"graph= {_EDGES}: edge {number} is {_short(edge)}")
        genes = row[:2]
        if any(pd.isna(gene) is True or not str(gene).strip() for gene in genes):
            raise SettingsError(f"edge {number} of graph= lacks a gene, {_short(row)}: name it, or leave the edge out")
        weight = row[2:]
        if weight and isinstance(weight[0], Mapping):
            weight = (weight[0]["weight"],) if "weight" in weight[0] else ()
        try:
            weight = tuple(float(w) for w in weight)
        except (TypeError, ValueError):
            weight = (math.nan,)
        if not all(map(math.isfinite, weight)):
            raise SettingsError(f"edge {number} of graph= has no finite weight, {_short(row)}: give a number, or none")
        if weight != (0.0,):
            edges.append((str(genes[0]), str(genes[1]), *weight))
    return tuple(edges)


def _short(edge: object) -> str:
    return edge if len(edge := repr(edge)) < 80 else edge[:79] + "…"


def neighbours(edges: Iterable[Sequence[object]]) -> dict[str, dict[str, float]]:
    """Return weighted neighbours by gene of an undirected edge list.

    Examples
    --------
    >>> neighbours([("A", "B"), ("B", "C", 0.5)])["B"]
    {'A': 1.0, 'C': 0.5}
    """
    near: dict[str, dict[str, float]] = {}
    for a, b, *weight in edges:
        w = float(weight[0]) if weight else 1.0  # type: ignore[arg-type]
        if a != b:
            near.setdefault(str(a), {})[str(b)] = w
            near.setdefault(str(b), {})[str(a)] = w
    return near
