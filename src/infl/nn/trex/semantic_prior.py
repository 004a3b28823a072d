"""The semantic prior: how near an input lies to each of a few centroids, one for each expert.

Embeddings of the training inputs are scaled to length 1 and grouped by k-means; the prior of an input is the cosine between
its embedding and every centroid. What embeds is free: a sentence embedder for text, a latent for cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infl.errors import DataError, FileError
from infl.nn.trex.experts import PRIOR_SCALE

Embedder = Callable[[Any], Any] | str


@dataclass(frozen=True)
class SemanticPrior:
    """Centroids, and how to embed what is compared with them.

    Parameters
    ----------
    centroids
        (r1 · r2, size), each of length 1.
    embedder
        A function from inputs (texts, an ``AnnData``, …) to embeddings (n, size); or a name in ``obsm``, for ``AnnData``:
        ``"X_pca"`` after ``infl.pp.pca(sites)``, ``"X_scVI"`` of a trained scVI.

    Examples
    --------
    >>> import infl, scanpy as sc
    >>> adata = infl.datasets.khan()
    >>> sc.pp.pca(adata, n_comps=5)
    >>> semantic = SemanticPrior.fit(adata, "X_pca", n_experts=8)
    >>> semantic(adata).shape
    torch.Size([83, 8])
    """

    centroids: Tensor
    embedder: Embedder

    @classmethod
    def fit(cls, inputs: Any, embedder: Embedder, *, n_experts: int = 32, seed: int = 0) -> Self:
        """Embed the training inputs, and group them.

        Parameters
        ----------
        inputs
            What the embedder takes. Training inputs only.
        embedder
            As for the class.
        n_experts
            The adapter's r1 · r2.
        seed
            Of k-means.

        Raises
        ------
        DataError
            Fewer different inputs than experts, or an embedding that is missing.
        """
        from sklearn.cluster import KMeans

        embeddings = _embed(inputs, embedder).numpy()
        if len(np.unique(embeddings, axis=0)) < n_experts:
            raise DataError(
                f"{len(np.unique(embeddings, axis=0))} different inputs cannot make {n_experts} centroids: give more "
                "of them, or make the adapter with a smaller r1 · r2"
            )
        centers = KMeans(n_experts, n_init=4, random_state=seed).fit(embeddings).cluster_centers_
        return cls(F.normalize(torch.from_numpy(centers).float(), dim=-1), embedder)

    def __call__(self, inputs: Any) -> Tensor:
        """Return the prior of each input (n, r1 · r2)."""
        return similarities(_embed(inputs, self.embedder), self.centroids)

    def level(self, inputs: Any) -> float:
        """Return the :func:`level` of the inputs' priors, which ``TrexConfig(level=)`` takes."""
        return level(self(inputs))

    def save(self, path: str | Path) -> None:
        """Write the centroids to a safetensors file; the embedder is not in it."""
        from safetensors.torch import save_file

        save_file({"centroids": self.centroids.contiguous()}, path)

    @classmethod
    def load(cls, path: str | Path, embedder: Embedder) -> Self:
        """Read the centroids of a file, to use with the embedder that they were made with.

        Raises
        ------
        FileError
            The file cannot be read, or has no centroids.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return cls(load_file(path)["centroids"], embedder)
        except (OSError, SafetensorError, KeyError):
            raise FileError(f"{path} has no centroids: write it with SemanticPrior.save") from None


@dataclass(frozen=True)
class TaskPrior:
    """How surely an input is one of each training task, by linear discriminants of its embedding: for experts in pairs.

    Parameters
    ----------
    weight, bias
        (tasks, size) and (tasks,): the softmax of what they make of an embedding of length 1 are the tasks' probabilities.
    centre, spread
        (tasks,): mean and standard deviation of the probabilities of training inputs. The prior is less the one, over the other.
    embedder
        As for :class:`SemanticPrior`.

    Examples
    --------
    >>> inputs = ["plain a", "plain b", "turned a", "turned b"]
    >>> def embed(texts):
    ...     return [[text[0] == "p", text[-1] == "a", 1.0] for text in texts]
    >>> prior = TaskPrior.fit(inputs, embed, tasks=[0, 0, 1, 1])
    >>> prior(["plain b", "turned b"]).sign()
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """

    weight: Tensor
    bias: Tensor
    centre: Tensor
    spread: Tensor
    embedder: Embedder

    @classmethod
    def fit(cls, inputs: Any, embedder: Embedder, *, tasks: Any) -> Self:
        """Embed the training inputs, and find what tells their tasks apart.

        Parameters
        ----------
        inputs
            What the embedder takes. Training inputs only.
        embedder
            As for the class.
        tasks
            Number or name of the task of each input; the prior has the tasks in sorted order.

        Raises
        ------
        DataError
            One task alone, or not one task for each input.
        """
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        embeddings = _embed(inputs, embedder).double().numpy()
        tasks = np.asarray(tasks)
        names = np.unique(tasks)
        if len(tasks) != len(embeddings):
            raise DataError(f"{len(embeddings)} inputs and {len(tasks)} tasks: give the task of each input")
        if len(names) < 2:
            raise DataError("a prior of tasks needs inputs of two tasks or more")
        found = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage="auto", priors=np.full(len(names), 1 / len(names))
        ).fit(embeddings, tasks)
        weight, bias = torch.from_numpy(found.coef_).float(), torch.from_numpy(found.intercept_).float()
        if len(names) == 2:  # scikit-learn keeps the difference alone
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        raw = cls(weight, bias, torch.zeros(len(names)), torch.ones(len(names)), embedder)(inputs)
        return cls(weight, bias, raw.mean(0), raw.std(0).clamp_min(1e-6), embedder)

    def __call__(self, inputs: Any) -> Tensor:
        """Return the prior of each input (n, tasks)."""
        p = torch.softmax(F.linear(_embed(inputs, self.embedder), self.weight, self.bias), -1)
        return (p - self.centre) / self.spread

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; the embedder is not in it."""
        from safetensors.torch import save_file

        save_file({name: getattr(self, name).contiguous() for name in ("weight", "bias", "centre", "spread")}, path)

    @classmethod
    def load(cls, path: str | Path, embedder: Embedder) -> Self:
        """Read a file, to use with the embedder that it was made with.

        Raises
        ------
        FileError
            The file cannot be read, or has no such prior.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(path)
            return cls(found["weight"], found["bias"], found["centre"], found["spread"], embedder)
        except (OSError, SafetensorError, KeyError):
            raise FileError(f"{path} has no prior of tasks: write it with TaskPrior.save") from None


def level(prior: Tensor) -> float:
    """Return how large the first routing weights are beside uniform ones: the root mean square of 1/2 + 2 s.

    Embeddings of a transformer are much alike: their similarities are near 1, and the first routing weights then more than
    twice what they are without a prior.

    Parameters
    ----------
    prior
        Similarities (n, r1 · r2) of training inputs.

    Examples
    --------
    >>> import torch
    >>> level(torch.ones(5, 8))
    2.5
    """
    return float((0.5 + PRIOR_SCALE / 2 * prior).square().mean().sqrt())


class TokenPrior(nn.Module):
    """A prior from the model's own token embeddings: their mean over the input, beside the centroids.

    Needs no second model; attach it with :func:`infl.nn.trex.attach_prior`. The embeddings are copied, so that training
    does not move them.

    Parameters
    ----------
    embeddings
        (vocabulary, size), ``model.get_input_embeddings().weight``.
    centroids
        (r1 · r2, size).

    Examples
    --------
    >>> import torch
    >>> semantic = TokenPrior(torch.eye(4), torch.eye(4)[:2])
    >>> semantic({"input_ids": torch.tensor([[0, 0], [1, 3]])})
    tensor([[1.0000, 0.0000],
            [0.0000, 0.7071]])
    """

    embeddings: Tensor
    centroids: Tensor

    def __init__(self, embeddings: Tensor, centroids: Tensor) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings.detach().clone(), persistent=False)
        self.register_buffer("centroids", F.normalize(centroids.detach().float(), dim=-1), persistent=False)

    def embed(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mean token embedding of each input, scaled to length 1 (n, size)."""
        if mask is None:
            mask = torch.ones_like(ids)
        weight = mask.to(self.embeddings.dtype).unsqueeze(-1)
        return F.normalize(
            (F.embedding(ids, self.embeddings) * weight).sum(1), dim=-1
        )  # the sum has the mean's direction

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the prior (n, r1 · r2) of a model's inputs by name."""
        return similarities(self.embed(inputs["input_ids"], inputs.get("attention_mask")), self.centroids)


def similarities(embeddings: Tensor, centroids: Tensor) -> Tensor:
    """Return the cosines between embeddings (n, size) and centroids (k, size): (n, k)."""
    return F.normalize(embeddings.float(), dim=-1) @ F.normalize(centroids.float(), dim=-1).T


def _embed(inputs: Any, embedder: Embedder) -> Tensor:
    """Return embeddings of length 1, float32."""
    if isinstance(embedder, str):
        if embedder not in inputs.obsm:
            raise DataError(
                f"there is no obsm[{embedder!r}] to take the prior from: make it first, e.g. with infl.pp.pca(sites), or "
                "give a function as embedder="
            )
        embeddings = inputs.obsm[embedder]
    else:
        embeddings = embedder(inputs)
    if not torch.is_tensor(embeddings):
        embeddings = torch.from_numpy(np.array(embeddings, dtype=np.float32))
    return F.normalize(embeddings.detach().float().cpu(), dim=-1)
