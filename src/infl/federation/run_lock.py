"""The lock of one run: its secret, its salts, what unsealed updates are divided by, and the locked model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from infl.errors import KeyringError
from infl.federation.start import check_start
from infl.models.lock_schemes import lock_scheme
from infl.models.locked import Header, LockedModel, content_of, lock_model, tensor_salt

if TYPE_CHECKING:
    from torch import Tensor

    from infl.federation.agreement import Agreement
    from infl.federation.start import Start
    from infl.keys import Keyring
    from infl.models.task import Sums
    from infl.nn.flat import Layout


class RunLock:
    """What a site locks the model of a run with.

    Parameters
    ----------
    agreement
        The run's specification.
    key
        Key ring (None: there is no lock).
    start
        The model that the run begins with (None: fresh weights).

    Raises
    ------
    KeyringError
        The run needs a key, and there is none, or it is another.
    SettingsError
        The run begins with another model.
    """

    def __init__(self, agreement: Agreement, key: Keyring | None, start: Start | None = None) -> None:
        check_start(agreement, start)
        if agreement.fingerprint:
            if key is None:
                raise KeyringError(
                    f"the run needs key version {agreement.key_version}, {agreement.fingerprint}: pass key="
                )
            key.check(agreement.key_version, agreement.fingerprint)
        self.agreement, self.key, self.start = agreement, key, start
        self.scheme = lock_scheme(agreement.lock, agreement.strength)

    @cached_property
    def recipe(self) -> str:
        """Digest of all that the weights follow from beside the sums: not the run's names, nor how long it went on."""
        return replace(self.agreement, run="", salt="", rounds=1, patience=0).digest

    def secret(self, label: str) -> bytes | None:
        """Return the key's subkey of a label for this run; None without a key."""
        if self.key is None:
            return None
        salt = bytes.fromhex(self._published_salt if label == "published" else self.agreement.salt)
        return self.key.subkey(label, version=self.agreement.key_version, salt=salt)

    @property
    def _published_salt(self) -> str:
        return self.salt("", named("published lock", self.recipe)) if self.scheme.name == "published" else ""

    def salt(self, name: str, made: bytes) -> str:
        """Return the salt of a tensor that was made from `made`."""
        assert self.key is not None
        return tensor_salt(self.key, self.agreement.key_version, name, made)

    def gain(self, layout: Layout, units: Mapping[str, Mapping[int, Sequence[str]]]) -> Tensor | None:
        """Return M of the coordinate field, flat: update_effective = update_locked · M.

        None when updates travel sealed: whoever opened the seal would have the key ring, hence the lock too.
        """
        if self.agreement.seal != "none":
            return None
        if self.key is None or self.scheme.name != "field":
            return None
        secret = self.key.subkey("lock", version=self.agreement.key_version)
        # the digest has the run's random name: no file and no other run has this M
        made = named("updates of a run", self.agreement.digest)
        gain = torch.empty(layout.total)
        for name, view in layout.views(gain).items():
            field = self.scheme.field(secret, bytes.fromhex(self.salt(name, made)))
            assert field is not None
            field.multipliers(name, tuple(view.shape), units.get(name), out=view)
        return gain

    def model(
        self,
        weights: Mapping[str, Tensor],
        private: Sums,
        *,
        made: str,
        initial: Mapping[str, bytes],
    ) -> LockedModel:
        """Return a model, locked under the run's key.

        Parameters
        ----------
        weights
            All tensors by name.
        private
            Arrays learned from sums, encrypted in the model.
        made
            Names what the weights were computed from, in hexadecimal.
        initial
            Digest of the content that each shared tensor began with. Those that moved have salts that follow from `made`;
            those that are still as a model had them that the run began with keep that model's.
        """
        a = self.agreement
        header = Header(
            task=a.task,
            options=a.options,
            panel=a.panel,
            lock=a.lock,
            strength=self.scheme.strength,
            salt=self._published_salt,
            key_version=a.key_version if a.lock != "none" else 0,
            fingerprint=a.fingerprint if a.lock != "none" else "",
            seed=a.seed,
            sites=a.sites,
            init=a.init,
        )
        moved = [name for name, before in initial.items() if content_of(weights[name]) != before]
        kept = {} if self.start is None else self.start.salts_of(weights)
        salts = kept | {name: self.salt(name, bytes.fromhex(made)) for name in moved}
        return lock_model(
            header,
            {name: weight.clone() for name, weight in weights.items()},
            private,
            self.key if a.lock != "none" else None,
            salts=salts,
        )


def named(what: str, *parts: str | bytes) -> bytes:
    """Return the SHA-256 of what something is made of, each part with its length before it."""
    digest = hashlib.sha256(f"infl {what}\n".encode())
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.digest()
