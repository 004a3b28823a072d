"""Histology to expression: what stained tissue around a spot says of its genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from infl._parameters import LAYER, MODALITY, OTHER_COLUMN, SHARE, Choice, Flag, Kind, Options, Real, Text, Whole
from infl.errors import DataError
from infl.models.counts import check_counts, log_normalised, table_of
from infl.models.matrix import FeatureMatrix
from infl.models.neighbours import section_rows, sections_of, warn_of_spacings
from infl.models.patches import N_STATISTICS, Patches, Stain
from infl.models.spots import SpotBatch, Spots, blocks, smoother, warn_of_lost
from infl.models.task import Predictor, Step, Sums, Task
from infl.nn.histology import HistologyNet, SmallCNN, count_loss, dihedral, load_backbone
from infl.sums import FederatedSum, SiteView, State
from infl.sums.share import sure_share

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

TOP = 50
N_WAVES = 512
"""Random features of the kernel."""
KERNEL_WIDTH = 0.2
"""γ of exp(−γ |x − y|² / d) for standardised numbers."""


@dataclass(frozen=True)
class Histology(Task):
    """Predict the expression of spots from H&E patches.

    Two members are added. *Regression*: colour and texture of a patch and of its neighbourhood, in optical density, as they
    are and relative to their section, through a kernel ridge regression that is exact over sites, since all that it needs
    are sums. *Network*: a convolutional network on stain-normalised patches with the same numbers beside it, trained on
    counts in rounds. The network counts for as much as it surely helped on spots that neither was fitted to.

    Parameters
    ----------
    layer
        Layer with the raw counts (None: ``X``).
    modality
        Which modality of a ``MuData`` to read.
    patches
        Key of ``obsm`` with the patches: uint8, RGB, row-major, with ``uns["patch_shape"]``.
    spatial_key, section_key
        Key of ``obsm`` with coordinates, and column of ``obs`` with the section (None: each site has one).
    context
        How many spots far the neighbourhood reaches (0: coordinates are not needed).
    n_neighbors
        Nearest spots that are neighbours: 8 on a square grid, 6 on a hexagonal one.
    stain
        How stains of sections are made alike for the network: ``"reinhard"``, ``"macenko"`` or ``"none"``
        (:func:`infl.models.patches.stain_transform`).
    augment
        Turn and mirror patches at random in training, and average over all eight ways in prediction.
    statistics
        Use the regression, and its numbers in the network. Without it the network sees the patch alone.
    depth
        From 0, expression is learned as it is scored, relative to the spot's total; to 1, as counts. Log-normalised values
        of shallow spots depend on depth, which tissue tells well.
    ridge
        Strength of the regression's penalty.
    target_sum
        Expression is log1p of counts scaled to this sum a spot.
    gene_likelihood
        Of the network: ``"nb"`` (negative binomial) or ``"poisson"``.
    backbone, backbone_options
        Name of what returns a torch module from images (n, 3, h, w), and its arguments (:func:`infl.nn.histology.load_backbone`):
        set ``infl.settings.backbones["resnet18"] = lambda: timm.create_model("resnet18", num_classes=0)``, at all sites and
        where the model is used, or install a package that brings it. Empty: a small CNN.
    width, rank, dropout
        Of the network.
    validation
        Share of each site's spots that neither member is fitted to.

    Examples
    --------
    >>> Histology(context=0).name
    'histology'
    """

    name: ClassVar[str] = "histology"
    headline: ClassVar[str] = "pearson"

    layer: str | None = None
    modality: str | None = None
    patches: str = "patches"
    spatial_key: str = "spatial"
    section_key: str | None = None
    context: int = 1
    n_neighbors: int = 8
    stain: Stain = "reinhard"
    augment: bool = True
    statistics: bool = True
    depth: float = 0.5
    ridge: float = 0.3
    target_sum: float = 1e4
    gene_likelihood: Literal["nb", "poisson"] = "nb"
    backbone: str = ""
    backbone_options: Mapping[str, Any] = field(default_factory=dict)
    width: int = 64
    rank: int = 16
    dropout: float = 0.2
    validation: float = 0.15
    lr: float = 3e-3
    weight_decay: float = 1e-2
    grad_clip: float | None = 1.0

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "layer": LAYER,
        "modality": MODALITY,
        "patches": Text(says="the name of an array in obsm"),
        "spatial_key": Text(says="the name of an array in obsm"),
        "section_key": OTHER_COLUMN,
        "context": Whole(0),
        "n_neighbors": Whole(1),
        "stain": Choice(("reinhard", "macenko", "none")),
        "augment": Flag(),
        "statistics": Flag(),
        "depth": Real(0, 1),
        "ridge": Real(0, open="low"),
        "target_sum": Real(0, open="low"),
        "gene_likelihood": Choice(("nb", "poisson")),
        "backbone": Text(empty=True, says="the name of a backbone, or ''"),
        "backbone_options": Options(),
        "width": Whole(1),
        "rank": Whole(1),
        "dropout": SHARE,
        "validation": Real(0, 1),
    }

    # -- agreement -------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features and the shape of patches, after checking the sites' data."""
        from infl.data.check import panel_of

        tables = {site: table_of(adata, self.modality, site) for site, adata in sites.items()}
        panel: dict[str, Any] = {"features": list(panel_of(tables, layer=self.layer).features)}
        shapes = {site: Patches(table, key=self.patches, site=site).shape for site, table in tables.items()}
        first, *others = shapes
        strangers = [site for site in others if shapes[site] != shapes[first]]
        if strangers:
            raise DataError(
                f"patches of {first} are {shapes[first][0]} × {shapes[first][1]} pixels, those of {strangers[0]} "
                f"{shapes[strangers[0]][0]} × {shapes[strangers[0]][1]}: cut them alike with infl.pp.cut_patches"
            )
        panel["patch"] = list(shapes[first])
        if self.context:
            warn_of_spacings({site: self._sections(table, site) for site, table in tables.items()})
        for site, table in tables.items():
            patches, empty = Patches(table, key=self.patches, site=site), self._counts(table, panel, site)[1]
            if (empty | ~patches.present).all():
                raise DataError(f"{site} has no spot with both a patch and counts: leave the site out")
            warn_of_lost(site, int((~patches.present).sum()), int((empty & patches.present).sum()))
            if self.context:
                smoother(
                    self._sections(table, site), patches.present, context=self.context, n_neighbors=self.n_neighbors
                )
        return panel

    def _sections(self, table: AnnData, site: str) -> Any:
        return sections_of(table, spatial_key=self.spatial_key, section_key=self.section_key, site=site)

    def _counts(self, table: AnnData, panel: Mapping[str, Any], site: str) -> tuple[FeatureMatrix, np.ndarray]:
        x = FeatureMatrix(table, panel["features"], layer=self.layer, site=site)
        return x, check_counts(x, table.obs_names, site=site, layer=self.layer, may_be_empty=True)

    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> Spots:
        """Read patches and, when training, counts. Stains and statistics are relative to a section's own."""
        table = table_of(adata, self.modality, site)
        patches = Patches(table, key=self.patches, site=site)
        if list(patches.shape) != list(panel["patch"]):
            raise DataError(
                f"patches of {site} are {patches.shape[0]} × {patches.shape[1]} pixels, the model's {panel['patch'][0]} × "
                f"{panel['patch'][1]}: cut them alike with infl.pp.cut_patches"
            )
        counts, train, validation = None, np.arange(0), np.arange(0)
        if rng is not None:
            counts, empty = self._counts(table, panel, site)
            usable = rng.permutation(np.flatnonzero(patches.present & ~empty))
            n_held = min(round(self.validation * len(usable)), len(usable) - 1)
            train, validation = np.sort(usable[n_held:]), np.sort(usable[:n_held])
        smooth, rows = None, section_rows(table, None, site=site)
        if self.context or self.section_key is not None:
            sections = self._sections(table, site)
            rows = sections.rows
            if self.context:
                smooth = smoother(sections, patches.present, context=self.context, n_neighbors=self.n_neighbors)
        return Spots(
            patches,
            counts,
            sections=rows,
            smooth=smooth,
            with_statistics=self.statistics,
            stain=self.stain,
            train=train,
            validation=validation,
            site=site,
        )

    # -- sums ------------------------------------------------------------------------------------------------------
    @property
    def n_statistics(self) -> int:
        """Numbers beside the image: own and relative ones, and the same around the spot."""
        return N_STATISTICS * (4 if self.context else 2) if self.statistics else 0

    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return moments of statistics and expression, then the regression's products."""
        p = len(panel["features"])
        return (self._moments(p), self._products(p)) if self.statistics else (self._moments(p),)

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return how much the network helps beside the regression, then how well each gene is predicted."""
        if not self.validation:
            return ()
        quality = self._quality(len(panel["features"]))
        return (self._helps(), quality) if self.statistics else (quality,)

    def _moments(self, p: int) -> FederatedSum:
        shapes = {"n": (), "beside": (2, self.n_statistics), "counts": (p,), "relative": (2, p), "absolute": (2, p)}

        def local(site: SiteView, state: State) -> Sums:
            data = site.data
            sums = {name: np.zeros(shape) for name, shape in shapes.items()}
            for index in blocks(data.train):
                parts = {"beside": data.beside[index], "relative": self.relative(data, index)}
                parts["absolute"] = np.log1p(self.counts(data, index))
                for name, values in parts.items():
                    sums[name] += (values.sum(0, dtype=np.float64), (values.astype(np.float64) ** 2).sum(0))
                sums["counts"] += self.counts(data, index).sum(0)
                sums["n"] += len(index)
            return sums

        def combine(total: Sums, state: State) -> State:
            n, found = float(total["n"]), dict(state)
            for name in ("beside", "relative", "absolute"):
                mean = total[name][0] / n
                found[f"{name}_mean"] = mean
                found[f"{name}_scale"] = np.sqrt(np.maximum(total[name][1] / n - mean**2, 1e-6))
            found["level"] = np.log(np.maximum(total["counts"] / n, 1e-3))
            return found

        largest = np.log1p(self.target_sum)
        return FederatedSum(
            name="moments",
            shapes=shapes,
            local=local,
            combine=combine,
            says="number of spots, sums and sums of squares of image statistics and of each feature, to bring them to one scale",
            records=lambda site, state: len(site.data.train),
            sensitivity={"n": 1, "relative": max(largest, largest**2)},
        )

    def _products(self, p: int) -> FederatedSum:
        d = self.n_statistics + N_WAVES
        shapes = {"inner": (d, d), "outer": (d, p)}

        def local(site: SiteView, state: State) -> Sums:
            data = site.data
            sums = {name: np.zeros(shape) for name, shape in shapes.items()}
            for index in blocks(data.train):
                x = expand(data.beside[index], state)
                sums["inner"] += x.T @ x
                sums["outer"] += x.T @ self._target(data, index, state)
            return sums

        def combine(total: Sums, state: State) -> State:
            inner = total["inner"] + self.ridge * np.eye(len(total["inner"]))
            return {**state, "coefficients": np.linalg.solve(inner, total["outer"])}

        return FederatedSum(
            name="products",
            shapes=shapes,
            local=local,
            combine=combine,
            says="sums of products of image statistics and features, for a regression that is exact over sites",
            records=lambda site, state: len(site.data.train),
        )

    def _helps(self) -> FederatedSum:
        def combine(total: Sums, state: State) -> State:
            return {**state, "share": np.asarray(sure_share(*total["moments"][1:]))}  # the first is a number of spots

        return FederatedSum(
            name="share",
            shapes={"moments": (6,)},
            local=lambda site, state: {"moments": self._share(site.module, site.data, state)},
            combine=combine,
            says="sums that tell how much better the network predicts validation records than a simple method does",
            records=lambda site, state: len(site.data.validation),
        )

    def _quality(self, p: int) -> FederatedSum:
        def local(site: SiteView, state: State) -> Sums:
            data, held = site.data, site.data.validation
            predicted = self.predicted(site.module, data, held, state)["predicted"]
            return quality_sums(predicted, self.relative(data, held), data, held)

        return FederatedSum(
            name="quality",
            shapes=quality_shapes(p),
            local=local,
            combine=lambda total, state: {**state, "pearson": pearson(total)},
            says="sums that tell for each feature how well it is predicted on validation records",
            records=lambda site, state: len(site.data.validation),
            sensitivity={"n": 1},
        )

    def counts(self, data: Spots, index: np.ndarray) -> np.ndarray:
        """Return counts (n, n_features), float64."""
        assert data.counts is not None
        return data.counts.rows(index).astype(np.float64)

    def relative(self, data: Spots, index: np.ndarray) -> np.ndarray:
        """Return log-normalised expression (n, n_features)."""
        return log_normalised(self.counts(data, index), self.target_sum)

    def _target(self, data: Spots, index: np.ndarray, private: Sums) -> np.ndarray:
        """Return what the regression learns, standardised expression on the way from relative to counts."""
        return self._mixed(self.relative(data, index), np.log1p(self.counts(data, index)), private)

    def _mixed(self, relative: np.ndarray, absolute: np.ndarray, private: Sums) -> np.ndarray:
        def standard(values: np.ndarray, name: str) -> np.ndarray:
            return (values - private.get(f"{name}_mean", 0.0)) / private.get(f"{name}_scale", 1.0)

        return (1 - self.depth) * standard(relative, "relative") + self.depth * standard(absolute, "absolute")

    def _share(self, module: nn.Module, data: Spots, private: Sums) -> np.ndarray:
        moments = np.zeros(6)
        if not len(data.validation):
            return moments
        base = self._regression(data, data.validation, private)
        step = self._network(module, data, data.validation, private)[0] - base
        rest = self._target(data, data.validation, private) - base
        for positions in data.within_sections(data.validation):
            a, b = (values[positions] - values[positions].mean(0) for values in (step, rest))
            for gain, room in zip((a * b).mean(1), (a * a).mean(1), strict=True):
                moments += (1, gain, room, gain * gain, gain * room, room * room)
        return moments

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> HistologyNet:
        """Return a fresh :class:`infl.nn.histology.HistologyNet`."""
        backbone = load_backbone(self.backbone, dict(self.backbone_options)) if self.backbone else SmallCNN()
        return HistologyNet(
            backbone,
            self.n_statistics,
            len(panel["features"]),
            width=self.width,
            rank=self.rank,
            dropout=self.dropout,
            augment=self.augment,
            image=(panel["patch"][0], panel["patch"][1]),
        )

    def configure(self, module: nn.Module, private: Sums) -> None:
        """Set the moments of statistics, and the level of each gene."""
        for name, key in (("center", "beside_mean"), ("scale", "beside_scale"), ("level", "level")):
            if key in private:
                module.get_buffer(name).copy_(torch.from_numpy(np.asarray(private[key], dtype=np.float32)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Rows of the last layer are genes."""
        return {name: {0: panel["features"]} for name in ("genes.weight", "genes.bias", "dispersion")}

    def loss(self, module: nn.Module, batch: SpotBatch, step: Step) -> Tensor:
        """Return the mean negative log-likelihood of a batch's counts."""
        return self._likelihood(module, batch).mean()

    def _likelihood(self, module: nn.Module, batch: SpotBatch) -> Tensor:
        net = cast(HistologyNet, module)
        return count_loss(
            net(batch.images, batch.beside), batch.counts, net.dispersion if self.gene_likelihood == "nb" else None
        )

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Summed likelihood of the network, and the sums behind correlations."""
        return {"loss": (), **quality_shapes(len(panel["features"]))}

    @torch.no_grad()
    def evaluate(self, module: nn.Module, data: Spots, index: np.ndarray) -> Sums:
        """Return sums over the spots `index` of the network's loss, and of products within sections."""
        net, total, predicted = cast(HistologyNet, module), 0.0, []
        for part in blocks(index) if len(index) else []:
            batch = data.batch(part)
            total += float(self._likelihood(net, batch).mean(1).sum())
            predicted.append(net(batch.images, batch.beside).double().numpy())
        n_features = len(net.level)
        guess = np.concatenate(predicted) if predicted else np.zeros((0, n_features))
        truth = np.log1p(self.counts(data, index))
        return {"loss": np.asarray(total), **quality_sums(guess, truth, data, index)}

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return the network's mean loss, and the median over genes of its correlation with log counts."""
        n = float(sums["n"])
        return {
            "loss": float(sums["loss"]) / n if n else np.nan,
            "pearson": float(np.nanmedian(pearson(sums))) if n else np.nan,
        }

    # -- results ---------------------------------------------------------------------------------------------------
    def _regression(self, data: Spots, index: np.ndarray, private: Sums) -> np.ndarray:
        return np.concatenate([expand(data.beside[i], private) @ private["coefficients"] for i in blocks(index)])

    @torch.no_grad()
    def _network(
        self, module: nn.Module, data: Spots, index: np.ndarray, private: Sums
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the network's standardised prediction (n, n_features) and latent (n, rank), means over the eight ways."""
        net, found = cast(HistologyNet, module), []
        if "beside_mean" not in private and self.statistics:  # without the key: by these spots' own moments
            own = data.beside[data.rows]
            net.center.copy_(torch.from_numpy(own.mean(0)))
            net.scale.copy_(torch.from_numpy(np.maximum(own.std(0), 1e-3)))
        for part in blocks(index):
            images, beside = data.images(part), torch.from_numpy(data.beside[part])
            ways = range(8) if self.augment else range(1)
            found.append(torch.stack([net.latent(dihedral(images, way), beside) for way in ways]).mean(0))
        latent = torch.cat(found)
        log_mean = (net.level + net.genes(latent)).clamp(-10, 10).double().numpy()
        mean = np.exp(log_mean)
        relative = np.log1p(mean / mean.sum(1, keepdims=True) * self.target_sum)
        return self._mixed(relative, np.log1p(mean), private), latent.numpy()

    def predicted(self, module: nn.Module, data: Spots, index: np.ndarray, private: Sums) -> dict[str, np.ndarray]:
        """Return predicted expression (n, n_features) of the spots `index`, log-normalised, and their latent (n, rank)."""
        standard, latent = self._network(module, data, index, private)
        if "coefficients" in private:
            base = self._regression(data, index, private)
            standard = base + float(private.get("share", 0.0)) * (standard - base)
        expression = standard * private.get("relative_scale", 1.0) + private.get("relative_mean", 0.0)
        return {"predicted": expression.astype(np.float32), "latent": latent}

    def infer(self, module: nn.Module, data: Spots, private: Sums) -> dict[str, np.ndarray]:
        """Return predicted expression and latent of every spot; NaN where the patch is missing."""
        outputs = {}
        for name, values in self.predicted(module, data, data.rows, private).items():
            outputs[name] = np.full((data.patches.n, values.shape[1]), np.nan, dtype=np.float32)
            outputs[name][data.rows] = values
        quality = private.get("pearson", np.full(outputs["predicted"].shape[1], np.nan))
        return {**outputs, "quality": quality}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write predicted expression into ``layers``, each gene's quality into ``var``, the latent into ``obsm``."""
        table = table_of(adata, self.modality, "the data")
        frame = pd.DataFrame(outputs["predicted"], index=table.obs_names, columns=panel["features"])
        table.layers[f"{key_added}_predicted"] = frame.reindex(columns=table.var_names).to_numpy(dtype=np.float32)
        table.var[f"{key_added}_pearson"] = pd.Series(outputs["quality"], panel["features"]).reindex(table.var_names)
        table.obsm[f"X_{key_added}"] = outputs["latent"]

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out spots at random."""
        held = np.zeros(adata.n_obs, dtype=bool)
        held[rng.permutation(adata.n_obs)[: int(share * adata.n_obs)]] = True
        return held

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return the median over genes of the correlation with log-normalised expression, the mean of the best 50, and MSE."""
        table = table_of(adata, self.modality, "the data")
        counts = FeatureMatrix(table, panel["features"], layer=self.layer, site="the data").rows(slice(None))
        known = (counts.sum(1) > 0) & ~np.isnan(outputs["predicted"]).any(1)
        return expression_metrics(outputs["predicted"][known], log_normalised(counts[known], self.target_sum))

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Return the predictions of ridge regression on nine numbers of colour and texture, fitted on pooled data."""
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        def patches(adata: AnnData | MuData) -> Patches:
            return Patches(table_of(adata, self.modality, "the data"), key=self.patches, site="the data")

        table, seen = table_of(train, self.modality, "the data"), patches(train)
        counts = FeatureMatrix(table, panel["features"], layer=self.layer, site="all sites").rows(slice(None))
        known = (counts.sum(1) > 0) & seen.present
        model = make_pipeline(StandardScaler(), RidgeCV((1.0, 10.0, 100.0)))
        model.fit(colour_and_texture(seen)[known], log_normalised(counts[known], self.target_sum))
        return lambda adata: {"predicted": model.predict(colour_and_texture(patches(adata)))}


def expand(beside: np.ndarray, private: Sums) -> np.ndarray:
    """Return statistics (n, d), standardised, with random features of a Gaussian kernel beside (n, d + N_WAVES).

    Inner products approximate the mean of a linear and a Gaussian kernel. The waves are public and the same everywhere.

    References
    ----------
    Rahimi and Recht, Random features for large-scale kernel machines, NeurIPS 2007.
    """
    x = np.clip((beside.astype(np.float64) - private["beside_mean"]) / private["beside_scale"], -5, 5)
    d = x.shape[1]
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(d, N_WAVES)) * np.sqrt(2 * KERNEL_WIDTH / d)
    curved = np.cos(x @ waves + rng.uniform(0, 2 * np.pi, N_WAVES)) * np.sqrt(2 / N_WAVES)
    return np.concatenate([x / np.sqrt(d), curved], 1) * np.sqrt(0.5)


def colour_and_texture(patches: Patches) -> np.ndarray:
    """Return nine plain numbers of each patch: mean and deviation of R, G, B; mean gradients and deviation of grey."""
    rows = []
    for _, density in patches.blocks(np.arange(patches.n)):
        rgb = np.exp(-density)
        grey = rgb.mean(3)
        slopes = [np.abs(np.diff(grey, axis=axis)).mean((1, 2)) for axis in (1, 2)]
        rows.append(np.column_stack([rgb.mean((1, 2)), rgb.std((1, 2)), *slopes, grey.std((1, 2))]))
    return np.concatenate(rows)


def quality_shapes(n_features: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the sums behind correlations."""
    return {"n": (), "guess": (n_features,), "truth": (n_features,), "both": (n_features,)}


def quality_sums(guess: np.ndarray, truth: np.ndarray, data: Spots, index: np.ndarray) -> Sums:
    """Return sums of squares and products about the means of sections, and the number of spots."""
    sums: Sums = {"n": np.asarray(float(len(index)))}
    sums |= {name: np.zeros(truth.shape[1]) for name in ("guess", "truth", "both")}
    for positions in data.within_sections(index):
        a, b = (v[positions].astype(np.float64) - v[positions].mean(0) for v in (guess, truth))
        sums["guess"] += (a * a).sum(0)
        sums["truth"] += (b * b).sum(0)
        sums["both"] += (a * b).sum(0)
    return sums


def pearson(sums: Sums) -> np.ndarray:
    """Return each gene's correlation (n_features,); 0 where prediction or truth is constant."""
    size = np.sqrt(sums["guess"] * sums["truth"])
    return np.where(size > 1e-12, sums["both"] / np.maximum(size, 1e-12), 0.0)


def expression_metrics(predicted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Return how well genes are predicted over spots (n_obs, n_features): see :meth:`Histology.score`.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(size=(20, 3))
    >>> expression_metrics(2 * truth, truth)["pearson"]
    1.0
    """
    a, b = predicted - predicted.mean(0), observed - observed.mean(0)
    each = pearson({"guess": (a * a).sum(0), "truth": (b * b).sum(0), "both": (a * b).sum(0)})
    best = np.sort(each)[::-1][:TOP]
    return {
        "pearson": round(float(np.median(each)), 12),
        "pearson_top50": float(best.mean()),
        "mse": float(((predicted - observed) ** 2).mean()),
    }
