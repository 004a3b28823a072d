"""The security log of a participant: offers, consents, refusals, logins, revocations, in a chain that cannot be edited unnoticed.

Each row has the SHA-256 of itself with the hash of the row before, and, where the writer has the participant's log key, an
HMAC-SHA256 of that hash: the *seal*. A site's log key follows from its identity, a coordinator's is a file of its own. Whoever
changes, removes or inserts a row without the key breaks the chain or a seal. Commands that have no identity at hand write rows
without a seal, and :meth:`SecurityLog.verify` says which; the next seal covers them, too. Rows at the beginning go when there are
too many files, and are missed when they go before. Rows removed at the end are noticed by whoever wrote down the last hash before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infl._files import explained, parse_json, write_atomic
from infl.deploy.journal import Journal
from infl.errors import FederationError, FileError

BEGIN = "0" * 64
"""What stands for the row before the first one."""
KEPT = 20
"""Older files that are kept: 100 MB."""
BY_HAND = ("enrolled", "installed", "approved")
"""What commands write that may have no identity at hand."""


@dataclass(frozen=True)
class Verified:
    """What was found in a log that is whole.

    Attributes
    ----------
    first, last
        Numbers of the oldest row that is kept, and of the newest; 0 where there is none.
    head
        Hash of the newest: to be written down elsewhere.
    unsealed
        Numbers of the rows without a seal of their own.
    sealed
        Whether seals were checked: not without the key.
    """

    first: int
    last: int
    head: str
    unsealed: tuple[int, ...]
    sealed: bool

    @property
    def words(self) -> str:
        """Say it in one line."""
        if not self.last:
            return "empty"
        how = "chain and seals are whole" if self.sealed else "the chain is whole; there is no key here that seals it"
        rows = f"rows {self.first} to {self.last}: {how}"
        if self.sealed and self.unsealed:
            rows += f"; written by commands without the identity: {', '.join(map(str, self.unsealed[:20]))}"
        return f"{rows}; last {self.last}:{self.head[:16]}"


class SecurityLog(Journal):
    """A participant's security log.

    Parameters
    ----------
    path
        The newest file.
    key
        Returns the log key, or None where it is not at hand.
    largest, kept
        As of a :class:`~infl.deploy.journal.Journal`.

    Examples
    --------
    >>> import tempfile
    >>> log = SecurityLog(Path(tempfile.mkdtemp()) / "security.jsonl", lambda: bytes(32))
    >>> log.note("refused", run="1a2b"), log.note("shut out")
    (1, 2)
    >>> log.verify().last
    2
    """

    def __init__(
        self, path: Path, key: Callable[[], bytes | None], *, largest: int = 5 << 20, kept: int = KEPT
    ) -> None:
        super().__init__(path, largest=largest, kept=kept)
        self._key = key

    def note(self, event: str, **what: Any) -> int:
        """Add what happened; return its number. What was just noted is not noted again, so that nobody fills the log by asking."""
        row = {"event": event} | {name: _plain(value) for name, value in what.items()}
        last = self._last()
        if last is not None and _said(last) == row:
            return int(last["n"])
        return self.append(row)

    def completed(self, row: dict[str, Any], last: dict[str, Any] | None) -> dict[str, Any]:
        """Return a row with its hash and, where the key is at hand, its seal."""
        row = row | {"before": BEGIN if last is None else last.get("hash", BEGIN)}
        row["hash"] = _hash(row)
        key = self._key()
        return row if key is None else row | {"seal": _seal(key, row["hash"])}

    def verify(self, known: str = "") -> Verified:
        """Check every row that is kept.

        Parameters
        ----------
        known
            ``NUMBER:HASH`` as an earlier check showed it, or as much of the hash as was written down: must be there unchanged.

        Raises
        ------
        FederationError
            A row was changed, removed or inserted; the line says at which number.
        """
        key, unsealed, seals = self._key(), list[int](), 0
        rows = [row for path in self.files() for row in self._strict(path)]
        if (
            rows and rows[0]["n"] > 1 and not self._older(self.kept).exists()
        ):  # rows go with the oldest file, and not before
            raise FederationError(
                f"{self.path}: rows before {rows[0]['n']} are gone, which were not so old: put their files back"
            )
        for i, row in enumerate(rows):
            before = rows[i - 1] if i else None
            number = row.get("n")
            whole = row.get("hash") == _hash(row) and (before is None or row["before"] == before["hash"])
            if (
                not whole
                or (before is not None and number != before["n"] + 1)
                or (number == 1) != (row["before"] == BEGIN)
            ):
                raise FederationError(f"{self.path}: row {number} or one before it was changed, removed or inserted")
            if "seal" not in row:
                unsealed.append(int(row["n"]))
                if key is not None and seals and row.get("event") not in BY_HAND:
                    raise FederationError(f"{self.path}: row {number} ({row.get('event')}) has lost its seal")
                continue
            seals += 1
            if key is not None and not hmac.compare_digest(str(row["seal"]), _seal(key, row["hash"])):
                raise FederationError(
                    f"{self.path}: the seal of row {number} is wrong: it was changed, or this is not the identity that wrote it"
                )
        if key is not None and not seals and any(row["event"] not in BY_HAND for row in rows):
            raise FederationError(
                f"{self.path}: no row has a seal: all were removed, or written while no identity was at hand"
            )
        self._check_known(known, rows)
        head: dict[str, Any] = rows[-1] if rows else {"n": 0, "hash": ""}
        first = int(rows[0]["n"]) if rows else 0
        return Verified(first, int(head["n"]), str(head["hash"]), tuple(unsealed), key is not None)

    def _check_known(self, known: str, rows: list[dict[str, Any]]) -> None:
        if not known:
            return
        number, _, beginning = known.partition(":")
        if not number.isdigit() or len(beginning) < 8:
            raise FederationError(
                f"{known[:80]!r} is nothing that was written down: NUMBER:HASH, as the last check showed"
            )
        found = [row for row in rows if row["n"] == int(number)]
        if rows and int(number) < rows[0]["n"]:
            raise FederationError(
                f"row {number} is so old that it was removed: the oldest that is kept is {rows[0]['n']}"
            )
        if not found or not str(found[0]["hash"]).startswith(beginning):
            raise FederationError(
                f"{self.path}: row {number} is not what was written down: the log was cut off or replaced"
            )

    def _strict(self, path: Path) -> list[dict[str, Any]]:
        """Return all rows of a file; half a line is allowed where a process died while it wrote."""
        rows = []
        with explained(path, "read"):
            lines = path.read_bytes().splitlines()
        for line in lines:
            try:
                row = parse_json(line)
                rows.append({"before": "", **row})
                int(row["n"])
            except (ValueError, TypeError, KeyError):
                if line.strip() and not line.startswith(b'{"n": '):  # not what a process left that died while it wrote
                    raise FederationError(f"{path}: a line in it is no row of a log: it was changed") from None
        return rows


def coordinator_log(home: Path, key: Path | None = None) -> SecurityLog:
    """Return a coordinator's security log; its key is made with it, for a copy to be kept elsewhere.

    Parameters
    ----------
    home
        The coordinator's folder.
    key
        A copy of ``log.key``, to check with.
    """
    log, own = home / "security.jsonl", home / "log.key"

    def secret() -> bytes:
        if key is None and not own.exists():
            if log.exists():
                raise FileError(
                    f"{own} is missing, which seals {log.name}: put it back, or put {log.name} aside and note why"
                )
            try:
                write_atomic(own, secrets.token_bytes(32), mode=0o600)
            except FileError:
                if not own.exists():  # else another process was quicker
                    raise
        with explained(key or own, "read"):
            content = (key or own).read_bytes()
        if len(content) != 32:
            raise FileError(f"{key or own} is no key of a log: it has {len(content)} bytes, not 32")
        return content

    return SecurityLog(log, secret)


def _hash(row: dict[str, Any]) -> str:
    content = {name: value for name, value in row.items() if name not in ("hash", "seal")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _seal(key: bytes, digest: str) -> str:
    return hmac.digest(key, digest.encode(), "sha256").hex()


def _said(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("n", "time", "before", "hash", "seal")}


def _plain(value: Any) -> Any:
    """Return what strangers wrote without control characters, and not longer than a line."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "?" for c in value[:500])
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
