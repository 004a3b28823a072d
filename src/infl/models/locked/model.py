"""A locked model, what a key makes of it, and how it is locked and written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl import __version__
from infl._files import write_atomic
from infl._html import facts, notebook
from infl.errors import FileError, KeyringError, SettingsError
from infl.models.locked.header import FORMAT, Header, digest_of
from infl.models.locked.private import PRIVATE, is_open, pack_arrays, unpack_arrays, vault
from infl.models.locked.salts import content_of, tensor_salt

if TYPE_CHECKING:
    from torch import Tensor, nn

    from infl.keys import Keyring
    from infl.models.task import Sums


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
        if h.fingerprint and is_open(self.private):
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
            self._expect(name, [(axis, len(names)) for axis, names in units.get(name, {}).items()])
            lock = self.header.field_of(secret, name)
            opened[name] = tensor if lock is None else lock.unlock(name, tensor, units.get(name))
        return opened

    def _expect(self, name: str, sizes: Iterable[tuple[int, int]]) -> None:
        """Refuse a tensor whose axes have not these sizes: another version of the task wrote it."""
        shape = dict(enumerate(self.stored[name].shape)) if name in self.stored else dict(sizes)
        if any(shape.get(axis) != size for axis, size in sizes):
            h = self.header
            raise FileError(
                f"infl {h.infl_version} fitted this model, and its {h.task!r} has weights of another shape ({name!r}) than that of "
                f"this infl, {__version__}: use the version that fitted it, or fit it again"
            )

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
            return unpack_arrays(self.private)
        if key is None:
            return {}
        from cryptography.exceptions import InvalidTag

        key.check(h.key_version, h.fingerprint)
        try:
            return unpack_arrays(vault(key, h).decrypt(self.private[:12], self.private[12:], h.digest.encode()))
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
        opened, fresh = self.effective(key, verify=verify), module.state_dict()
        for name, tensor in fresh.items():
            self._expect(name, list(enumerate(tensor.shape)))
        module.load_state_dict({**fresh, **opened}, strict=False)
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
    def become(self, other: LockedModel) -> None:
        """Take over what another lock of the same model stores, so that whoever holds this object has it."""
        self.header, self.stored, self.private = other.header, other.stored, other.private

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
        if digest_of(self.header, self.stored) != self.header.digest:
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
    header = replace(header, digest=digest_of(header, stored))
    content = pack_arrays(private)
    if key is not None:
        nonce = os.urandom(12)
        content = nonce + vault(key, header).encrypt(nonce, content, header.digest.encode())
    return LockedModel(header, stored, content)
