"""A site's own account of differential privacy: what each record was exposed to over all runs and data sets, and a limit.

A run is admitted if, with all of its rounds, no record of it would have spent more than its budget for life. Then each new
sum is charged before it is sealed, whether it is ever opened or not; the same sum, asked for again, is charged once. Charges are
Rényi divergences, which add up whoever chose the next run by what came out of the last (Feldman and Zrnic 2021; Lécuyer 2021),
and a round that would exceed the budget is refused while the run goes on, too.

Records are known by their names in ``obs``, donors by theirs; on disk there are keyed digests of them, under a secret of the
site. The same name is the same record in all data sets: names that two data sets share by chance cost budget, and a record
under another name has another account.

A restored backup of the folder would forget what was spent since. So the other members of a run keep each account's head: how many
sums were charged in all, and a keyed digest of which. A site whose account goes back behind what they have seen is refused.

References
----------
Feldman, Zrnic, Individual privacy accounting via a Rényi filter, NeurIPS 2021. Lécuyer, Practical privacy filters and
odometers with Rényi differential privacy, 2021.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np

from infl._files import explained, locked, parse_json, write_atomic
from infl.errors import FederationError, FileError
from infl.privacy.dp import NO_PRIVACY_LOSS, epsilon_of_curve, renyi_curve

NAME = "V16"
"""Type of a keyed digest of a name."""


class Account:
    """A folder of a site: a secret, and of each run who took part and what was charged.

    Parameters
    ----------
    folder
        Made if it is missing.
    epsilon, delta
        What a record may spend in its life (``epsilon=0``: no limit).
    colluders
        Least number of other members who may pool their shares of the noise.

    Examples
    --------
    >>> import tempfile
    >>> account = Account(tempfile.mkdtemp(), epsilon=8.0, delta=1e-5)
    >>> run = account.admit("run 1", ["record a", "record b"], noise=2.0, sample_rate=0.2, rounds=10)
    >>> run.charge(b"first sum")
    >>> round(account.spent(["record a"]), 2), account.spent(["record c"])
    (0.86, 0.0)
    """

    def __init__(self, folder: str | Path, *, epsilon: float = 0.0, delta: float = 1e-5, colluders: int = 1) -> None:
        self.folder, self.epsilon, self.delta, self.colluders = Path(folder), epsilon, delta, colluders
        with explained(self.folder, "make"):
            self.folder.mkdir(mode=0o700, exist_ok=True)

    @cached_property
    def secret(self) -> bytes:
        """Secret of the site, made when it is first asked for."""
        path = self.folder / "secret"
        with self.alone(), explained(path, "read"):
            if not path.exists():
                if any(self.folder.glob("*.names")):
                    raise FileError(
                        f"{path} is missing, and without it nobody's budget is known: restore it from a backup"
                    )
                write_atomic(path, os.urandom(32), mode=0o600)
            secret = path.read_bytes()
        if len(secret) != 32:
            raise FileError(f"{path} is damaged: restore it from a backup")
        return secret

    def admit(self, run: str, names: Sequence[str], *, noise: float, sample_rate: float, rounds: int) -> RunAccount:
        """Let a run begin, or go on.

        Parameters
        ----------
        run
            Digest of its specification.
        names
            Of all records, and donors, that it trains on.
        noise, sample_rate, rounds
            What it will do.

        Raises
        ------
        FederationError
            With all of its rounds a record would have spent more than its budget.
        """
        own = RunAccount(self, run, noise, sample_rate)
        digests = self.digests(names)
        with self.alone():
            known = self._names(own.path("names")) if own.path("names").exists() else digests[:0]
            names_now = np.union1d(known, digests)
            self._check(run, names_now, noise, sample_rate, rounds)
            write_atomic(own.path("names"), names_now.tobytes(), overwrite=True, mode=0o600)
            own.write(own.charged)
        return own

    def spent(self, names: Sequence[str], delta: float | None = None) -> float:
        """Return the largest ε that any of the records has spent, at a δ (default: the account's)."""
        curves = self._curves(self.digests(names), without="")
        return max((epsilon_of_curve(curve, delta or self.delta) for curve in curves), default=0.0)

    def most_spent(self) -> float:
        """Return the largest ε that any record of the site has spent, at the account's δ."""
        names = [self._names(path) for path in self.folder.glob("*.names")]
        curves = self._curves(np.unique(np.concatenate(names)), without="") if names else []
        return max((epsilon_of_curve(curve, self.delta) for curve in curves), default=0.0)

    def digests(self, names: Sequence[str]) -> np.ndarray:
        """Return keyed digests of names, sorted, each once."""
        key = hmac.digest(self.secret, b"infl names", "sha256")
        parts = [
            hashlib.blake2b(name.encode(), key=key, digest_size=16, person=b"infl account").digest() for name in names
        ]
        return np.unique(np.frombuffer(b"".join(parts), dtype=NAME))

    def head(self) -> bytes:
        """Return what others keep of this account: the time, how many sums were charged, and a keyed digest of which; 48 bytes."""
        key = hmac.digest(self.secret, b"infl head", "sha256")
        with self.alone():
            runs = {path.stem: self._facts(path)["charged"] for path in sorted(self.folder.glob("*.json"))}
            charged = {run: sums for run, sums in runs.items() if sums}
            digest = hmac.digest(key, json.dumps(charged, sort_keys=True).encode(), "sha256")
            return pack(">QQ", time.time_ns(), sum(map(len, charged.values()))) + digest

    def _check(self, run: str, names: np.ndarray, noise: float, sample_rate: float, rounds: int) -> None:
        """Refuse a run, or a round, that would take a record beyond its budget."""
        if not self.epsilon or not rounds:
            return
        own = rounds * renyi_curve(noise, sample_rate)
        most = max((epsilon_of_curve(c + own, self.delta) for c in self._curves(names, without=run)), default=0.0)
        if most > self.epsilon:
            raise FederationError(
                f"run {run[:12]}: {rounds} rounds would take a record to epsilon {most:.3g} at delta {self.delta:g} over its "
                f"life, and lifetime_epsilon is {self.epsilon:g}; refused"
            )

    def _curves(self, names: np.ndarray, without: str) -> list[np.ndarray]:
        """Return what the records have spent in other runs: one curve for all that were in the same runs."""
        rows, spent = [], []
        for path in sorted(self.folder.glob("*.json")):
            if path.stem != without:
                facts = self._facts(path)
                rows.append(np.isin(names, self._names(path.with_suffix(".names"))))
                spent.append(len(facts["charged"]) * renyi_curve(facts["noise"], facts["sample_rate"]))
        if not rows:
            return [NO_PRIVACY_LOSS]
        return [
            sum((c for c, there in zip(spent, who, strict=True) if there), NO_PRIVACY_LOSS)
            for who in np.unique(np.array(rows).T, axis=0)
        ]

    @staticmethod
    def _facts(path: Path) -> dict[str, Any]:
        with explained(path, "read"):
            try:
                facts = parse_json(path.read_text())
                return {
                    "noise": float(facts["noise"]),
                    "sample_rate": float(facts["sample_rate"]),
                    "charged": list(facts["charged"]),
                }
            except (ValueError, KeyError, TypeError):
                raise FileError(f"{path} is damaged: restore it from a backup") from None

    @staticmethod
    def _names(path: Path) -> np.ndarray:
        with explained(path, "read"):
            content = path.read_bytes()
        if len(content) % 16:
            raise FileError(f"{path} is damaged: restore it from a backup")
        return np.frombuffer(content, dtype=NAME)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of the site away from the account for a moment."""
        with locked(self.folder):
            yield


class RunAccount:
    """What a site charges its records for in one run.

    Parameters
    ----------
    account
        Of the site.
    run
        Digest of the run's specification.
    noise, sample_rate
        Of each of its sums.
    """

    def __init__(self, account: Account, run: str, noise: float, sample_rate: float) -> None:
        self.of_site, self._run, self._step = account, run, (noise, sample_rate)
        self.secret = hmac.digest(account.secret, b"infl noise " + run.encode(), "sha256")
        """Of the site's noise and samples in this run."""

    def path(self, kind: str) -> Path:
        """Return where the run's names or charges are."""
        return self.of_site.folder / f"{self._run}.{kind}"

    @property
    def charged(self) -> list[str]:
        """Digests of the sums that were charged."""
        path = self.path("json")
        return self.of_site._facts(path)["charged"] if path.exists() else []

    def charge(self, key: bytes) -> None:
        """Charge a sum before it is sealed; the same one is charged once.

        Parameters
        ----------
        key
            Of the sum's randomness.

        Raises
        ------
        FederationError
            A record would have spent more than its budget: other runs took it meanwhile.
        FileError
            It cannot be written down; nothing may be sent.
        """
        digest = hashlib.sha256(b"infl account" + key).hexdigest()[:32]
        with self.of_site.alone():
            charged = self.charged
            if digest in charged:
                return
            names = self.of_site._names(self.path("names"))
            self.of_site._check(self._run, names, *self._step, len(charged) + 1)
            self.write([*charged, digest])

    def write(self, charged: Sequence[str]) -> None:
        """Write the run's charges down."""
        noise, sample_rate = self._step
        content = json.dumps({"noise": noise, "sample_rate": sample_rate, "charged": list(charged)})
        write_atomic(self.path("json"), content.encode(), overwrite=True, mode=0o600)
