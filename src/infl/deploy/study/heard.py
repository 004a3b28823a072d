"""What a coordinator sent to the sites in a step of a study: one file per step, which is only ever added to.

A record that only its sites can say again is on disk before anybody gets it. A sum follows from what sites say again, byte by byte,
so it may be lost with the machine's power. A record that was cut off counts as not there, and those after it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import suppress
from pathlib import Path

from infl._files import explained, sync_folder

_HEAD = struct.Struct(">QQ16s")  # number of the exchange, bytes and digest of what was sent


class HeardFile:
    """What was sent in the exchanges of a step, by their number.

    Parameters
    ----------
    path
        Of the file; it is made when something is sent.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     told = HeardFile(Path(folder) / "0000.heard")
    ...     told.add(0, b"to all")
    ...     HeardFile(Path(folder) / "0000.heard").read(0)
    b'to all'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at: dict[int, tuple[int, int]] = {}
        self._size = 0
        if path.exists():
            with explained(path, "read"):
                self._open()

    @property
    def numbers(self) -> list[int]:
        """Exchanges that were answered."""
        return [*self._at]

    def read(self, number: int) -> bytes:
        """Return what was sent in an exchange."""
        start, size = self._at[number]
        with explained(self.path, "read"), self.path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def add(self, number: int, content: bytes, *, sync: bool = True) -> None:
        """Write what is sent in an exchange; `sync`: it is on disk when this returns, with all that was written before."""
        record = _HEAD.pack(number, len(content), _digest(number, content)) + content
        with explained(self.path, "write"):
            new = not self.path.exists()
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                if os.fstat(handle).st_size > self._size:  # what was cut off; who only reads leaves it
                    os.ftruncate(handle, self._size)
                view = memoryview(record)
                while view:
                    view = view[os.write(handle, view) :]
                if sync:
                    os.fsync(handle)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, self._size)
                raise
            finally:
                os.close(handle)
            if new:
                sync_folder(self.path.parent)
        self._at[number] = (self._size + _HEAD.size, len(content))
        self._size += len(record)

    def remove(self) -> None:
        """Forget all of it."""
        self.path.unlink(missing_ok=True)

    def _open(self) -> None:
        with self.path.open("rb") as file:
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                number, size, digest = _HEAD.unpack(head)
                content = file.read(min(size, self.path.stat().st_size))
                if len(content) < size or _digest(number, content) != digest:
                    break
                self._at[number] = (self._size + _HEAD.size, size)
                self._size += _HEAD.size + size


def _digest(number: int, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16, salt=struct.pack(">Q", number)).digest()
