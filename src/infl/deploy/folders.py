"""Folders of runs and studies: what they may be called, and that one process at a time works in them."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from infl._files import explained
from infl.errors import FileError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a run or a study may be called, and so its folder."""
WAIT = 20.0
"""Seconds that a process of an earlier attempt, whose parent is gone, may take to notice."""


@contextmanager
def alone(folder: Path, *, wait: float | None = None) -> Iterator[None]:
    """Hold a folder that two processes must never write to; one that still has it is given some seconds to end.

    Raises
    ------
    FileError
        Another process has it.
    """
    with explained(folder / "lock", "open"), (folder / "lock").open("a+") as handle:
        if not _locked(handle, WAIT if wait is None else wait):
            raise FileError(f"{folder} is in use by another process: wait until it has ended")
        yield


def _locked(handle: IO[str], wait: float) -> bool:
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
