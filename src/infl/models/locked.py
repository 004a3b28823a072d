"""A trained model as it is stored and passed on: locked weights, a readable header, private arrays encrypted."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infl import __version__
from infl._files import explained, write_atomic
from infl._html import facts, notebook
from infl.errors import FileError, KeyringError, SettingsError
from infl.models.lock_schemes import NoLock, lock_scheme
from infl.models.registry import task_from_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from infl.keys import Keyring
    from infl.models.task import Sums, Task
    from infl.nn.lock import Field

FORMAT = 2
READABLE = (1, FORMAT)
"""Formats that are read; a model of an older one is locked in the newest when it is locked again."""
SALT = 16  # bytes
PRIVATE = "__private__"


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
        names = [f.name for f in fields(self) if self.format > 1 or f.name not in ("salts", "widenings")]
        return {name: getattr(self, name) for name in names}  # no copy: a panel has thousands of names


@dataclass
class LockedModel:
    """A model whose weights are worth nothing without the key.

    Made by :func:`infl.tl.fit_federated`, read by :func:`infl.load_model`.

    Attributes
    ----------
    header
        :class:`Header`, readable by everybody.
    stored
        Locked tensors by name. Ordinary float32: torch tools can average, copy and version them.
    private
        Encrypted arrays that were learned from data but are not weights (moments, class counts, temperature).

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> run.model.header.task, run.model.header.lock
    ('classifier', 'field')
    """

    header: Header
    stored: dict[str, Tensor]
    private: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a header that says locked over what is not."""
        h = self.header
        if (h.lock != "none") != bool(h.fingerprint):
            raise KeyringError(f"a header with lock={h.lock!r} and key {h.fingerprint or 'none'!r} is of no model")
        if h.fingerprint and _is_open(self.private):
            raise KeyringError(
                "the header says that this model is locked, and its private arrays are in the clear: lock it with its key, "
                "infl.models.locked.lock_model"
            )

    def __repr__(self) -> str:
        h = self.header
        key = f"key {h.fingerprint} version {h.key_version}" if h.fingerprint else "no key"
        return f"LockedModel({h.task}, {self.n_weights:,} weights, lock={h.lock!r} strength={h.strength:g}, {key})"

    def _repr_html_(self) -> str:
        h = self.header
        rows = {
            "task": h.task,
            "weights": f"{self.n_weights:,}",
            "features": f"{len(h.panel.get('features', ())):,}",
            "classes": ", ".join(map(str, h.panel.get("classes", ()))),
            "lock": f"{h.lock}, strength {h.strength:g}",
            "key": f"{h.fingerprint or 'none'}, version {h.key_version}",
        }
        return notebook(facts(rows, "infl model"))

    @property
    def n_weights(self) -> int:
        """How many weights are stored."""
        return sum(tensor.numel() for tensor in self.stored.values())

    # -- with the key ----------------------------------------------------------------------------------------------
    def secret(self, key: Keyring | None, *, verify: bool = True) -> bytes | None:
        """Return the subkey that opens this model (None without a key).

        Raises
        ------
        KeyringError
            The ring lacks the version, or its fingerprint is another. ``verify=False`` (attacks) skips that.
        """
        h = self.header
        if key is None:
            return None
        if not h.fingerprint:
            raise KeyringError("this model has no lock: pass key=None")
        if verify:
            key.check(h.key_version, h.fingerprint)
        version = h.key_version if verify else None
        return key.subkey(h.scheme().label, version=version, salt=bytes.fromhex(h.salt))

    def effective(self, key: Keyring | None, *, verify: bool = True) -> dict[str, Tensor]:
        """Return the weights that the module computes with; without a key the stored ones."""
        secret = self.secret(key, verify=verify)
        units = self.header.build_task().units(self.header.panel)
        opened = {}
        for name, tensor in self.stored.items():
            lock = self.header.field_of(secret, name)
            opened[name] = tensor if lock is None else lock.unlock(name, tensor, units.get(name))
        return opened

    def salts_of(self, weights: Mapping[str, Tensor], key: Keyring | None) -> dict[str, str]:
        """Return the salts of those tensors that did not change since this model was opened.

        A tensor that is locked again keeps its salt (``lock_model(…, salts=)``): versions of it under several salts,
        averaged, would open a lock of less than full strength.
        """
        import torch

        before, salts = self.effective(key), self.header.salts
        return {n: salts[n] for n, t in weights.items() if n in salts and torch.equal(t.detach().cpu(), before[n])}

    def private_arrays(self, key: Keyring | None) -> Sums:
        """Return the decrypted private arrays; empty without a key.

        Raises
        ------
        FileError
            The file was altered after it was written.
        """
        h = self.header
        if not h.fingerprint:
            return _arrays(self.private)
        if key is None:
            return {}
        from cryptography.exceptions import InvalidTag

        key.check(h.key_version, h.fingerprint)
        try:
            return _arrays(_vault(key, h).decrypt(self.private[:12], self.private[12:], h.digest.encode()))
        except InvalidTag:
            raise FileError("the model's encrypted part does not belong to its weights: the file was altered") from None

    def module(self, key: Keyring | None = None, *, verify: bool = True) -> nn.Module:
        """Return the torch module in evaluation mode: unlocked with the key, the stored weights as they are without.

        Parameters
        ----------
        key
            Key ring.
        verify
            Refuse a key whose fingerprint is another. Attacks switch it off; the private arrays stay closed then.
        """
        h, secret = self.header, self.secret(key, verify=verify)
        private = self.private_arrays(key if verify else None)  # first: it shows a header that was altered
        task = h.build_task()
        module = h.scheme().wrap(task.build(h.panel))
        module.load_state_dict({**module.state_dict(), **self.effective(key, verify=verify)}, strict=False)
        h.scheme().arm(module, secret)
        task.configure(module, private)
        return module.eval()

    def relock(self, key: Keyring, *, version: int | None = None, strength: float | None = None) -> LockedModel:
        """Return the same model under another version or strength, without training.

        Each tensor keeps its salt, so locking it again under the same version and strength gives the same numbers.

        Parameters
        ----------
        key
            A ring that opens this model and has the new version.
        version
            New key version (None: the ring's current one).
        strength
            New strength (None: as it is).
        """
        h = self.header
        if h.lock != "field":
            raise SettingsError(f"only lock='field' can be locked again without training; this model has {h.lock!r}")
        version = key.current if version is None else version
        header = replace(
            h,
            strength=h.strength if strength is None else strength,
            key_version=version,
            fingerprint=key.fingerprint(version),
        )
        private = self.private_arrays(key)  # first: it shows a file that was altered
        return lock_model(header, self.effective(key), private, key, salts=h.salts)

    # -- files -----------------------------------------------------------------------------------------------------
    def save(self, path: str | Path, *, recipients: list[str] | None = None, overwrite: bool = False) -> Path:
        """Write a safetensors file, in one step.

        Parameters
        ----------
        path
            Where, e.g. ``"model.infl.safetensors"``.
        recipients
            Public keys of age (X25519, ``age1…``) or their ``.pub`` files: the whole file is encrypted to them on top (open it with age, then
            :func:`infl.load_model`, or pass ``identity=``).
        overwrite
            Replace a file that exists.

        Raises
        ------
        FileError
            The file exists or cannot be written.
        """
        import torch
        from safetensors.torch import save

        self.__post_init__()
        if _digest(replace(self.header, digest=""), self.stored) != self.header.digest:
            raise FileError(
                "header or weights were changed after the model was locked, so they may be in the clear: nothing was written; "
                "change a model by relock()"
            )
        tensors = {name: t.contiguous() for name, t in self.stored.items()}
        tensors[PRIVATE] = torch.frombuffer(bytearray(self.private), dtype=torch.uint8)
        content = save(tensors, metadata={"infl": json.dumps(self.header.facts())})
        if recipients:
            from infl.keys import encrypt

            content = encrypt(content, recipients=recipients)
        return write_atomic(path, content, overwrite=overwrite)


def tensor_salt(key: Keyring, version: int, name: str, made: bytes) -> str:
    """Return the public salt of a tensor: a keyed function of its name and of what made it.

    Nobody chooses it, it tells nothing of the weights, and what is made again in the same way gets it again.

    Parameters
    ----------
    key, version
        Key ring and its version.
    name
        The tensor's name.
    made
        32 bytes of SHA-256 over what the weights follow from: the weights themselves (:func:`content_of`), or the sums of a
        run that they were computed from.

    Examples
    --------
    >>> import infl
    >>> key = infl.keys.Keyring.create()
    >>> one, other = (tensor_salt(key, 1, "head.weight", bytes([i]) * 32) for i in range(2))
    >>> len(one), one == tensor_salt(key, 1, "head.weight", bytes(32)), one == other
    (32, True, False)
    """
    if len(made) != 32:
        raise SettingsError(f"what made a tensor is named by 32 bytes, got {len(made)}")
    return hmac.digest(key.subkey("salt", version=version), name.encode() + made, "sha256")[:SALT].hex()


def content_of(tensor: Tensor) -> bytes:
    """Return the SHA-256 of a tensor's type, shape and bytes.

    Examples
    --------
    >>> import torch
    >>> (
    ...     content_of(torch.zeros(3)) == content_of(torch.zeros(3)),
    ...     content_of(torch.zeros(3)) == content_of(torch.ones(3)),
    ... )
    (True, False)
    """
    import torch

    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"infl tensor {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def lock_model(
    header: Header,
    effective: Mapping[str, Tensor],
    private: Sums,
    key: Keyring | None,
    *,
    salts: Mapping[str, str] | None = None,
) -> LockedModel:
    """Lock effective weights under a key, and encrypt the private arrays.

    Parameters
    ----------
    header
        Its salts, widenings and digest are filled in here.
    effective
        Weights by name, as trained.
    private
        Arrays to encrypt.
    key
        Key ring; None leaves everything open, under a header that says so.
    salts
        Of tensors that have one already: those that did not change (:meth:`LockedModel.salts_of`), or were computed from
        sums. The others' follow from their weights. A salt under which other weights were locked gives both away.

    Raises
    ------
    KeyringError
        The header names a key and there is none, or another.
    """
    if key is None and header.fingerprint:
        raise KeyringError(
            f"the header says lock={header.lock!r} with key {header.fingerprint}: without that key nothing can be locked; pass key="
        )
    if key is not None:
        key.check(header.key_version, header.fingerprint)
    new: dict[str, Any] = {"format": FORMAT, "infl_version": __version__, "salts": {}, "widenings": {}, "digest": ""}
    if header.lock != "published":
        new["salt"] = ""
    header = replace(header, **new)
    units, secret = header.build_task().units(header.panel), None
    if key is not None and header.lock == "field":
        from infl.nn.lock import widening

        known, version = salts or {}, header.key_version
        salts = {n: known.get(n) or tensor_salt(key, version, n, content_of(t)) for n, t in effective.items()}
        steps = {n: widening(t, units.get(n)) for n, t in effective.items()}
        header = replace(header, salts=salts, widenings={n: step for n, step in steps.items() if step})
        secret = key.subkey(header.scheme().label, version=version)
    stored = {}
    for name, tensor in effective.items():
        lock = header.field_of(secret, name)
        stored[name] = tensor.detach().clone() if lock is None else lock.lock(name, tensor, units.get(name))
    header = replace(header, digest=_digest(header, stored))
    content = _bytes(private)
    if key is not None:
        nonce = os.urandom(12)
        content = nonce + _vault(key, header).encrypt(nonce, content, header.digest.encode())
    return LockedModel(header, stored, content)


def load_model(path: str | Path, *, identity: str | Path | None = None) -> LockedModel:
    """Read a model file.

    Parameters
    ----------
    path
        Written by ``run.save`` or :meth:`LockedModel.save`.
    identity
        File with the age identity, when the whole file was encrypted to recipients.

    Returns
    -------
    LockedModel
        Its key, if it has one, is checked by fingerprint when it is used.

    Raises
    ------
    FileError
        Not there, truncated, altered, encrypted, or of another format.

    Examples
    --------
    >>> import infl
    >>> infl.load_model("nowhere.safetensors")
    Traceback (most recent call last):
    infl.errors.FileError: cannot read nowhere.safetensors: No such file or directory
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path).expanduser()
    with explained(path, "read"):
        content = path.read_bytes()
    if content.startswith(b"age-encryption.org/"):
        if identity is None:
            raise FileError(f"{path} is encrypted with age: pass identity=, the file with your age identity")
        from infl.keys import decrypt

        content = decrypt(content, identity=identity, source=path)
    try:
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]["infl"]
        tensors = load(content)
        raw = json.loads(metadata)
        version = raw["format"]
        if version in READABLE:
            private = tensors.pop(PRIVATE).numpy().tobytes()
            header = _header(raw, tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        raise FileError(f"{path} is not an infl model, or was cut off or altered: get it again") from None
    if version not in READABLE:
        age = "older" if isinstance(version, int) and version < FORMAT else "newer"
        formats = " and ".join(map(str, READABLE))
        raise FileError(f"{path} has the {age} model format {version!r}; this infl {__version__} reads {formats}")
    if _digest(replace(header, digest=""), tensors) != header.digest:
        raise FileError(f"{path} was altered after it was written: its digest does not match; get it again")
    try:
        return LockedModel(header, tensors, private)
    except KeyringError as error:
        raise FileError(f"{path}: {error}") from None


def _header(raw: dict[str, Any], tensors: Mapping[str, Tensor]) -> Header:
    """Return the header that JSON has, each field of its type; a ValueError or KeyError when it is not."""
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("task", "lock", "salt", "fingerprint", "infl_version", "digest"), str),
        **dict.fromkeys(("key_version", "seed", "format"), int),
        **dict.fromkeys(("options", "panel"), dict),
        "strength": (int, float),
        "sites": list,
    }
    if raw["format"] > 1:
        kinds |= dict.fromkeys(("salts", "widenings"), dict)
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


def _vault(key: Keyring, header: Header) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    salt = header.salt if header.format == 1 else header.digest  # what is encrypted belongs to these weights alone
    return ChaCha20Poly1305(key.subkey("file", version=header.key_version, salt=bytes.fromhex(salt)))


def _digest(header: Header, stored: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header.facts(), sort_keys=True).encode())
    for name in sorted(stored):
        tensor = stored[name]
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _bytes(arrays: Sums) -> bytes:
    from safetensors.numpy import save

    return save({name: np.asarray(value, order="C") for name, value in arrays.items()})


def _is_open(content: bytes) -> bool:
    """Whether arrays can be read without a key."""
    from safetensors import SafetensorError

    try:
        _arrays(content)
    except SafetensorError:
        return False
    return True


def _arrays(content: bytes) -> Sums:
    from safetensors.numpy import load

    return load(content)
