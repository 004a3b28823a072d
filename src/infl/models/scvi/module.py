"""scvi-tools' modules as the tasks use them: what is taken off them, and what they say of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infl.errors import MissingExtraError
from infl.models.scvi.data import BATCH, CountRows

CHUNK = 1024
"""Cells that are judged or embedded together."""
EMBEDDING = f"_embeddings_dict.{BATCH}.weight"
EMBEDDED = 5
"""Width of the embedding of a site, as scvi-tools has it."""


def vae_class() -> Any:
    """Return scvi-tools' module class.

    Raises
    ------
    MissingExtraError
        scvi-tools is not installed.
    """
    try:
        from scvi.module import VAE
    except ImportError:
        raise MissingExtraError("model='scvi' needs scvi-tools: pip install 'infl[scvi]'") from None
    return VAE


def trimmed(module: Any, *, dispersion: str, site_effect: str) -> nn.Module:
    """Take off the library encoder and unused dispersion decoder, 2/5 of the weights; start local embeddings at 0."""
    module.l_encoder = None
    if dispersion != "gene-cell":
        module.decoder.px_r_decoder = None
    if site_effect == "local":
        nn.init.zeros_(module.get_parameter(EMBEDDING))
    return module


def read_beside(*groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what a layer of scvi-tools reads beside its input: one column per value, of groups of several values.

    Examples
    --------
    >>> read_beside({"site": ["a", "b"]}, {"donor": ["d1"]})
    ['site=a', 'site=b']
    """
    several = [(name, values) for group in groups for name, values in group.items() if len(values) > 1]
    return [f"{name}={value}" for name, values in several for value in values]


def latent(module: Any, data: CountRows, chunk: np.ndarray | slice) -> Tensor:
    """Return the means of the latent distributions of a chunk (n, n_latent)."""
    return module.inference(**module._get_inference_input(data.batch(chunk)))["qz"].loc


@torch.no_grad()
def latents(module: Any, data: CountRows) -> np.ndarray:
    """Return the mean of each cell's latent distribution (n, n_latent)."""
    return np.concatenate([latent(module, data, chunk).numpy() for chunk in data.x.chunks(CHUNK)])


@torch.no_grad()
def latents_of(module: Any, data: CountRows, index: np.ndarray) -> np.ndarray:
    """Return the same of the cells `index` (n, n_latent)."""
    parts = np.array_split(index, max(1, -(-len(index) // CHUNK)))
    return np.concatenate([latent(module, data, part).numpy() for part in parts])


@torch.no_grad()
def denoised(module: Any, data: CountRows, site: int | None) -> np.ndarray:
    """Return the expected share of each feature in a cell (n, n_features), as if measured at a site (None: the mean over sites)."""
    shares = []
    for chunk in data.x.chunks(CHUNK):
        batch, z = data.batch(chunk), latent(module, data, chunk)
        total = torch.zeros(())
        sites = range(module.n_batch) if site is None else [site]
        for number in sites:
            inputs = module._get_generative_input(batch, {"z": z, "library": torch.zeros(len(z), 1)})
            px = module.generative(**inputs | {"batch_index": torch.full_like(batch[BATCH], number)})["px"]
            total = total + px.scale / px.scale.sum(1, keepdim=True) / len(sites)
        shares.append(total.numpy())
    return np.concatenate(shares)
