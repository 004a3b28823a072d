"""What left a site: an append-only list that is on disk before anything is sent, and survives kill −9.

Each line is JSON with the digest of the line before and an HMAC under a key of the site's own (in one process: the ring's
ledger subkey): a line that was changed, removed or moved is noticed. The last line may be torn by a crash; it was then not
sent, and is dropped. What cannot be noticed is a whole ledger put back to an earlier state: keep it where only the site's
own process writes. Between machines no mask is used twice even then, see :mod:`pairwise`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from infl._files import parse_json, sync_folder
from infl.errors import FileError, KeyringError, SealError
from infl.privacy.seal.context import Context, MaskedArrays
from infl.privacy.seal.reveal import list_digest

if TYPE_CHECKING:
    import pandas as pd

FIRST = b'{"time": "'
"""How every line begins."""
LEDGER_COLUMNS = ("time", "run", "kind", "round", "attempt", "cohort", "bytes", "sealed", "context", "digest")
LEDGER_TEXT_COLUMNS = ("time", "run", "kind", "context", "digest", "site")
"""Read as text from a CSV file: hexadecimal digits may look like a number ("12345e67"), and pandas 2.3's parser crashes on
some that do."""


class Ledger:
    """A site's record of what it sent; it makes a site send one message per exchange, and no second one.

    Parameters
    ----------
    path
        File (None: in memory). One process at a time may have it.
    key
        Subkey of the site's identity, or of the ring where all sites are in one process.
    run
        Refuse a file with entries of another run (None: any runs).

    Raises
    ------
    FileError
        The file is damaged, belongs to another key or run, or is in use.

    Examples
    --------
    >>> import infl, numpy
    >>> ledger = infl.privacy.seal.Ledger(None, key=bytes(32))
    >>> context = Context("run", 1, 0, ("a", "b", "c"), "train", "")
    >>> ledger.record(context, MaskedArrays(numpy.zeros(3, numpy.uint32), numpy.zeros(1, numpy.uint64)), sealed=True)
    >>> ledger.frame()[["kind", "round", "bytes", "sealed"]].values.tolist()
    [['train', 1, 20, True]]
    """

    def __init__(self, path: str | Path | None, key: bytes, *, run: str | None = None) -> None:
        self.path, self._key, self._run = None if path is None else Path(path), key, run
        self.entries: list[dict[str, Any]] = []
        self._sent: dict[str, str] = {}
        self._chain = "0" * 64
        self._handle: int | None = None
        if self.path is not None:
            self._open(self.path)

    def record(self, context: Context, words: MaskedArrays, *, sealed: bool) -> None:
        """Write down a message before it is sent.

        The same message for the same exchange may be sent again and is written once.

        Raises
        ------
        SealError
            Another message was recorded for this exchange: two under one mask would reveal their difference.
        FileError
            It cannot be written; nothing may be sent.
        """
        why = (
            f"refused: another message was already sealed for round {context.round}, attempt {context.attempt} of this run; "
            "a second one under the same masks would give both away"
        )
        what = (context.run, context.kind, context.round, context.attempt, len(context.cohort), words.nbytes, sealed)
        self._enter(what, context.digest().hex(), words.digest(), why)

    def record_reveal(self, seq: int, context: Context, answered: Sequence[str], n_bytes: int) -> None:
        """Write down what is given to take the pairwise masks off one sum of an exchange, before it is sent.

        Raises
        ------
        SealError
            It was given for another sum of this exchange: two would reveal their difference.
        FileError
            It cannot be written; nothing may be sent.
        """
        why = (
            f"refused: the masks were taken off another sum of exchange {seq} already; two would give single sites away"
        )
        what = (context.run, f"{seq}:reveal", context.round, context.attempt, len(context.cohort), n_bytes, True)
        self._enter(what, _once("reveal", context.run, seq), list_digest(context, answered).hex(), why)

    def revealed(self, run: str, seq: int) -> bool:
        """Whether something was given to open a sum of this exchange."""
        return _once("reveal", run, seq) in self._sent

    def record_other(self, run: str, seq: int, kind: str, content: bytes = b"") -> None:
        """Write down, once an exchange, a message with nothing of the data: a public key, a refusal, a name.

        No mask is used up by it, so a power cut may take the last of these lines; a sum's line has them on disk with it.
        """
        digest = hashlib.sha256(content).hexdigest()
        what = (run, f"{seq}:{kind}", 0, 0, 0, len(content), True)
        self._enter(what, _once(kind, run, seq, digest), digest, "", sync=False)

    def _enter(self, what: tuple[object, ...], exchange: str, digest: str, why: str, *, sync: bool = True) -> None:
        known = self._sent.get(exchange)
        if known is not None and known != digest:
            raise SealError(why)
        if known is not None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = dict(zip(LEDGER_COLUMNS, (now, *what, exchange, digest), strict=True))
        self._append(entry, sync=sync)
        self.entries.append(entry)
        self._sent[exchange] = digest

    def frame(self) -> pd.DataFrame:
        """Return the ledger as a table: time (UTC), run, kind, round, attempt, cohort, bytes, sealed, digests."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(LEDGER_COLUMNS))

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of :meth:`frame`."""
        return [entry | {"kind": _kind(str(entry["kind"]))} for entry in self.entries]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise KeyringError("a ledger holds a secret and is not pickled or copied: open its file again")

    def close(self) -> None:
        """Let another process have the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

    # -- file ------------------------------------------------------------------------------------------------------
    def _open(self, path: Path) -> None:
        try:
            new = not path.exists()
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            _lock(self._handle)
            if new:
                sync_folder(path.parent)
            content = b""
            while part := os.read(self._handle, 1 << 20):
                content += part
        except BlockingIOError:
            raise FileError(f"ledger {path} is in use by another process: a site runs once at a time") from None
        except OSError as error:
            raise FileError.of(f"cannot open ledger {path}", error) from error
        whole, _, last = content.rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        for number, line in enumerate(lines, 1):
            self._read(path, number, line)
        if last:
            self._end(path, len(lines) + 1, last, len(content))

    def _end(self, path: Path, number: int, last: bytes, size: int) -> None:
        """Keep a last line that lacks only its newline; drop one that was torn; refuse what a torn line cannot be."""
        assert self._handle is not None
        try:
            parse_json(last)
            torn = False
        except ValueError:
            torn = last.startswith(FIRST) or FIRST.startswith(last)
        if not torn:
            self._read(path, number, last)
        try:
            if torn:
                os.ftruncate(self._handle, size - len(last))
            else:
                os.write(self._handle, b"\n")
            os.fsync(self._handle)
        except OSError as error:
            raise FileError.of(f"cannot mend ledger {path}", error) from error

    def _read(self, path: Path, number: int, line: bytes) -> None:
        try:
            raw = parse_json(line)
            mac = raw.pop("mac")
            good = raw["before"] == self._chain and hmac.compare_digest(mac, self._mac(raw))
            entry = {name: raw[name] for name in LEDGER_COLUMNS}
        except (ValueError, KeyError, TypeError, AttributeError):
            good = False
        if not good:
            raise FileError(
                f"ledger {path}, line {number}: altered, or written under another key; keep it and begin a new one"
            )
        if self._run is not None and entry["run"] != self._run:
            raise FileError(f"ledger {path} is of another run ({entry['run'][:40]}): give each run its own file")
        self.entries.append(entry)
        self._sent[entry["context"]] = entry["digest"]
        self._chain = hashlib.sha256(line).hexdigest()

    def _append(self, entry: dict[str, Any], *, sync: bool) -> None:
        if self._handle is None:
            return
        raw = entry | {"before": self._chain}
        line = json.dumps(raw | {"mac": self._mac(raw)}).encode()
        try:
            end = os.lseek(self._handle, 0, os.SEEK_END)
            written = 0
            while written < len(line) + 1:
                written += os.write(self._handle, (line + b"\n")[written:])
            if sync:
                os.fsync(self._handle)
        except OSError as error:
            with suppress(OSError):  # then the torn line is dropped when the file is opened again
                os.ftruncate(self._handle, end)
            raise FileError.of(f"cannot write ledger {self.path}", error, "; nothing was sent") from error
        self._chain = hashlib.sha256(line).hexdigest()

    def _mac(self, raw: dict[str, Any]) -> str:
        return hmac.new(self._key, json.dumps(raw, sort_keys=True).encode(), "sha256").hexdigest()


def _kind(kind: str) -> str:
    """Return what was summed, without the exchange's number.

    Examples
    --------
    >>> _kind("3:train"), _kind("train")
    ('train', 'train')
    """
    return kind.partition(":")[2] or kind


def _once(*what: object) -> str:
    return hashlib.sha256("\n".join(map(str, what)).encode()).hexdigest()


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
