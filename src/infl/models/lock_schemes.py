"""The ways in which a key can be part of a model, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from infl.errors import SettingsError

if TYPE_CHECKING:
    from torch import nn

    from infl.nn.lock import Field

Units = Mapping[str, Mapping[int, Sequence[str]]]


@dataclass(frozen=True)
class NoLock:
    """The weights are stored as they are."""

    name: ClassVar[str] = "none"
    label: ClassVar[str] = "lock"
    strength: float = 0.0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module that is trained."""
        return module

    def arm(self, module: nn.Module, secret: bytes | None) -> None:
        """Hand the key's secret to a module that computes with it (None: take it away)."""

    def field(self, secret: bytes | None, salt: bytes, **construction: int) -> Field | None:
        """Return the coordinate field between effective and stored weights of a tensor, if there is one."""
        return None


@dataclass(frozen=True)
class FieldLock(NoLock):
    """The default: stored weights are the effective ones under a secret coordinate field (:mod:`infl.nn.lock`)."""

    name: ClassVar[str] = "field"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise SettingsError(f"strength={self.strength}: give a number from 0 (no lock) to 1")

    def field(self, secret: bytes | None, salt: bytes, **construction: int) -> Field | None:
        """Return the field of a key and a salt, of a widening and a version; None without a key."""
        from infl.nn.lock import Field

        return None if secret is None else Field(secret, salt, self.strength, **construction)


@dataclass(frozen=True)
class PublishedLock(NoLock):
    """The published mechanism: every layer is conditioned on a code of secret coordinates (:mod:`infl.nn.published`).

    A wrong random key is not shown to be worse than the right one; it is here to be compared with, not to protect.
    """

    name: ClassVar[str] = "published"
    label: ClassVar[str] = "published"
    strength: float = 1.0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Condition every linear layer; strength 1 is the published strength for classification."""
        from infl.nn.published import STRENGTH, apply_published

        return apply_published(module, self.strength * STRENGTH["classification"])

    def arm(self, module: nn.Module, secret: bytes | None) -> None:
        """Set the secret coordinates, or remove the keyed path."""
        from infl.nn.published import coordinates, set_coordinates

        set_coordinates(module, None if secret is None else coordinates(secret))


SCHEMES: dict[str, type[NoLock]] = {"field": FieldLock, "published": PublishedLock, "none": NoLock}


def lock_scheme(lock: str | None, strength: float) -> NoLock:
    """Return the scheme of a name (None is ``"none"``).

    Raises
    ------
    SettingsError
        Unknown name, or a strength that is not possible.
    """
    name = lock or "none"
    if name not in SCHEMES:
        raise SettingsError(f"lock={lock!r}: one of {', '.join(map(repr, SCHEMES))} or None")
    return SCHEMES[name]() if name == "none" else SCHEMES[name](strength)
