"""The protocol of perturbation regression: what the sites agree on, its sums, its network, and what is written back."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from infl._parameters import COLUMN, LAYER, SHARE, Kind, Real, Text, Whole
from infl._warn import warn
from infl.data.labels import label_text
from infl.errors import DataError
from infl.models.labelled import has_numbers
from infl.models.matrix import FeatureMatrix
from infl.models.perturbation.data import Conditions, check_control, check_units, column_of, genes_of, network
from infl.models.perturbation.effects import Effects, Genes, edges_of, neighbours
from infl.models.perturbation.scoring import correlation, effect_metrics
from infl.models.perturbation.sums import effect_sums, helpfulness
from infl.models.site_data import Step
from infl.models.task import Predictor, Sums, Task
from infl.nn.perturbation import EffectNet
from infl.sums import FederatedSum

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Perturbation(Task[Conditions, EffectNet]):
    """Predict the effect of genetic perturbations on expression.

    The effect of a condition is the difference of mean log-expression between its cells and control cells of the same
    site. From sums over sites come the field's simple baselines and a stack of them (:class:`infl.models.perturbation.effects.Effects`);
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

    columns_in_panel: ClassVar[tuple[str, ...]] = ("column",)

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
        column = column_of(sites, self.target)
        singles = set(features)
        for adata in sites.values():
            singles |= set(label_text(adata.obs[column]).dropna()) - {self.control}
        at: dict[Genes, list[str]] = {}
        for site, adata in sites.items():
            labels = label_text(adata.obs[column]).dropna().unique()
            check_control(labels, self.control, column, site)
            check_units(adata, site, layer=self.layer, target_sum=self.target_sum)
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
        return {**panel, "conditions": ["+".join(genes) for genes in conditions], "held": self._held(conditions)}

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

    def genes_of(self, label: str, singles: Collection[str] = ()) -> Genes:
        """Return the perturbed genes of a label, sorted; () for controls.

        Examples
        --------
        >>> Perturbation().genes_of("STAT1+IRF1"), Perturbation(control="wild type").genes_of("wild type")
        (('IRF1', 'STAT1'), ())
        """
        return genes_of(label, self.control, singles)

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
        x = FeatureMatrix(adata, panel["features"], layer=self.layer, site=site)
        check_units(adata, site, layer=self.layer, target_sum=self.target_sum)
        named = self.named_as(adata.obs[panel["column"]], panel).fillna("?") if panel["column"] in adata.obs else None
        labels = np.full(adata.n_obs, "") if named is None else named.to_numpy(dtype=object)
        return Conditions(x, labels, panel, self.target_sum, site)

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Perturbations."""
        return {"perturbation": panel["conditions"]}

    def held(self, data: Conditions, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Perturbations that a site has cells of."""
        return {"perturbation": has_numbers(np.array(data.number, dtype=int), len(panel["conditions"]))}

    def named_groups(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Perturbations."""
        return {panel["column"]: panel["conditions"]}

    def named_as(self, values: pd.Series, panel: Mapping[str, Any]) -> pd.Series:
        """Return the perturbed genes of each cell, "" for controls: ``"A,B"`` and ``"B+A"`` are one perturbation."""
        text, known = label_text(values), set(panel["nodes"]) | set(panel["features"])
        return text.map({label: "+".join(self.genes_of(label, known)) for label in text.dropna().unique()})

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sum of effects, and of what control cells look like."""
        return (effect_sums(len(panel["conditions"]), len(panel["features"])),)

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return how much the network helps beside the stack, on conditions that it was not trained on."""
        return (helpfulness(lambda state: self.effects(panel, state)),) if self.validation else ()

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

    def configure(self, module: EffectNet, private: Sums) -> None:
        """Set the mean of control cells."""
        if "control" in private:
            module.control.copy_(torch.from_numpy(private["control"].astype(np.float32)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Rows of the embedding are perturbed genes, rows of the last layer measured ones."""
        return {"node.weight": {0: panel["nodes"]}, "gene.weight": {0: panel["features"]}}

    def loss(self, module: EffectNet, batch: tuple[Tensor, Tensor, Tensor, Tensor], step: Step) -> Tensor:
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

    def evaluate(self, module: EffectNet, data: Conditions, index: np.ndarray) -> Sums:
        """Return sums over the conditions `index` of the network's errors."""
        sums = {"squared": 0.0, "correlation": 0.0, "n": float(len(index))}
        for i in index:
            predicted = data.network(module, i)
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
        net = partial(network, module, panel)
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

    def infer(self, module: EffectNet, data: Conditions, private: Sums) -> dict[str, np.ndarray]:
        """Return the predicted effect of every condition that the data have."""
        names, of = sorted(set(data.labels) - {"", "?"}), {*data.panel["nodes"], *data.panel["features"]}
        known = [name for name in names if set(name.split("+")) <= of]
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
        labels = label_text(adata.obs[column_of({"the data": adata}, self.target)])
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
        """Return a condition's own mean effect in training, or that of all conditions where it was not seen."""
        seen = self.read(train, panel, site="all sites")
        own, mean = dict(zip(seen.genes, seen.delta, strict=True)), seen.delta.mean(0)

        def predict(adata: AnnData | MuData) -> dict[str, np.ndarray]:
            genes = self.read(adata, panel, site="held-out cells").genes
            names = np.array(["+".join(g) for g in genes], dtype=object)
            return {"effects": np.stack([own.get(g, mean) for g in genes]), "conditions": names}

        return predict
