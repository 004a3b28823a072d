"""Logs of infl's own: one JSON object per line, numbered, in files that stay small; the oldest go.

Several processes may write to one: a site's job, its terminal and its commands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infl._files import explained, locked, parse_json

LARGEST, KEPT = 5 << 20, 3
"""Bytes of a file, and how many older ones are kept beside it."""
TAIL = 1 << 16
"""Bytes at the end of a file in which its last row is looked for; no row is longer."""


class Journal:
    """A log.

    Parameters
    ----------
    path
        The newest file; older ones are ``NAME.1``, ``NAME.2``, …
    largest, kept
        Bytes of a file before the next one is begun, and how many older ones stay.

    Examples
    --------
    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "events.jsonl")
    >>> journal.append({"event": "first"}), journal.append({"event": "second"})
    (1, 2)
    >>> [row["event"] for row in journal.rows(after=1)]
    ['second']
    """

    def __init__(self, path: Path, *, largest: int = LARGEST, kept: int = KEPT) -> None:
        self.path, self.largest, self.kept = path, largest, kept

    def append(self, row: Mapping[str, Any]) -> int:
        """Add a row, with its number and the time; return the number, which grows by one with each row.

        Raises
        ------
        FileError
            It could not be written; nothing half-written stays.
        """
        with explained(self.path, "write to"), locked(self.path.parent, f".{self.path.name}.lock"):
            last = self._last()
            if last is not None and self.path.exists() and self.path.stat().st_size > self.largest:
                self._rotate()
            whole = {"n": 1 if last is None else last["n"] + 1, "time": now()} | dict(row)
            self._write(json.dumps(self.completed(whole, last), ensure_ascii=False) + "\n")
        return int(whole["n"])

    def completed(self, row: dict[str, Any], last: dict[str, Any] | None) -> dict[str, Any]:
        """Return a row as it is written, after the last one that is there."""
        return row

    def rows(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Return what is there, oldest first, whose number is greater; a line that a crash left half-written is left out."""
        return [row for path in self.files() for row in _read(path) if row["n"] > after]

    def last(self) -> int:
        """Return the number of the last row; 0 where there is none."""
        last = self._last()
        return 0 if last is None else int(last["n"])

    def files(self) -> list[Path]:
        """Return the files that are there, oldest first."""
        return [path for path in (*(self._older(i) for i in range(self.kept, 0, -1)), self.path) if path.exists()]

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _rotate(self) -> None:
        for number in range(self.kept, 1, -1):
            if self._older(number - 1).exists():
                self._older(number - 1).replace(self._older(number))
        self.path.replace(self._older(1))

    def _last(self) -> dict[str, Any] | None:
        for path in reversed(self.files()):
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                found = _parsed(file.read())
            if found:
                return found[-1]
        return None

    def _write(self, line: str) -> None:
        """Append a line in one step; after half a line of a crash, on a line of its own."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            broken = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            content = (b"\n" if broken else b"") + line.encode()
            try:
                written = os.write(handle, content)
            except OSError:
                os.ftruncate(handle, size)
                raise
            if written < len(content):
                os.ftruncate(handle, size)
                raise OSError(28, "No space left on device")
        finally:
            os.close(handle)


def now() -> str:
    """Return the time as logs have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def bound(log: Path, *, largest: int = LARGEST) -> None:
    """Put aside what is in a log that another process appends to, if it has grown large; what was put aside before goes.

    The process has the file open, so it is emptied and not renamed.
    """
    try:
        if log.stat().st_size <= largest:
            return
        older = log.with_name(f"{log.name}.1")
        with log.open("rb") as source, older.open("wb") as copy:
            source.seek(-largest, os.SEEK_END)  # a log that grew at once is not copied whole
            copy.write(source.read(largest))
        os.truncate(log, 0)
    except FileNotFoundError:
        return


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:  # it went to the next number meanwhile
        return []


def _parsed(content: bytes) -> list[dict[str, Any]]:
    rows = []
    for line in content.splitlines():
        try:
            row = parse_json(line)
        except ValueError:  # half a line
            continue
        if isinstance(row, dict) and isinstance(row.get("n"), int):
            rows.append(row)
    return rows
