"""Perturbation regression: what happens to all genes when some are perturbed, for genes that no site perturbed."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from infl._parameters import COLUMN, LAYER, SHARE, Kind, Real, Text, Whole
from infl._warn import warn
from infl.data.labels import label_text
from infl.errors import DataError
from infl.models.effects import Effects, Genes, edges_of, neighbours
from infl.models.labelled import has_numbers
from infl.models.matrix import FeatureMatrix
from infl.models.task import Predictor, SiteData, Step, Sums, Task
from infl.nn.perturbation import EffectNet
from infl.sums import FederatedSum, SiteView, State
from infl.sums.shape import Records
from infl.sums.share import sure_share

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

COLUMNS = ("perturbation", "gene_target", "perturbation_name", "condition", "guide_target", "target_gene")
"""Where pertpy's and scPerturb's objects have the perturbation, in the order in which they are tried."""
CONTROLS = ("control", "ctrl", "non-targeting", "NT", "unperturbed", "negative control", "vehicle", "DMSO")
MAX_COVARIANCE = 3000
"""Up to so many genes their covariance over control cells is summed; beyond it members that need it are left out."""
TOP = 20


@dataclass(frozen=True)
class Perturbation(Task):
    """Predict the effect of genetic perturbations on expression.

    The effect of a condition is the difference of mean log-expression between its cells and control cells of the same
    site. From sums over sites come the field's simple baselines and a stack of them (:class:`infl.models.effects.Effects`);
    a network (:class:`infl.nn.perturbation.EffectNet`) is trained in rounds, and counts for as much as it helped on
    conditions that were held out from its training.

    Parameters
    ----------
    target
        Column of ``obs`` with the perturbed genes; ``"A+B"`` is both (default: the first of the usual names that there
        is, as in pertpy and scPerturb).
    control
        Label of control cells.
    layer
        Layer to read (None: ``X``): log-normalised expression, or counts with `target_sum`.
    target_sum
        Counts are scaled to this sum a cell, then log1p (None: the data are log-normalised).
    graph
        Prior graph: edges ``(gene, gene)`` or ``(gene, gene, weight)``, a data frame with such columns, or a networkx graph.
    validation
        Share of the conditions that the network is not trained on; the same at all sites.
    focus, direction
        Weight of large errors, and of wrong signs, in the network's loss.
    width
        Of the network.

    References
    ----------
    Ahlmann-Eltze, Huber and Anders, Deep-learning-based gene perturbation effect prediction does not yet outperform
    simple linear baselines, Nature Methods 2025: why the baselines are part of the model.

    Examples
    --------
    >>> import infl
    >>> task = infl.models.Perturbation(target="perturbation", control="control")
    >>> task.name, [one.name for one in task.after({"features": [], "conditions": []})]  # sums needed after training
    ('perturbation', ['share'])
    """

    name: ClassVar[str] = "perturbation"
    headline: ClassVar[str] = "pearson_delta"

    target: str = ""
    control: str = "control"
    layer: str | None = None
    target_sum: float | None = None
    graph: Any = ()
    validation: float = 0.2
    focus: float = 1.0
    direction: float = 0.1
    width: int = 32
    lr: float = 1e-2
    batch_size: int = 16

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "target": COLUMN,
        "control": Text(says="the label of control cells"),
        "layer": LAYER,
        "target_sum": Real(0, open="low", none=True),
        "validation": SHARE,
        "focus": Real(0),
        "direction": Real(0),
        "width": Whole(1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "graph", edges_of(self.graph))

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return genes, conditions and those that the network is not trained on, after checking the sites' data."""
        from infl.data.check import panel_of

        features = panel_of(sites, layer=self.layer).features
        column = self._column(sites)
        singles = set(features)
        for adata in sites.values():
            singles |= set(label_text(adata.obs[column]).dropna()) - {self.control}
        at: dict[Genes, list[str]] = {}
        for site, adata in sites.items():
            labels = label_text(adata.obs[column]).dropna().unique()
            self._check_site(site, adata, column, labels)
            for genes in sorted({self.genes_of(label, singles) for label in labels} - {()}):
                at.setdefault(genes, []).append(site)
        if not at:
            raise DataError(f"obs[{column!r}] has {self.control!r} only: there is no perturbation to learn from")
        lone = [g for g, where in at.items() if len(where) == 1]
        if lone and len(sites) > 1:
            warn(
                f"{len(lone)} perturbations are at one site only ({'+'.join(lone[0])} at {at[lone[0]][0]}): their effects are "
                "that site's alone"
            )
        nodes = sorted({gene for genes in at for gene in genes} | self._graph_genes(set(features), at))
        return {
            "features": list(features),
            "conditions": ["+".join(genes) for genes in sorted(at)],
            "nodes": nodes,
            "held": self._held(sorted(at)),
            "column": column,
        }

    def settled(self, panel: Mapping[str, Any]) -> dict[str, Any]:
        """Return a joined panel with its own choice of conditions that the network is not trained on."""
        conditions = sorted(tuple(name.split("+")) for name in panel["conditions"])
        names = ["+".join(genes) for genes in conditions]
        return {**panel, "conditions": names, "held": self._held(conditions)}

    def _column(self, sites: Mapping[str, AnnData | MuData]) -> str:
        tried = (self.target,) if self.target else COLUMNS
        for column in tried:
            if all(column in adata.obs for adata in sites.values()):
                return column
        missing = next((s for s, adata in sites.items() if tried[0] not in adata.obs), next(iter(sites)))
        has = ", ".join(map(repr, list(sites[missing].obs)[:6]))
        raise DataError(f"{missing} has no obs column {tried[0]!r} with the perturbations: set target= (it has {has})")

    def _check_site(self, site: str, adata: AnnData, column: str, labels: np.ndarray) -> None:
        if self.control not in labels:
            near = [c for c in labels if c.lower() in {x.lower() for x in CONTROLS}]
            near += difflib.get_close_matches(self.control, labels, 1)
            hint = f"is it {near[0]!r}? set control={near[0]!r}" if near else "set control=, or leave the site out"
            raise DataError(f"{site} has no control cells: no {self.control!r} in obs[{column!r}]; {hint}")
        self._check_units(adata, site)

    def _check_units(self, adata: AnnData, site: str) -> None:
        from infl.data.units import units_of

        kind = units_of(adata, self.layer)
        if kind == "raw counts" and self.target_sum is None:
            raise DataError(
                f"{site} has raw counts in {self.layer or 'X'}: run infl.pp.normalize_total and infl.pp.log1p first, or set "
                "target_sum="
            )
        if self.target_sum is not None and kind not in ("raw counts", None):
            raise DataError(
                f"{site} has {kind} in {self.layer or 'X'} where counts are due: leave target_sum out, or choose layer="
            )
        if kind == "scaled values":
            raise DataError(f"{site} has scaled values in {self.layer or 'X'}: effects need log-normalised expression")

    def _graph_genes(self, features: set[str], at: Mapping[Genes, Any]) -> set[str]:
        near = neighbours(self.graph)
        known = features | {gene for genes in at for gene in genes}
        if near and not known & near.keys():
            raise DataError(
                f"graph= has no gene of the data (it has {next(iter(near))!r}): use the same kind of gene names in both"
            )
        return set(near)

    def _held(self, conditions: Sequence[Genes]) -> list[str]:
        """Names of the conditions that judge the network; chosen by their names, so that all sites choose alike."""
        names = ["+".join(genes) for genes in conditions]
        names.sort(key=lambda name: hashlib.sha256(f"held out {name}".encode()).digest())
        return sorted(names[: round(self.validation * len(names))])

    def genes_of(self, label: str, singles: set[str] | None = None) -> Genes:
        """Return the perturbed genes of a label, sorted; () for controls.

        Examples
        --------
        >>> (
        ...     Perturbation().genes_of("STAT1+IRF1"),
        ...     Perturbation().genes_of("KLF1+ctrl"),
        ...     Perturbation().genes_of("control"),
        ... )
        (('IRF1', 'STAT1'), ('KLF1',), ())
        """
        parts = [part.strip() for part in label.replace(",", "+").replace(";", "+").split("+")]
        if len(parts) == 1 and singles and "_" in label and set(label.split("_")) <= singles:
            parts = label.split("_")
        none = {self.control.lower(), *(name.lower() for name in CONTROLS)}
        return tuple(sorted({part for part in parts if part and part.lower() not in none}))

    # -- data ------------------------------------------------------------------------------------------------------
    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> Conditions:
        """Read a site's cells into means by condition; cells are not kept."""
        table = cast("AnnData", adata)
        x = FeatureMatrix(table, panel["features"], layer=self.layer, site=site)
        self._check_units(table, site)
        if panel["column"] in table.obs:
            known = set(panel["nodes"]) | set(panel["features"])
            text = label_text(table.obs[panel["column"]])
            of = {label: "+".join(self.genes_of(label, known)) for label in text.dropna().unique()}
            labels = text.map(of).fillna("?").to_numpy(dtype=object)
        else:
            labels = np.full(table.n_obs, "")
        return Conditions(x, labels, panel, self.target_sum, site)

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Perturbations."""
        return {"perturbation": panel["conditions"]}

    def held(self, data: Conditions, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Perturbations that a site has cells of."""
        return {"perturbation": has_numbers(np.array(data.number, dtype=int), len(panel["conditions"]))}

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sum of effects, and of what control cells look like."""
        p, k = len(panel["features"]), len(panel["conditions"])
        of_control: dict[str, tuple[int, ...]] = {"n_control": (), "control": (p,), "control_squares": (p,)}
        of_control |= {"products": (p, p)} if p <= MAX_COVARIANCE else {}

        def local(site: SiteView, state: State) -> Sums:
            data = site.data
            sums = {"n": np.zeros(k), "change": np.zeros((k, p)), "squares": np.zeros((k, p))}
            for i, number in enumerate(data.number):
                sums["n"][number] = data.n[i]
                sums["change"][number] = data.n[i] * data.delta[i]
                sums["squares"][number] = data.squares[i]
            sums["n_control"] = np.asarray(float(data.n_control))
            sums["control"] = data.n_control * data.control
            sums["control_squares"] = data.control_squares
            return sums | ({} if data.products is None else {"products": data.products})

        def records(site: SiteView, state: State) -> Records:
            n = local(site, state)["n"]
            return {"n": n, "change": n[:, None], "squares": n[:, None]} | dict.fromkeys(
                of_control, site.data.n_control
            )

        effects = FederatedSum(
            name="effects",
            shapes={"n": (k,), "change": (k, p), "squares": (k, p)} | of_control,
            local=local,
            combine=effects_of,
            says="for each perturbation: number of cells, sums and sums of squares of the change of each feature; the same "
            "of control cells",
            records=records,
            sensitivity={"n": 1, "n_control": 1},
        )
        return (effects,)

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return how much the network helps beside the stack, on conditions that it was not trained on."""

        def local(site: SiteView, state: State) -> Sums:
            stack, net, data = self.effects(panel, state), cast(EffectNet, site.module), site.data
            numbers = {genes: i for i, genes in enumerate(stack.conditions)}
            moments = np.zeros(5)
            for i in data.validation:
                base = stack.predict(data.genes[i], without=numbers[data.genes[i]])
                step, rest = data.network(net, i) - base, data.delta[i] - base
                scale = max(float(np.linalg.norm(data.delta[i])), 1e-12)
                gain, room = float(step @ rest) / scale, float(step @ step) / scale
                moments += (gain, room, gain * gain, gain * room, room * room)
            return {"moments": moments}

        helps = FederatedSum(
            name="share",
            shapes={"moments": (5,)},
            local=local,
            combine=lambda total, state: {**state, "share": np.asarray(sure_share(*total["moments"]))},
            says="sums that tell how much better the network predicts validation records than a simple method does",
            records=lambda site, state: int(site.data.n[site.data.validation].sum()),
        )
        return (helps,) if self.validation else ()

    def effects(self, panel: Mapping[str, Any], private: Sums) -> Effects:
        """Return the effects that a run's sums tell, with what predicts those of other genes."""
        return Effects(
            features=tuple(panel["features"]),
            conditions=tuple(tuple(name.split("+")) for name in panel["conditions"]),
            delta=private["delta"],
            variance=private["variance"],
            control=private["control"],
            covariance=private.get("covariance"),
            edges=neighbours(self.graph),
        )

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> EffectNet:
        """Return a fresh :class:`infl.nn.perturbation.EffectNet`."""
        net = EffectNet(len(panel["nodes"]), len(panel["features"]), width=self.width)
        number = {gene: i for i, gene in enumerate(panel["nodes"])}
        for gene, near in neighbours(self.graph).items():
            total = sum(near.values())
            for other, weight in near.items():
                if gene in number and other in number and total > 0:
                    net.adjacency[number[gene], number[other]] = weight / total
        trained = {gene for name in panel["conditions"] if name not in panel["held"] for gene in name.split("+")}
        for gene in trained:
            net.seen[number[gene]] = 1.0
        return net

    def configure(self, module: nn.Module, private: Sums) -> None:
        """Set the mean of control cells."""
        if "control" in private:
            cast(EffectNet, module).control.copy_(torch.from_numpy(private["control"].astype(np.float32)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Rows of the embedding are perturbed genes, rows of the last layer measured ones."""
        return {"node.weight": {0: panel["nodes"]}, "gene.weight": {0: panel["features"]}}

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor], step: Step) -> Tensor:
        """Return the squared error, with weight on large errors and on wrong signs.

        In units of the site's typical change; conditions count by the root of their number of cells.
        """
        perturbed, own, change, weight = batch
        error = module(perturbed, own) - change
        size = change.square().mean().sqrt().clamp_min(1e-6)
        focused = (error / size).square() * (1 + self.focus * (error.detach().abs() / size).clamp_max(10))
        wrong = torch.relu(-torch.tanh((error + change) / size) * torch.tanh(change / size))
        return ((focused + self.direction * wrong).mean(1) * weight).mean()

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Sums over conditions: squared errors, correlations, and how many."""
        return {"squared": (), "correlation": (), "n": ()}

    def evaluate(self, module: nn.Module, data: Conditions, index: np.ndarray) -> Sums:
        """Return sums over the conditions `index` of the network's errors."""
        sums = {"squared": 0.0, "correlation": 0.0, "n": float(len(index))}
        for i in index:
            predicted = data.network(cast(EffectNet, module), i)
            sums["squared"] += float(((predicted - data.delta[i]) ** 2).mean())
            sums["correlation"] += correlation(predicted, data.delta[i])
        return {name: np.asarray(value) for name, value in sums.items()}

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return the mean squared error and correlation of effects on conditions that were not trained on."""
        n = float(sums["n"])
        if n == 0:
            return {"loss": np.nan, "pearson_delta": np.nan}
        return {"loss": float(sums["squared"]) / n, "pearson_delta": float(sums["correlation"]) / n}

    # -- results ---------------------------------------------------------------------------------------------------
    def predict_effects(
        self, module: nn.Module, panel: Mapping[str, Any], private: Sums, conditions: Sequence[Genes]
    ) -> np.ndarray:
        """Return predicted effects of conditions, ``(n_conditions, n_features)``.

        Without private arrays (no key) the network's alone, such as it is.
        """
        net = partial(network, cast(EffectNet, module), panel)
        stack = self.effects(panel, private) if "delta" in private else None
        if stack is None:
            rows = [net(genes) if genes else np.zeros(len(panel["features"])) for genes in conditions]
        else:
            share = float(private.get("share", 0.0))
            rows = [stack.predict(genes) for genes in conditions]
            for row, genes in zip(rows, conditions, strict=True):
                if share and genes not in stack.conditions:  # the network speaks for genes that were not perturbed
                    for gene in {(gene,) for gene in genes} - set(stack.conditions):
                        row += share * (net(gene) - stack.predict(gene))
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(panel["features"]))

    def infer(self, module: nn.Module, data: Conditions, private: Sums) -> dict[str, np.ndarray]:
        """Return the predicted effect of every condition that the data have."""
        names = sorted(set(data.labels) - {"", "?"})
        known = [
            name for name in names if set(name.split("+")) <= set(data.panel["nodes"]) | set(data.panel["features"])
        ]
        predicted = self.predict_effects(module, data.panel, private, [tuple(name.split("+")) for name in known])
        return {"effects": predicted, "conditions": np.array(known, dtype=object)}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Put the predicted effects of the object's conditions into ``varm`` (n_vars × conditions; NaN: not in the panel)."""
        frame = pd.DataFrame(outputs["effects"].T, index=panel["features"], columns=list(outputs["conditions"]))
        adata.varm[f"{key_added}_effect"] = frame.reindex(adata.var_names)

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out cells of every condition."""
        labels = label_text(adata.obs[self._column({"the data": adata})])
        held = np.zeros(adata.n_obs, dtype=bool)
        for rows in adata.obs.groupby(labels.fillna("?"), observed=True).indices.values():
            held[rng.permutation(rows)[: int(share * len(rows))]] = True
        return held

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return metrics of predicted effects against those of held-out cells, means over conditions."""
        data = self.read(adata, panel, site="held-out cells")
        predicted = dict(zip(outputs["conditions"], outputs["effects"], strict=True))
        rows = [effect_metrics(predicted["+".join(g)], d) for g, d in zip(data.genes, data.delta, strict=True)]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Return the mean effect of all training conditions, for each."""
        mean = self.read(train, panel, site="all sites").delta.mean(0)

        def predict(adata: AnnData | MuData) -> dict[str, np.ndarray]:
            names = ["+".join(genes) for genes in self.read(adata, panel, site="held-out cells").genes]
            return {"effects": np.tile(mean, (len(names), 1)), "conditions": np.array(names, dtype=object)}

        return predict


def effects_of(total: Sums, state: State) -> State:
    """Return the state with effects, their noise, and the moments of control cells."""
    n, n_control = np.maximum(total["n"], 1)[:, None], max(float(total["n_control"]), 1.0)
    delta = total["change"] / n
    spread = np.maximum(total["squares"] / n - delta**2, 0)
    variance = spread / n + total["control_squares"] / n_control**2
    state = {**state, "n": total["n"], "delta": delta, "variance": variance}
    state["control"] = total["control"] / n_control
    state["control_variance"] = total["control_squares"] / n_control
    if "products" in total:
        state["covariance"] = total["products"] / n_control
    return state


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
        self.products = np.zeros((p, p)) if p <= MAX_COVARIANCE else None

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

    def network(self, module: EffectNet, i: int) -> np.ndarray:
        """Return the network's prediction of one condition. ``(p,)``"""
        return network(module, self.panel, self.genes[i])


def encode(panel: Mapping[str, Any], genes: Genes) -> tuple[np.ndarray, np.ndarray]:
    """Return which nodes and which measured genes a condition perturbs, as zeros and ones."""
    of = [np.isin(panel[kind], list(genes)).astype(np.float32) for kind in ("nodes", "features")]
    return of[0], of[1]


@torch.no_grad()
def network(module: EffectNet, panel: Mapping[str, Any], genes: Genes) -> np.ndarray:
    """Return a network's prediction of one condition. ``(p,)``"""
    node, own = encode(panel, genes)
    return module(torch.from_numpy(node)[None], torch.from_numpy(own)[None])[0].double().numpy()


def effect_metrics(predicted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Return how well an effect is predicted.

    Returns
    -------
    ``pearson_delta``; ``mse``; ``mse_top20`` and ``direction_top20`` on the 20 genes that change most; ``wmse``: squared
    errors weighted by the size of the change; ``r2_delta``: 1 − error / size of the effect.

    Examples
    --------
    >>> metrics = effect_metrics(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    >>> metrics["mse"], metrics["direction_top20"], metrics["r2_delta"]
    (0.0, 1.0, 1.0)
    """
    top = np.argsort(-np.abs(observed), kind="stable")[:TOP]
    squared, size = (predicted - observed) ** 2, np.abs(observed)
    return {
        "pearson_delta": correlation(predicted, observed),
        "mse": float(squared.mean()),
        "mse_top20": float(squared[top].mean()),
        "direction_top20": float((np.sign(predicted[top]) == np.sign(observed[top])).mean()),
        "wmse": float((squared * size).sum() / size.sum()) if size.any() else np.nan,
        "r2_delta": float(1 - squared.sum() / (observed**2).sum()) if observed.any() else np.nan,
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of the two is constant."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


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
