"""The parametrization of a locked module's tensors: they are stored locked, and computed with unlocked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Protocol, Self

import torch
from torch import Tensor, nn

from infl.errors import KeyringError

if TYPE_CHECKING:
    from infl.nn.field import Units


class TensorLock(Protocol):
    """What locks tensors: :class:`infl.nn.lock.Field`."""

    def factors(self, name: str, shape: tuple[int, ...], units: Units | None = None) -> tuple[Tensor, Tensor]:
        """Return M and A of a tensor."""

    def lock(self, name: str, tensor: Tensor, units: Units | None = None, *, out: Tensor | None = None) -> Tensor:
        """Return a tensor locked."""


class Unlocked(nn.Module):
    """stored → effective, for one parameter. M and A are plain attributes, so that no state_dict has them."""

    def __init__(self, field: TensorLock, name: str, parameter: nn.Parameter, units: Units | None) -> None:
        super().__init__()
        self._field, self._name, self._units = field, name, units
        m, a = field.factors(name, tuple(parameter.shape), units)
        self._factors = m.to(parameter.device), a.to(parameter.device)
        with torch.no_grad():
            field.lock(name, parameter, units, out=parameter)
        self.registered = False

    def register(self) -> None:
        """Lock, from now on, what the weights are set to."""
        self.registered = True

    def forward(self, stored: Tensor) -> Tensor:
        """Return the effective weights, unlocked."""
        m, a = self._factors
        return (stored * m + a).to(stored.dtype)  # in float64

    def right_inverse(self, effective: Tensor) -> Tensor:
        """Return the weights as they are stored, locked."""
        # Registering asks for the inverse of what `__init__` locked already (in place: a parameter that is a view of a
        # flat buffer remains one, and a shared parameter is locked once).
        return self._field.lock(self._name, effective, self._units) if self.registered else effective

    def extra_repr(self) -> str:
        """Return the field, without its key."""
        return repr(self._field)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The factors follow the module to its device, and stay in float64.
        device = fn(torch.empty(0, device=self._factors[0].device)).device
        self._factors = self._factors[0].to(device), self._factors[1].to(device)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict) -> Unlocked:
        copied = object.__new__(Unlocked)
        copied.__dict__ = self.__dict__.copy()  # the field and the factors never change, and can be shared
        return copied

    def __getstate__(self) -> NoReturn:
        raise KeyringError("a locked module is not pickled, since its key would go along: save state_dict() instead.")


def parameter_places(module: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """Every place of a floating-point parameter: its name, the module that owns it, its attribute there."""
    found = []
    for prefix, owner in module.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.is_floating_point():
                found.append((f"{prefix}.{attribute}".lstrip("."), owner, attribute))
    return found
