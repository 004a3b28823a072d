"""The lock: weights that only a holder of the key can use.

For each floating-point tensor of a module

    θ_stored = (θ_effective − A) / M        θ_effective = θ_stored · M + A

with a secret multiplier M and a secret term A for every weight, both from :mod:`infl.nn.field`. It is a reparametrisation:
the right key gives θ back up to rounding, and since updates meet M alone, the average of locked updates is the locked
average of updates. ``docs/decisions/0002-affine-coordinate-field.md`` says why there is an additive part.

The lock keeps a *model* from those without the key. It does not hide updates on their way: that is the seal's work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from infl.errors import KeyringError, SettingsError
from infl.nn.field import MOST_STEPS, VERSION, TensorField, Units, check_units, tensor_key, widening_of
from infl.nn.unlocked import Unlocked, parameter_places

ModuleType = TypeVar("ModuleType", bound=nn.Module)
_ACCURATE = {torch.float32, torch.float64}


@dataclass(frozen=True)
class Field:
    """The secret coordinate field of one model.

    Parameters
    ----------
    subkey
        32 secret bytes, ``keyring.subkey("lock")``. Never shown, never pickled.
    salt
        Public, and never used for other weights. Models locked under one key and one salt share every factor: whoever has
        two of them unlocked can open the others. Model files have a salt for each tensor
        (:func:`infl.models.locked.lock_model`).
    strength
        From 0 (stored weights are the effective ones) to 1. A weight's sign flips with probability ``strength / 2``.
    widening
        By how many factors of 4 A is wider than a tensor's shape asks; :func:`widening` says how much large weights need.
    version
        Of the construction: 2, or 1 to open what infl 0.1 locked.

    Examples
    --------
    >>> import torch
    >>> field = Field(subkey=bytes(range(32)), salt=b"model 1")
    >>> weight = torch.tensor([[0.5, -0.25]])
    >>> stored = field.lock("layer.weight", weight, units={1: ["TP53", "EGFR"]})
    >>> torch.allclose(field.unlock("layer.weight", stored, units={1: ["TP53", "EGFR"]}), weight)
    True
    >>> field
    Field(salt=b'model 1', strength=1.0)
    """

    subkey: bytes = field(repr=False)
    salt: bytes
    strength: float = 1.0
    widening: int = field(default=0, repr=False)
    version: int = field(default=VERSION, repr=False)

    def __post_init__(self) -> None:
        if len(self.subkey) != 32:
            raise SettingsError(f"a lock's subkey has 32 bytes, got {len(self.subkey)}: take keyring.subkey('lock').")
        if not 0 <= self.strength <= 1:  # false for nan too
            raise SettingsError(f"the lock's strength is from 0 (none) to 1 (full), got {self.strength}.")
        if not 0 <= self.widening <= MOST_STEPS:
            raise SettingsError(f"the lock's widening is from 0 to {MOST_STEPS} steps, got {self.widening}.")

    def factors(self, name: str, shape: tuple[int, ...], units: Units | None = None) -> tuple[Tensor, Tensor]:
        """Give M and A of one tensor, in float64."""
        m, a = torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.float64)
        over = self._over(name, shape, units)
        rows_m, rows_a = _rows(m, over), _rows(a, over)

        def write(rows: slice, multipliers: np.ndarray, terms: np.ndarray) -> None:
            rows_m[rows], rows_a[rows] = multipliers, terms

        over.fill(write)
        return m, a

    def multipliers(
        self, name: str, shape: tuple[int, ...], units: Units | None = None, *, out: Tensor | None = None
    ) -> Tensor:
        """Give M alone; in float32, or in place in `out` (a view of a flat buffer, say) in its precision."""
        out = torch.empty(shape) if out is None else out
        over = self._over(name, shape, units)
        target = _rows(out, over)

        def write(rows: slice, multipliers: np.ndarray, _: np.ndarray) -> None:
            target[rows] = multipliers

        over.fill(write, additive=False)
        return out

    def lock(self, name: str, tensor: Tensor, units: Units | None = None, *, out: Tensor | None = None) -> Tensor:
        """Give the stored weights of effective ones.

        Parameters
        ----------
        name
            The tensor's name in the module. Part of what the factors are derived from.
        tensor
            Of float32 or float64, any shape. Computed in float64, returned in the tensor's precision.
        units
            Names of the units of the axes that have any, e.g. ``{1: genes}`` for a first layer. A named unit's factors
            depend on its name only, not on its place or on which others there are.
        out
            Where to write; may be `tensor` itself.
        """
        return self._apply(name, tensor, units, out, lambda x, m, a: (x - a) / m)

    def unlock(self, name: str, tensor: Tensor, units: Units | None = None, *, out: Tensor | None = None) -> Tensor:
        """Give the effective weights of stored ones; the inverse of :meth:`lock`."""
        return self._apply(name, tensor, units, out, lambda x, m, a: x * m + a)

    def lock_update(self, name: str, delta: Tensor, units: Units | None = None, *, out: Tensor | None = None) -> Tensor:
        """Give the change of stored weights that belongs to a change of effective ones: ``delta / M``."""
        return self._apply(name, delta, units, out, lambda x, m, _: x / m, additive=False)

    def unlock_update(
        self, name: str, delta: Tensor, units: Units | None = None, *, out: Tensor | None = None
    ) -> Tensor:
        """Give the change of effective weights that belongs to a change of stored ones: ``delta · M``."""
        return self._apply(name, delta, units, out, lambda x, m, _: x * m, additive=False)

    def _apply(
        self,
        name: str,
        tensor: Tensor,
        units: Units | None,
        out: Tensor | None,
        formula: Callable[..., np.ndarray],
        *,
        additive: bool = True,
    ) -> Tensor:
        _check_precision(name, tensor)
        source = tensor.detach().cpu()
        result = torch.empty_like(source)
        over = self._over(name, tuple(source.shape), units)
        if self.strength == 0:
            result.copy_(source)  # the formula would turn -0.0 into 0.0
        else:
            before, after = _rows(source, over), _rows(result, over)

            def write(rows: slice, m: np.ndarray, a: np.ndarray) -> None:
                after[rows] = formula(before[rows].astype(np.float64), m, a)

            over.fill(write, additive=additive)
        return result.to(tensor.device) if out is None else out.detach().copy_(result)

    def _over(self, name: str, shape: tuple[int, ...], units: Units | None) -> TensorField:
        return TensorField(
            key=tensor_key(
                self.subkey,
                self.salt,
                name,
                strength=float(self.strength),
                widening=self.widening,
                version=self.version,
            ),
            shape=tuple(shape),
            units=check_units(name, shape, units),
            strength=float(self.strength),
            widening=self.widening,
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise KeyringError(
            "a lock's field holds a key and is not pickled: save state_dict(), and make the field again."
        )


def widening(tensor: Tensor, units: Units | None = None) -> int:
    """Say by how many steps the secret term has to be widened to cover a tensor's weights.

    It stands in the clear beside the stored weights, which show it anyway by their size: each step is a factor of 4.

    Examples
    --------
    >>> import torch
    >>> widening(torch.full((50,), 0.1)), widening(torch.ones(50)), widening(torch.full((50,), 10.0))
    (0, 2, 4)
    """
    norm = torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)
    rms = float(norm) / max(tensor.numel(), 1) ** 0.5
    return widening_of(rms, tensor.shape, units or {})


def lock_module(module: ModuleType, field: Field, units: Mapping[str, Units] | None = None) -> ModuleType:
    """Lock every floating-point parameter of a module, in place, by a parametrisation.

    The module computes as before, and trains; its ``state_dict`` holds stored weights only. Parameters that two layers
    share stay shared. Integer and complex parameters and all buffers are left as they are.

    Parameters
    ----------
    module
        Any module, trained or not.
    field
        The field.
    units
        Names of units by tensor and axis, e.g. ``{"0.weight": {1: genes}}``.

    Returns
    -------
    The same module.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    >>> before = layer(x)
    >>> layer = lock_module(layer, Field(subkey=bytes(range(32)), salt=b"model 1"))
    >>> torch.allclose(layer(x), before, atol=1e-5)
    True
    >>> list(layer.state_dict())
    ['parametrizations.weight.original', 'parametrizations.bias.original']
    """
    units = dict(units or {})
    places = parameter_places(module)
    names = {name for name, _, _ in places}
    for name in units.keys() - names:
        raise SettingsError(
            f"units name a tensor {name!r} that the module does not have: it has {_few(sorted(names))}."
        )
    for name, owner, attribute in places:
        if "parametrizations" in name.split(".") or parametrize.is_parametrized(owner, attribute):
            raise SettingsError(f"parameter {name!r} is parametrised or locked already: remove that first.")
        parameter = owner.get_parameter(attribute)
        _check_precision(name, parameter)
        check_units(name, parameter.shape, units.get(name))

    locks: dict[int, Unlocked] = {}
    for name, owner, attribute in places:
        parameter = owner.get_parameter(attribute)
        if id(parameter) not in locks:  # else it is shared with a layer before, and locked
            locks[id(parameter)] = Unlocked(field, name, parameter, units.get(name))
        parametrize.register_parametrization(owner, attribute, locks[id(parameter)])
    for lock in locks.values():
        lock.register()
    return module


def unlock_module(module: ModuleType) -> ModuleType:
    """Remove :func:`lock_module`'s parametrisation, in place; the effective weights are left.

    Parameters
    ----------
    module
        From :func:`lock_module`.

    Returns
    -------
    Module
        The same object.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(3, 2)
    >>> weight = layer.weight.detach().clone()
    >>> field = Field(subkey=bytes(range(32)), salt=b"model 1")
    >>> layer = unlock_module(lock_module(layer, field))
    >>> torch.allclose(layer.weight, weight, atol=1e-5)
    True
    """
    open_parameters: set[int] = set()
    for owner in list(module.modules()):
        for attribute, chain in list(getattr(owner, "parametrizations", {}).items()):
            if not isinstance(chain, parametrize.ParametrizationList) or not isinstance(chain[0], Unlocked):
                continue
            lock, parameter = chain[0], chain.original
            # torch gives a copy of a parametrised module the class of its original, and takes the attribute off that
            # class; the copy needs a class of its own, or the original would lose its weights.
            owner.__class__ = type(type(owner).__name__, type(owner).__bases__, dict(vars(type(owner))))
            parametrize.remove_parametrizations(owner, attribute, leave_parametrized=False)
            if id(parameter) not in open_parameters:  # a shared parameter is opened once
                open_parameters.add(id(parameter))
                with torch.no_grad():
                    parameter.copy_(lock(parameter))
    return module


def _check_precision(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _ACCURATE:
        raise SettingsError(
            f"tensor {name!r} is {str(tensor.dtype).removeprefix('torch.')}, which cannot be locked and unlocked without "
            "loss: convert it with .float() first."
        )


def _rows(tensor: Tensor, over: TensorField) -> np.ndarray:
    """A view with the axes in the field's order."""
    array = tensor.detach().numpy()
    return (array if array.ndim else array.reshape(1)).transpose(over.order)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
