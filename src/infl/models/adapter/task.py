"""The protocol of the adapter: what the sites agree on, its centroids, its module, and what is written back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from infl._isolation import torch_seed
from infl._parameters import LAYER, SEED, SHARE, Choice, Flag, Kind, Names, Real, Text, Whole
from infl.data.labels import TEXT, as_labels
from infl.errors import SettingsError
from infl.models.adapter.bases import Base, is_known, load_base, name_of, place_base
from infl.models.adapter.centroids import centroid_sums
from infl.models.adapter.data import Sentences, agreed_labels, codes_of, first_label, numbers_of, sentences
from infl.models.adapter.scoring import logistic_baseline, metrics_of, outputs_of, sums_of, sums_of_outputs
from infl.models.labelled import has_numbers, split_rows, stratified_split
from infl.models.matrix import FeatureMatrix
from infl.models.site_data import Step
from infl.models.task import Predictor, Sums, Task
from infl.sums import FederatedSum

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.models.adapter.net import AdaptedNet
    from infl.nn.steps import Stepper

FROZEN = ("A", "router", "omega", "gate")
"""What all sites share and nobody trains, so that the average of the sites' B is the average of their updates."""
PHASES = (("B", "heads"), ("A",), ("router", "omega", "gate"))
"""What is trained in turn, round by round. With the rest fixed an update is linear in B, and linear in A; in the routing it is
not, but nothing else moves meanwhile."""


@dataclass(frozen=True)
class Adapter(Task[Sentences, "AdaptedNet"]):
    """Predict one or several categorical ``obs`` columns with a shared adapter on a pretrained transformer.

    A cell or sample becomes a sentence of the names of its highest features. The base model reads it unchanged; rank-one
    experts beside its linear layers and one linear head for each task are what is trained, averaged, locked and sealed.

    Parameters
    ----------
    target
        Column or columns of ``obs``. A site need not have all of them, nor a label for each observation.
    base
        Folder of a transformers model with its tokenizer, alike at all sites, or the name of one
        (:func:`infl.models.load_base`). The task keeps the name alone; a folder's is its last part.
    layer
        Layer to rank (None: ``X``).
    length
        Tokens of a sentence.
    average
        ``"exact"``: A, router, ω and g are random, alike everywhere and not trained; the sites train B, and the
        average of their B is the average of their updates. ``"naive"``: all parts are trained, and averaged one by one,
        which is not the average of the updates.
    train
        ``"b"``: as `average` says. ``"alternating"``: all parts, in turns of a round: B and the heads; then A; then router, ω
        and g. With the rest fixed the average of B, and that of A, is the average of the updates; of the third turn it is
        not, and the rest waits. Under differential privacy B alone is trained: what waits would gather noise.
    r1, r2, router, top_k, alpha, dropout, balance
        As for :class:`infl.nn.trex.RankOneExperts`.
    prior
        Whether experts are weighed by how near a sentence lies to centroids.
    intuition_rounds
        Rounds of k-means over all sites, by sealed sums, that make the centroids of the sentences' mean token embeddings; 0: the
        centroids of the base's tokens, which need no data.
    validation
        Share of each site's observations that judges rounds and is not trained on.
    stratify
        Split them off by class. Without it each is drawn by its name alone, whatever the others are: so it is under
        differential privacy.
    public_seed
        Fixes A and the router.

    References
    ----------
    T-REX, arXiv 2404.08985; exact averaging of low-rank updates by a shared A: FFA-LoRA, arXiv 2403.12313; cell sentences:
    Levine et al., Cell2Sentence, ICML 2024.

    Examples
    --------
    >>> import infl
    >>> infl.models.Adapter(target="cell_type").options()["target"]
    ['cell_type']
    """

    name: ClassVar[str] = "adapter"
    headline: ClassVar[str] = "mean_accuracy"

    lr: float = 3e-3
    target: str | Sequence[str] = ""
    base: str = ""
    layer: str | None = None
    length: int = 64
    average: Literal["exact", "naive"] = "exact"
    train: Literal["b", "alternating"] = "b"
    r1: int = 4
    r2: int = 8
    router: Literal["token", "sequence", "none"] = "token"
    top_k: int | None = None
    alpha: float | None = None
    dropout: float = 0.0
    balance: float = 0.0
    prior: bool = True
    intuition_rounds: int = 5
    validation: float = 0.2
    stratify: bool = True
    public_seed: int = 0
    tasks: tuple[str, ...] = field(init=False, repr=False, compare=False, default=())

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "target": Names(empty=True, says="one obs column or several, each of them once"),
        "base": Text(path=True, empty=True, says="the folder of a model, or the name of an installed base"),
        "layer": LAYER,
        "length": Whole(1),
        "average": Choice(("exact", "naive")),
        "train": Choice(("b", "alternating")),
        "r1": Whole(1),
        "r2": Whole(1),
        "router": Choice(("token", "sequence", "none")),
        "top_k": Whole(1, none=True),
        "alpha": Real(0, open="low", none=True),
        "dropout": SHARE,
        "balance": Real(0),
        "prior": Flag(),
        "intuition_rounds": Whole(0),
        "validation": SHARE,
        "stratify": Flag(),
        "public_seed": SEED,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "base", name_of(self.base))
        object.__setattr__(self, "tasks", tuple(name for name in self.target if name))
        object.__setattr__(self, "target", list(self.tasks))
        if self.train == "alternating" and self.average == "naive":
            raise SettingsError(
                "average='naive' trains all parts at once, train='alternating' in turn: leave one of them out"
            )

    def options(self) -> dict[str, Any]:
        """Return the options as JSON."""
        return {name: value for name, value in super().options().items() if name != "tasks"}

    @classmethod
    def check_names(cls, options: Mapping[str, Any]) -> None:
        """Refuse a base that is not known here: only who calls may give a folder in place of a name."""
        if not is_known(str(options.get("base", ""))):
            load_base(str(options.get("base", "")))

    @classmethod
    def place_base(cls, options: Mapping[str, Any], panel: Mapping[str, Any], base: str | Path) -> None:
        """Let the base that a model file names be the one in the folder `base`."""
        place_base(str(options["base"]), str(panel["base"]), base)

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features, all classes of each task, and which base model it is."""
        from infl.data.check import panel_of

        if not self.tasks:
            raise SettingsError("model='adapter' needs target=, one or several obs columns with classes")
        base = load_base(self.base)
        features = list(panel_of(sites, layer=self.layer).features)
        base.vocabulary(features)
        labels = agreed_labels(sites, self.tasks)
        return {"features": features, **labels, "base": base.digest, "width": base.width}

    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> Sentences:
        """Read the observations as sentences and, when training, their labels."""
        base = self._base(panel)
        x = FeatureMatrix(adata, panel["features"], layer=self.layer, site=site)
        tokens = base.vocabulary(panel["features"])
        ids, mask = sentences(x, tokens, length=self.length, first=base.first, site=site)
        if rng is None:
            everything, unlabelled = np.arange(adata.n_obs), torch.full((adata.n_obs, len(panel["tasks"])), -1)
            return Sentences(ids, mask, unlabelled, everything, everything[:0])
        labels = numbers_of(adata, self._classes(panel), site)
        first = first_label(labels)
        train, validation = split_rows(adata.obs_names, first, self.validation, rng, stratify=self.stratify)
        return Sentences(ids, mask, torch.from_numpy(labels), train, validation)

    def _classes(self, panel: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the classes of each task, in the order of the heads: a panel that travelled has its own."""
        return {task: panel["tasks"][task] for task in self.tasks}

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Classes of each column of labels."""
        return {f"class of {name!r}": classes for name, classes in self._classes(panel).items()}

    def held(self, data: Sentences, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Classes that a site has."""
        named = self.held_names(panel).items()
        labels = data.labels.numpy()
        return {group: has_numbers(labels[:, k], len(of)) for k, (group, of) in enumerate(named)}

    def _base(self, panel: Mapping[str, Any]) -> Base:
        base = load_base(self.base)
        if base.digest != panel["base"]:
            raise SettingsError(f"this adapter belongs to another base model than the one at base={self.base!r}")
        return base

    # -- centroids -------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return rounds of k-means over the sentences."""
        if not self.prior or not self.intuition_rounds:
            return ()
        return (centroid_sums(self.r1 * self.r2, panel["width"], steps=self.intuition_rounds),)

    def for_dp(self) -> Adapter:
        """Take the centroids from the base's tokens, hold out each observation by itself, and train B alone."""
        return replace(self, intuition_rounds=0, stratify=False, train="b")

    def configure(self, module: AdaptedNet, private: Sums) -> None:
        """Set the centroids that have been found."""
        if "centroids" not in private:
            return
        found = torch.from_numpy(np.asarray(private["centroids"], dtype=np.float32))
        known = found.norm(dim=1) > 0
        module.intuition.centroids[known] = found[known]

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> AdaptedNet:
        """Return the base with a fresh adapter and fresh heads; A and router follow from `public_seed`."""
        from infl.models.adapter.net import AdaptedNet
        from infl.nn.trex import TrexConfig

        config = TrexConfig(
            r1=self.r1,
            r2=self.r2,
            prior=self.prior,
            router=self.router,
            top_k=self.top_k,
            alpha=self.alpha,
            dropout=self.dropout,
            balance=self.balance,
            frozen=FROZEN if self.average == "exact" and self.train == "b" else (),
        )
        with torch_seed(self.public_seed):
            return AdaptedNet(self._base(panel), config, [len(classes) for classes in self._classes(panel).values()])

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Rows of the heads are classes."""
        named = enumerate(self._classes(panel).values())
        return {f"heads.{i}.{part}": {0: classes} for i, classes in named for part in ("weight", "bias")}

    def loss(self, module: AdaptedNet, batch: tuple[Tensor, Tensor, Tensor], step: Step) -> Tensor:
        """Return the mean cross-entropy of all labels in a batch."""
        ids, mask, labels = batch
        if self.train == "alternating":
            module.train_only(PHASES[(step.round - 1) % len(PHASES)])
        losses = [
            F.cross_entropy(logits, y, ignore_index=-1, reduction="sum")
            for logits, y in zip(module(ids, mask), labels.T, strict=True)
        ]
        return torch.stack(losses).sum() / (labels >= 0).sum().clamp_min(1)

    def optimise(self, parameters: Iterable[Tensor]) -> Stepper:
        """Return what trains `parameters` at a site; where parts rest in turn, nothing decays meanwhile."""
        return (
            super().optimise(parameters)
            if self.train == "b"
            else replace(self, train="b", weight_decay=0.0).optimise(parameters)
        )

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Summed loss, and confusion counts (true × predicted) of each task."""
        sizes = {f"confusion.{task}": (len(classes),) * 2 for task, classes in self._classes(panel).items()}
        return {"loss": (), **sizes}

    def evaluate(self, module: AdaptedNet, data: Sentences, index: np.ndarray) -> Sums:
        """Return sums over the observations `index`."""
        return sums_of(module, self.tasks, data, index)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return loss, mean accuracy and mean balanced accuracy over tasks, and each task's accuracy."""
        return metrics_of(sums, self.tasks)

    # -- results ---------------------------------------------------------------------------------------------------
    def infer(self, module: AdaptedNet, data: Sentences, private: Sums) -> dict[str, np.ndarray]:
        """Return each task's probabilities (n, classes) and the latent (n, width)."""
        return outputs_of(module, self.tasks, data)

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write ``obs[key_added + "_prediction"]`` and ``…_probability``, with the task's name added if there are several.

        Also ``obsm["X_" + key_added]``.
        """
        for task, classes in self._classes(panel).items():
            probability = outputs[f"probability.{task}"]
            name = key_added if len(panel["tasks"]) == 1 else f"{key_added}_{task}"
            type_ = panel.get("class_types", {}).get(task, TEXT)
            adata.obs[f"{name}_prediction"] = as_labels(probability.argmax(1), classes, type_)
            adata.obs[f"{name}_probability"] = probability.max(1)
        self.embed(adata, outputs, key_added=key_added)

    def embed(self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], *, key_added: str) -> None:
        """Write ``obsm["X_" + key_added]`` alone."""
        adata.obsm[f"X_{key_added}"] = outputs["latent"]

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out `share` of the observations, by the class of the first task that each has a label of."""
        _, test = stratified_split(first_label(codes_of(adata, self.tasks)), share, rng)
        return np.isin(np.arange(adata.n_obs), test)

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return mean accuracy and mean balanced accuracy over tasks, and each task's accuracy."""
        sums = sums_of_outputs(adata, outputs, self._classes(panel))
        return {name: value for name, value in self.summarise(sums).items() if name != "loss"}

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Multinomial logistic regression on pooled, standardised data, one for each task."""
        return logistic_baseline(train, self._classes(panel), panel["features"], self.layer)
