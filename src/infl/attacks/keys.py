"""What a model file is worth without the key, with a wrong one, and with one that is nearly right."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from infl.attacks._kit.contract import Attack, Attacker, Finding, Status
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.statistics import cross_chosen, interval, most_chosen
from infl.attacks._kit.weights import Weights, averaged, clipped, random_ring, rescaled
from infl.keys import Keyring
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

N_KEYS = 16
N_COPIES = 10
N_GUESSES = 6
CONFIRM = 4
"""How many times as many trials, drawn anew, judge what looked like a leak. Of few features a guess varies so much that one finding in
some hundred looks like one by chance."""


def one_bit_off(key: Keyring, bit: int = 0) -> Keyring:
    """Return a ring whose current root differs from `key`'s in one bit."""
    roots = dict(key._roots)
    root = bytearray(roots[key.current])
    root[bit // 8 % len(root)] ^= 1 << (bit % 8)
    return Keyring._from_roots(roots | {key.current: bytes(root)})


def evened(stored: Weights, usual: Weights) -> dict[str, Tensor]:
    """Take the secret gains of rows and columns out, by dividing each by its norm in turn, then rescale."""
    result = {}
    for name, tensor in stored.items():
        if tensor.ndim == 2:
            for _ in range(3):
                tensor = tensor / tensor.norm(dim=0, keepdim=True).clamp(min=1e-12)
                tensor = tensor / tensor.norm(dim=1, keepdim=True).clamp(min=1e-12)
        result[name] = tensor
    return rescaled(result, usual)


def signs(stored: Weights, usual: Weights) -> dict[str, Tensor]:
    """Keep the signs alone, at the size of initial weights."""
    return {n: t.sign() * usual[n].square().mean().sqrt() for n, t in stored.items()}


class Committee(nn.Module):
    """Modules that vote: the mean of their outputs. For all else it is the first of them."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the mean output."""
        return torch.stack([member(*batch) for member in self.members]).mean(0)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(cast(nn.ModuleList, super().__getattr__("members"))[0], name)


class _WithoutTheKey(Attack):
    """Use the model file as a thief would, and judge it as its owner would."""

    against: ClassVar[Attacker] = Attacker.THIEF
    quick: ClassVar[bool] = True

    @abstractmethod
    def accuracies(self, context: AuditContext, file: ModelFile, times: int = 1) -> dict[str, list[float]]:
        """Return the accuracies of each variant of the attack, over that many times the usual number of trials."""

    @abstractmethod
    def note(self, names: str, values: np.ndarray) -> str:
        """Say what was tried."""

    def run(self, context: AuditContext) -> list[Finding]:
        """Try each variant; the one that counts is chosen on other trials than those that it is judged on."""
        file = ModelFile(context)
        finding = self._found(context, file, 1)
        return [finding if finding.status is not Status.BROKEN else self._found(context, file, CONFIRM)]

    def _found(self, context: AuditContext, file: ModelFile, times: int) -> Finding:
        table = self.accuracies(context, file, times)
        values = np.array(list(table.values()))
        taken, chosen = cross_chosen(values)
        chance = context.chance
        assert chance is not None
        return Finding(
            metric=context.task.headline,
            **interval(taken),
            chance=chance,
            control=file.right,
            promised=file.promised,
            margin=0.5 * max(file.right - chance, 0.2),
            note=f"{self.note(most_chosen(list(table), chosen), values)} Control: with the right key.",
        )

    def _rng(self, context: AuditContext, times: int) -> np.random.Generator:
        """Return a generator, another one where what was found is confirmed."""
        return context.rng(self.name) if times == 1 else context.rng(self.name, "confirmed")


class NoKey(_WithoutTheKey):
    """The stored weights as they are, brought to usual sizes, and opened with many guessed keys at once."""

    name: ClassVar[str] = "no_key"
    question: ClassVar[str] = "Is the model file worth anything without a key?"

    def applies(self, context: AuditContext) -> bool:
        """Whether it is known what a guess is worth."""
        return context.chance is not None

    def accuracies(self, context: AuditContext, file: ModelFile, times: int = 1) -> dict[str, list[float]]:
        """Measure the file, and the same model locked under other salts."""
        if file.model.header.lock != "field":
            return {"as stored": [file.accuracy(file.model.module(None))]}
        rng = self._rng(context, times)
        table: dict[str, list[float]] = {}
        for number, stored in enumerate(file.copies(N_COPIES * times, rng)):
            usual = file.fresh(self.name, number)
            guesses = [self._opened(file, stored, random_ring(rng)) for _ in range(N_GUESSES)]
            variants: dict[str, nn.Module | Weights] = {
                "as stored": stored,
                "cut to the usual range": clipped(stored, usual),
                "brought to the usual spread": rescaled(stored, usual),
                "rows and columns evened": evened(stored, usual),
                "signs alone": signs(stored, usual),
                f"average of {N_GUESSES} guessed keys": averaged(guesses),
            }
            if isinstance(file.task, ClassProbabilities):  # others' outputs cannot be averaged
                variants[f"vote of {N_GUESSES} guessed keys"] = self._committee(file, guesses)
            for name, weights in variants.items():
                table.setdefault(name, []).append(file.accuracy(weights))
        return table

    @staticmethod
    def _opened(file: ModelFile, stored: Weights, key: Keyring) -> dict[str, Tensor]:
        header = file.model.header
        secret, units = key.subkey(header.scheme().label), file.task.units(header.panel)
        opened = {}
        for name, tensor in stored.items():
            field = header.field_of(secret, name)
            assert field is not None
            opened[name] = field.unlock(name, tensor, units.get(name))
        return opened

    @staticmethod
    def _committee(file: ModelFile, guesses: list[dict[str, Tensor]]) -> Committee:
        members = [file.build("committee") for _ in guesses]
        for member, guess in zip(members, guesses, strict=True):
            member.load_state_dict(guess, strict=False)
        return Committee(members)

    def note(self, names: str, values: np.ndarray) -> str:
        """Say which variant was best."""
        return f"The stored weights used without a key, in {len(values)} ways (best: {names})."


class WrongKey(_WithoutTheKey):
    """Random keys, without the check of the fingerprint."""

    name: ClassVar[str] = "wrong_key"
    question: ClassVar[str] = "Does any key open the model, or only the right one?"

    def applies(self, context: AuditContext) -> bool:
        """Whether a key opens the model, and it is known what a guess is worth."""
        return bool(context.run.model.header.fingerprint) and context.chance is not None

    def keys(self, context: AuditContext, times: int = 1) -> list[Keyring]:
        """Return the keys to try."""
        rng = self._rng(context, times)
        return [random_ring(rng) for _ in range(N_KEYS * times)]

    def accuracies(self, context: AuditContext, file: ModelFile, times: int = 1) -> dict[str, list[float]]:
        """Force each key upon the model."""
        return {"key": [file.accuracy(file.model.module(key, verify=False)) for key in self.keys(context, times)]}

    def note(self, names: str, values: np.ndarray) -> str:
        """Name the best of them too."""
        return f"{values.size} random keys forced upon the model: the mean; the best by luck {values.max():.2f}."


class OneBitKey(WrongKey):
    """The right key with one bit flipped."""

    name: ClassVar[str] = "one_bit_key"
    question: ClassVar[str] = "Is a key that is nearly right worth anything?"

    def keys(self, context: AuditContext, times: int = 1) -> list[Keyring]:
        """Return the right key with one bit off, at several places."""
        key = context.run.key
        assert key is not None
        bits = self._rng(context, times).choice(256, N_KEYS * times, replace=False)
        key = key.only(context.run.model.header.key_version)
        return [one_bit_off(key, int(bit)) for bit in bits]

    def note(self, names: str, values: np.ndarray) -> str:
        """Name the best of them too."""
        return (
            f"The right key with one of its 256 bits flipped, {values.size} times: the mean; best {values.max():.2f}."
        )
