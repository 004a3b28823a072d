"""What a model file is worth without the key, and with a wrong one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.keys import Keyring
from infl.privacy.attacks.contract import Attack, Attacker, Finding

if TYPE_CHECKING:
    from torch import nn

    from infl.privacy.attacks.evidence import Evidence

N_KEYS = 12


def one_bit_off(key: Keyring, bit: int = 0) -> Keyring:
    """Return a ring whose current root differs from `key`'s in one bit."""
    roots = dict(key._roots)
    root = bytearray(roots[key.current])
    root[bit // 8 % len(root)] ^= 1 << (bit % 8)
    return Keyring._from_roots(roots | {key.current: bytes(root)})


def judge(evidence: Evidence, module: nn.Module, *, keyless: bool) -> float:
    """Return the headline metric of a module on the sites' validation parts, all together."""
    total: dict[str, np.ndarray] = {}
    for data in evidence.judging(keyless=keyless):
        for name, value in evidence.task.evaluate(module, data, data.validation).items():
            total[name] = total.get(name, 0) + value
    return evidence.task.summarise(total)[evidence.task.headline]


class _WithoutTheKey(Attack):
    """Use the model file as a thief would, and judge it as its owner would."""

    against: ClassVar[Attacker] = Attacker.THIEF
    quick: ClassVar[bool] = True
    note: ClassVar[str] = ""

    def applies(self, evidence: Evidence) -> bool:
        """Whether the model is locked and has classes to guess."""
        return evidence.run.key is not None and bool(evidence.panel.get("classes"))

    def modules(self, evidence: Evidence) -> list[nn.Module]:
        """Return the modules that the attack tries."""
        raise NotImplementedError  # pragma: no cover

    def run(self, evidence: Evidence) -> list[Finding]:
        """Try each module."""
        model, key = evidence.run.model, evidence.run.key
        right = judge(evidence, model.module(key if model.header.fingerprint else None), keyless=False)
        values = np.array([judge(evidence, module, keyless=True) for module in self.modules(evidence)])
        half = 1.96 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
        chance = 1 / len(evidence.panel["classes"])
        return [
            Finding(
                metric=evidence.task.headline,
                value=float(values.mean()),
                low=float(values.mean() - half),
                high=float(values.mean() + half),
                chance=chance,
                control=right,
                promised=model.header.lock == "field" and model.header.strength == 1,
                margin=0.5 * (1 - chance),
                note=f"{self.note} Best of {len(values)}: {values.max():.2f}. Control: with the right key.",
            )
        ]


class NoKey(_WithoutTheKey):
    """The stored weights as they are, rescaled to usual sizes, and averaged over guessed keys."""

    name: ClassVar[str] = "no_key"
    question: ClassVar[str] = "Is the model file worth anything without a key?"
    note: ClassVar[str] = "The stored weights used as they are, and brought to usual sizes."

    def modules(self, evidence: Evidence) -> list[nn.Module]:
        """Return the stored module, its variants in size, and the average of many guesses."""
        import torch

        from infl.privacy.attacks.thief_fine_tuning import starts

        model, task = evidence.run.model, evidence.task
        stored = model.module(None)
        if model.header.lock != "field":
            return [stored]
        scratch = {n: p.detach() for n, p in task.build(evidence.panel).named_parameters()}
        variants = starts(model.stored, scratch)
        guesses = [model.effective(Keyring.create(), verify=False) for _ in range(N_KEYS)]
        variants["average of guesses"] = {n: torch.stack([g[n] for g in guesses]).mean(0) for n in model.stored}
        modules = [stored]
        for name in ("clipped", "rescaled", "average of guesses"):
            module = task.build(evidence.panel)
            module.load_state_dict(variants[name], strict=False)
            modules.append(module.eval())
        return modules


class WrongKey(_WithoutTheKey):
    """Random keys, without the check of the fingerprint."""

    name: ClassVar[str] = "wrong_key"
    question: ClassVar[str] = "Does any key open the model, or only the right one?"
    note: ClassVar[str] = "Random keys forced upon the model."

    def modules(self, evidence: Evidence) -> list[nn.Module]:
        """Return the model under random keys."""
        return [evidence.run.model.module(Keyring.create(), verify=False) for _ in range(N_KEYS)]


class OneBitKey(_WithoutTheKey):
    """The right key with one bit flipped."""

    name: ClassVar[str] = "one_bit_key"
    question: ClassVar[str] = "Is a key that is nearly right worth anything?"
    note: ClassVar[str] = "The right key with one of its 256 bits flipped."

    def modules(self, evidence: Evidence) -> list[nn.Module]:
        """Return the model under keys one bit off."""
        key = evidence.run.key
        assert key is not None
        bits = evidence.rng(self.name).choice(256, N_KEYS, replace=False)
        return [evidence.run.model.module(one_bit_off(key, int(bit)), verify=False) for bit in bits]
