"""Which base model an adapter was trained on: its name, without the folder of a machine, and a digest of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from infl.errors import SettingsError

SAMPLED = 1024
"""Values of each weight that the digest looks at; a model of billions of weights takes no longer than reading their names."""


def base_digest(model: nn.Module) -> dict[str, str]:
    """Return digests of the names and sizes of a model's weights, and of values of them, with their data types.

    What a task puts on top of a transformers model (its head, a pooler) is left out: it may be new in every process.

    Examples
    --------
    >>> from torch import nn
    >>> sorted(base_digest(nn.Linear(2, 3)))
    ['dtypes', 'names', 'values']
    """
    inner = getattr(model, "base_model", model)
    named = [(n, p.detach()) for n, p in sorted(inner.named_parameters()) if "pooler" not in n and not p.is_meta]
    floating = [(name, p) for name, p in named if p.is_floating_point()]
    values = hashlib.sha256()
    for name, p in floating:
        flat = p.reshape(-1)
        picked = flat[torch.linspace(0, len(flat) - 1, min(SAMPLED, len(flat)), dtype=torch.float64).long()]
        values.update(name.encode() + picked.float().cpu().numpy().tobytes())
    names = "\n".join(f"{name} {tuple(p.shape)}" for name, p in floating)
    return {
        "names": hashlib.sha256(names.encode()).hexdigest(),
        "values": values.hexdigest(),
        "dtypes": " ".join(sorted({str(p.dtype) for _, p in named})),
    }


def check_base(trained_on: dict[str, str], here: dict[str, str]) -> None:
    """Refuse a base that an adapter was not trained on; of another data type, or quantised, it is not compared.

    Raises
    ------
    SettingsError
        Its weights are others.
    """
    if trained_on["dtypes"] == here["dtypes"] and trained_on != here:
        raise SettingsError(
            "this adapter was trained on another base model: give the one that its adapter_config.json names, or take base_digest "
            "out of that file to use it all the same"
        )


def name_without_folder(name: str | None) -> str | None:
    """Return a model's name; of a folder its last part, since where it lies is of no use elsewhere.

    Examples
    --------
    >>> name_without_folder("/home/me/models/cells"), name_without_folder("org/cells")
    ('cells', 'org/cells')
    """
    if not name:
        return name
    is_folder = name[0] in "/~." or "\\" in name or name.count("/") > 1 or Path(name).is_dir()
    return Path(name.replace("\\", "/")).name if is_folder else name
