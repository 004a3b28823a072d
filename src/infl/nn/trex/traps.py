"""Two places in torch's own transformer where an adapter that wraps a layer silently does nothing."""

from __future__ import annotations

from typing import Any

from torch import nn

from infl._warn import warn


def is_bypassed(parent: nn.Module, name: str) -> bool:
    """Whether the layer `name` of `parent` is never called: ``nn.MultiheadAttention`` reads ``out_proj.weight`` itself.

    Examples
    --------
    >>> from torch import nn
    >>> is_bypassed(nn.MultiheadAttention(4, 2), "out_proj")
    True
    """
    return isinstance(parent, nn.MultiheadAttention) and name == "out_proj"


def find_encoder_layer(model: nn.Module, key: str) -> str | None:
    """Return the name of the ``nn.TransformerEncoderLayer`` that the module `key` lies in, if there is one."""
    parts = key.split(".")
    for end in range(len(parts)):
        name = ".".join(parts[:end])
        if isinstance(model.get_submodule(name), nn.TransformerEncoderLayer):
            return name or "the model"
    return None


def switch_off_fast_path(model: nn.Module, name: str) -> None:
    """Make an encoder layer call its submodules in evaluation mode too, with a warning.

    Its fast path computes from the weights alone, in one fused function, as soon as no gradient is asked for: the
    adapted model would train with the adapter and predict without it.
    """
    layer: Any = model if name == "the model" else model.get_submodule(name)
    if not layer.activation_relu_or_gelu:  # has no fast path, or no longer
        return
    warn(
        f"{name} is a TransformerEncoderLayer, whose fast path in evaluation mode would skip the adapter: "
        "the fast path is switched off"
    )
    layer.activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(inner is layer for inner in module.layers):
            module.use_nested_tensor = False
