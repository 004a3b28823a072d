"""What is true of a run or study at the coordinator now: by its processes, by how old its status is, and only then by what that says."""

from __future__ import annotations

import time
from dataclasses import dataclass

from infl.deploy.attempt import BEAT, FINAL_STATES, REQUEST_STOP, AttemptFolder, Status
from infl.deploy.folders import age, holder

STALE = 6 * BEAT
"""Seconds after which what an attempt wrote last says nothing of now."""


@dataclass(frozen=True)
class Condition:
    """What is true of a run now.

    Attributes
    ----------
    status
        What was written last.
    attended
        Whether a process of the coordinator works for it.
    fresh
        Whether what the status says of sites is of now.
    over
        Whether it goes on only when a person does something.
    words
        One line: what it is, and what to do where something is.
    """

    status: Status
    attended: bool
    fresh: bool
    over: bool
    words: str


def condition(run: AttemptFolder, *, now: float | None = None) -> Condition:
    """Return what is true of a run now (`now`: seconds since 1970)."""
    status, now = run.status, time.time() if now is None else now
    held = holder(run.folder.parent.parent)
    under_way = status.state in ("offered", "running")
    fresh = held is not None and under_way and now - status.updated < STALE  # a notebook's run has the server to itself
    attended = fresh or held == run.folder.name
    where = f"{run.unit} {status.round} of {status.rounds}, attempt {status.attempts}"
    over = status.state in FINAL_STATES or (not attended and run.requested == REQUEST_STOP)
    return Condition(status, attended, fresh, over, _words(run, status, attended, fresh, where, now))


def _words(run: AttemptFolder, status: Status, attended: bool, fresh: bool, where: str, now: float) -> str:
    last = f"last heard of {age(now - status.updated)} ago" if status.updated else "never heard of"
    if status.state in FINAL_STATES:
        return f"{status.state}, {where}"
    if not attended and run.requested == REQUEST_STOP:
        return f"stopped, {where}: `infl {run.what} resume {run.folder.name}` goes on"
    if not attended:
        return f"not running, {where}: no process works for it, {last}; start it again, it goes on"
    if status.state in ("offered", "running"):
        return f"{status.state}, {where}" + ("" if fresh else f": its job does not answer, {last}")
    if status.waits:
        return f"waits {status.waits}; for {age(now - status.since)}, {where}"
    return f"{status.state}, {where}"
