"""A module's weights as one flat buffer with named views.

Averaging, optimising, masking and checkpointing are then operations on one tensor, whatever the module's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in the flat buffer."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Names, shapes and offsets of a module's floating-point parameters, in the order of ``named_parameters``.

    Parameters
    ----------
    entries
        Each parameter's name, shape and offset.

    Examples
    --------
    >>> from torch import nn
    >>> layout = Layout.of(nn.Linear(3, 2))
    >>> [(e.name, e.shape, e.offset) for e in layout.entries], layout.total
    ([('weight', (2, 3), 0), ('bias', (2,), 6)], 8)
    """

    entries: tuple[Entry, ...]

    @property
    def total(self) -> int:
        """Number of elements of the flat buffer."""
        return self.entries[-1].offset + self.entries[-1].size if self.entries else 0

    @classmethod
    def of(cls, module: nn.Module, select: Callable[[str], bool] = lambda name: True) -> Layout:
        """Return the layout of those parameters of `module` whose name is selected."""
        entries, offset = [], 0
        for name, parameter in module.named_parameters():
            if parameter.is_floating_point() and select(name):
                entries.append(Entry(name, tuple(parameter.shape), offset))
                offset += parameter.numel()
        return cls(tuple(entries))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return one view of `flat` (…, total) a tensor (…, shape); writing to it writes to `flat`."""
        above = flat.shape[:-1]
        return {e.name: flat[..., e.offset : e.offset + e.size].view((*above, *e.shape)) for e in self.entries}

    def to_json(self) -> list[list[Any]]:
        """Return names and shapes; offsets follow from them."""
        return [[e.name, list(e.shape)] for e in self.entries]

    @classmethod
    def from_json(cls, rows: list[list[Any]]) -> Layout:
        """Inverse of :meth:`to_json`."""
        entries, offset = [], 0
        for name, shape in rows:
            entries.append(Entry(name, tuple(shape), offset))
            offset += entries[-1].size
        return cls(tuple(entries))


class FlatModule:
    """A module whose parameters and gradients are views of two flat buffers.

    The shared parameters come first, those that stay at a site after them, so ``flat[:shared.total]`` is what a
    federated round averages. One optimiser step is a handful of operations on one tensor.

    Parameters
    ----------
    module
        Its floating-point parameters are re-pointed at the flat buffer (values kept, as float32), which lies on their device. Buffers
        become float32 too, except those in float64 that are not stored with weights.
    is_local
        Returns whether the parameter of a name stays at the site (default: none does).

    Examples
    --------
    >>> import torch
    >>> flat = FlatModule(torch.nn.Linear(3, 2))
    >>> flat.load(torch.zeros(8))
    >>> flat.module(torch.ones(1, 3)).tolist()
    [[0.0, 0.0]]
    """

    def __init__(self, module: nn.Module, is_local: Callable[[str], bool] = lambda name: False) -> None:
        exact = _exact_buffers(module)
        self.module = module.float()
        for name, buffer in exact.items():
            owner, _, own = name.rpartition(".")
            module.get_submodule(owner).register_buffer(own, buffer, persistent=False)
        self.shared = Layout.of(module, lambda name: not is_local(name))
        self.local = Layout.of(module, is_local)
        size = self.shared.total + self.local.total
        parameters = dict(module.named_parameters())
        device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
        self.flat = nn.Parameter(torch.empty(size, device=device))
        self.flat.grad = torch.zeros(size, device=device)
        with torch.no_grad():
            values, gradients = self._views(self.flat.data), self._views(self.flat.grad)
            for name, view in values.items():
                view.copy_(parameters[name])
                parameters[name].data = view
                parameters[name].grad = gradients[name]

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        n = self.shared.total
        return self.shared.views(flat[:n]) | self.local.views(flat[n:])

    def load(self, shared: Tensor, local: Tensor | None = None) -> None:
        """Copy `shared` (and `local`) into the module's weights."""
        n = self.shared.total
        self.flat.data[:n].copy_(shared)
        if local is not None:
            self.flat.data[n:].copy_(local)

    def copy_shared(self) -> Tensor:
        """Return a copy of the shared weights, on the processor."""
        return self.flat.data[: self.shared.total].to("cpu", copy=True)

    def copy_local(self) -> Tensor:
        """Return a copy of the weights that stay at the site, on the processor."""
        return self.flat.data[self.shared.total :].to("cpu", copy=True)


def _exact_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers in float64 that are no part of the weights: units and times in which a task reads and writes."""
    stored = module.state_dict()
    return {
        name: buffer for name, buffer in module.named_buffers() if buffer.dtype == torch.float64 and name not in stored
    }
