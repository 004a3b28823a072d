"""Folders of runs and studies: what they may be called, that one process at a time works in them, and which one does."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from infl._files import explained, parse_json
from infl.errors import FileError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a run or a study may be called, and so its folder."""
WAIT = 20.0
"""Seconds that a process of an earlier attempt, whose parent is gone, may take to notice."""


@contextmanager
def alone(folder: Path, *, wait: float | None = None, doing: str = "") -> Iterator[None]:
    """Hold a folder that two processes must never write to; one that still has it is given some seconds to end.

    Parameters
    ----------
    folder
        Gets a file ``lock``, in which stands which process has it, for :func:`holder`.
    wait
        Seconds that another process may take to end.
    doing
        What the process does there.

    Raises
    ------
    FileError
        Another process has it.
    """
    with explained(folder / "lock", "open"), (folder / "lock").open("a+") as handle:
        if not _locked(handle, WAIT if wait is None else wait):
            raise FileError(f"{folder} is in use by another process: wait until it has ended")
        _write(handle, json.dumps({"pid": os.getpid(), "began": _began(os.getpid()), "doing": doing}))
        try:
            yield
        finally:
            _write(handle, "")


def holder(folder: Path) -> str | None:
    """Return what the process that holds a folder now said to :func:`alone` about its work; None where none holds it.

    The lock itself is not tried: whoever wants it at that moment would not get it.
    """
    try:
        held = parse_json((folder / "lock").read_text())
        return held["doing"] if _began(held["pid"]) == held["began"] > 0 else None
    except (OSError, ValueError, TypeError, KeyError):  # nobody ever had it, or it is being written
        return None


def _began(pid: int) -> float:
    """Return when a process began, since a later process may have its number; 0 if there is none.

    Linux counts from the start of the machine: when its clock is set, that stays.
    """
    if sys.platform == "linux":
        try:
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return 0.0 if state == "Z" else float(fields[18])  # see proc_pid_stat(5)
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def _write(handle: IO[str], content: str) -> None:
    with suppress(OSError):  # on a full disk the lock holds all the same
        handle.truncate(0)
        handle.write(content)
        handle.flush()


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


def age(seconds: float) -> str:
    """Return a duration in words, as exact as it matters.

    Examples
    --------
    >>> age(0.4), age(95), age(7200), age(200_000)
    ('0 s', '1 min', '2 h', '2 d')
    """
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
