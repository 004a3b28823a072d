"""What a model file says without a key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from infl import __version__
from infl.models.lock_schemes import NoLock, lock_scheme
from infl.models.registry import task_from_json

if TYPE_CHECKING:
    from torch import Tensor

    from infl.models.task import Task
    from infl.nn.lock import Field

FORMAT = 2
READABLE = (1, FORMAT)
"""Formats that are read; a model of an older one is locked in the newest when it is locked again."""
SALT = 16  # bytes


@dataclass(frozen=True)
class Header:
    """What a model file says without a key.

    Attributes
    ----------
    task, options, panel
        Name and options of the task, names of features and classes.
    lock, strength
        How the weights are locked.
    key_version, fingerprint
        Which key opens it (0 and "" for a model without a key).
    seed, sites
        Of the run that made it.
    salts
        Of a field lock, by tensor: public, and a keyed function of what made the tensor (:func:`tensor_salt`). Two files in
        which a tensor has the same salt have the same tensor.
    widenings
        By how many steps a tensor's secret term is wider than its shape asks, where it is (:func:`infl.nn.lock.widening`).
    salt
        Of a published lock; of all tensors in a file of format 1.
    init
        Digest of the model whose weights this one's fit began with; empty for fresh ones.
    digest
        SHA-256 over all of the header and the stored tensors.
    infl_version
        That wrote the file.
    format
        Number of the file format.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> header = run.model.header
    >>> header.task, header.lock, header.sites[:2]
    ('classifier', 'field', ('site_1', 'site_2'))
    """

    task: str
    options: dict[str, Any]
    panel: dict[str, Any]
    lock: str
    strength: float
    key_version: int
    fingerprint: str
    seed: int
    sites: tuple[str, ...]
    salts: dict[str, str] = field(default_factory=dict)
    widenings: dict[str, int] = field(default_factory=dict)
    salt: str = ""
    infl_version: str = __version__
    format: int = FORMAT
    init: str = ""
    digest: str = ""

    def scheme(self) -> NoLock:
        """Return the lock scheme."""
        return lock_scheme(self.lock, self.strength)

    def build_task(self) -> Task:
        """Return the task with its options."""
        return task_from_json(self.task, self.options)

    def field_of(self, secret: bytes | None, name: str) -> Field | None:
        """Return the field between a tensor's effective and stored weights, where there is one."""
        if self.format == 1:
            return self.scheme().field(secret, bytes.fromhex(self.salt), version=1)
        return self.scheme().field(
            secret, bytes.fromhex(self.salts.get(name, "")), widening=self.widenings.get(name, 0)
        )

    def facts(self) -> dict[str, Any]:
        """Return what the file says, ready for JSON."""
        absent = {"salts", "widenings"} if self.format == 1 else set()
        absent |= set() if self.init else {"init"}
        names = [f.name for f in fields(self) if f.name not in absent]
        return {name: getattr(self, name) for name in names}  # no copy: a panel has thousands of names


def digest_of(header: Header, stored: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a header without its digest, and of all tensors."""
    header = replace(header, digest="")
    digest = hashlib.sha256(json.dumps(header.facts(), sort_keys=True).encode())
    for name in sorted(stored):
        tensor = stored[name]
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def header_of(raw: dict[str, Any], tensors: Mapping[str, Tensor]) -> Header:
    """Return the header that JSON has, each field of its type.

    Raises
    ------
    ValueError, KeyError
        A field is missing or unknown, or is not of its type.
    """
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("task", "lock", "salt", "fingerprint", "infl_version", "digest"), str),
        **dict.fromkeys(("key_version", "seed", "format"), int),
        **dict.fromkeys(("options", "panel"), dict),
        "strength": (int, float),
        "sites": list,
    }
    if raw["format"] > 1:
        kinds |= dict.fromkeys(("salts", "widenings"), dict)
        kinds |= {"init": str} if "init" in raw else {}
    if raw.keys() != kinds.keys() or any(
        not isinstance(raw[name], kind) or isinstance(raw[name], bool) for name, kind in kinds.items()
    ):
        raise ValueError("a field is missing, unknown or of another type")
    if not 0 <= raw["strength"] <= 1 or not all(isinstance(site, str) for site in raw["sites"]):
        raise ValueError("a field has a value that it cannot have")
    if not all(isinstance(raw["panel"].get(name, []), list) for name in ("features", "classes")):
        raise ValueError("features and classes are lists")
    if raw["format"] > 1:
        from infl.nn.field import MOST_STEPS

        salted = tensors if raw["lock"] == "field" else {}
        if raw["salts"].keys() != salted.keys() or not raw["widenings"].keys() <= salted.keys():
            raise ValueError("a field lock has a salt for each tensor")
        if any(len(bytes.fromhex(salt)) != SALT for salt in raw["salts"].values()):
            raise ValueError("a salt is too short or too long")
        if any(type(steps) is not int or not 0 < steps <= MOST_STEPS for steps in raw["widenings"].values()):
            raise ValueError("a widening is a small number")
    bytes.fromhex(raw["salt"])
    return Header(**{**raw, "sites": tuple(raw["sites"])})
