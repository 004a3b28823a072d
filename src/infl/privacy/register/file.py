"""The file of a register, which is only ever added to, each line with the digest of all lines before; and the site's secret."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from infl._files import explained, locked, parse_json, write_atomic
from infl.errors import FileError

_NO_HEAD = "0" * 32


class RegisterFile:
    """The lines of a register.

    Parameters
    ----------
    folder
        Where it is kept, made if it is missing. None: in memory.
    replay
        Takes each line that is read.
    """

    def __init__(self, folder: Path | None, replay: Callable[[dict[str, Any]], None]) -> None:
        self.folder, self.head = folder, _NO_HEAD
        self.heads = {_NO_HEAD}
        self._replay = replay
        self._n_lines, self._n_bytes = 0, 0  # that were read or written
        self._secret = os.urandom(32) if folder is None else self._opened(folder)

    def digest(self, name: str) -> str:
        """Return the digest of a name under the site's secret."""
        return hashlib.blake2b(name.encode(), key=self._secret, digest_size=16, person=b"infl register").hexdigest()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep other processes of the site away, and yield whether they have written something since."""
        if self.folder is None:
            yield False
            return
        with locked(self.folder):
            head = self.head
            self._catch_up(self.folder)
            yield self.head != head

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write lines, all of them or none; they are on disk when this returns, which needs the file :meth:`alone`.

        Raises
        ------
        FileError
            They cannot be written; nothing may be sent.
        """
        head, lines, heads = self.head, [], []
        for entry in entries:
            head = _next_head(head, entry)
            heads.append(head)
            lines.append((json.dumps(entry | {"head": head}) + "\n").encode())
        content = b"".join(lines)
        if self.folder is not None:
            with explained(_lines_of(self.folder), "write"):
                self._append(_lines_of(self.folder), content)
        self.heads.update(heads)
        self.head, self._n_lines, self._n_bytes = head, self._n_lines + len(lines), self._n_bytes + len(content)

    def _append(self, path: Path, content: bytes) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        except OSError:
            with suppress(OSError):  # half a line would make the file a damaged one
                os.ftruncate(handle, self._n_bytes)
            raise
        finally:
            os.close(handle)

    def _opened(self, folder: Path) -> bytes:
        """Make the folder, or read what it has, and return the secret."""
        with explained(folder, "make"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / "secret"
        with locked(folder), explained(path, "read"):
            if not path.exists():
                if _lines_of(folder).exists():
                    raise FileError(
                        f"{path} is missing, and without it no record is known again: restore it from a backup"
                    )
                write_atomic(path, os.urandom(32), mode=0o600)
            secret = path.read_bytes()
            self._catch_up(folder)
        return secret

    def _catch_up(self, folder: Path) -> None:
        """Read what was written since the file was read last."""
        path = _lines_of(folder)
        if not path.exists():
            return
        with explained(path, "read"), path.open("rb") as file:
            file.seek(self._n_bytes)
            content = file.read()
        for line in content.splitlines(keepends=True):
            try:
                self._take(parse_json(line))
            except (ValueError, KeyError, TypeError, IndexError):
                raise FileError(
                    f"{path}, line {self._n_lines + 1} is damaged: restore the file from a backup"
                ) from None
            self._n_lines, self._n_bytes = self._n_lines + 1, self._n_bytes + len(line)

    def _take(self, entry: dict[str, Any]) -> None:
        head = entry.pop("head")
        if head != _next_head(self.head, entry):
            raise ValueError
        self.head = head
        self.heads.add(head)
        self._replay(entry)


def _lines_of(folder: Path) -> Path:
    return folder / "register.jsonl"


def _next_head(head: str, entry: dict[str, Any]) -> str:
    return hashlib.sha256((head + json.dumps(entry, sort_keys=True)).encode()).hexdigest()[:32]
