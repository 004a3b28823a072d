"""Kills a participant's process at a named point of the code, slows it down, or spoils its network; for `faults.py`.

Python imports this at the start of every process that has the folder on its path. The folder INFL_FAULTS says what to do:
a file named like a participant has the point at which its process dies, once; ``slow`` has the seconds that a round of training
takes longer; ``network`` has the seconds by which everything that is sent is late, and the share that is lost and sent again.
"""

import importlib.abc
import importlib.util
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

POINTS = {
    "infl.federation.station": ("Station.prepare", "Station.finish"),
    "infl.federation.site": ("Site.handle", "Site._compute", "Site._judge", "Site._train"),
    "infl.models.classifier": ("Classifier.loss",),
    "infl.federation.resident": ("Resident._say",),
    "infl.federation.replica": ("Replica.catch_up",),
    "infl._files": ("_place",),
    "infl.federation.remote": ("RemoteTransport.offer", "RemoteTransport._put"),
    "infl.federation.coordinator": ("Coordinator._exchange", "Coordinator._check_answer"),
    "infl.federation.checkpoint": ("Checkpoint.keep_progress",),
    "infl.federation.attempt": ("RunFolder.record", "Attempt._delivered"),
    "nvflare.fuel.f3.drivers.socket_conn": ("SocketConnection.send_frame",),
}
FOLDER = Path(os.environ.get("INFL_FAULTS", "/nonexistent"))
RESEND = 0.4
"""Seconds after which a lost packet is sent again, twice the way there and back."""


def whose() -> str:
    """Return the participant of this process: the folder that its kit lies in."""
    arguments = Path("/proc/self/cmdline").read_text().split("\0")
    return next((Path(a).parent.name for a in arguments if a.endswith("/kit")), "")


def about(values: tuple) -> str:
    """Return what a call is about: kinds of plans and exchanges, names of classes and files."""
    words = [str(getattr(v, "kind", "")) + " " + type(v).__name__ + " " + getattr(v, "name", "") for v in values[:3]]
    return " ".join(words)


def reached(name: str, when: str, values: tuple) -> None:
    """Die if it is here that this process must."""
    order = FOLDER / ME
    try:
        point, moment, words = order.read_text().split("|")
    except (OSError, ValueError):
        return
    if (point, moment) == (name, when) and re.search(words, about(values)):
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def spoil(connection: object) -> None:
    """Send late; what is lost holds up what comes after it."""
    try:
        late, lost = map(float, (FOLDER / "network").read_text().split())
    except (OSError, ValueError):
        return
    if late < 0:
        connection.sock.shutdown(2)
    else:
        time.sleep(late + RESEND * (random.random() < lost))


def wrapped(name: str, function):
    def call(*values, **options):
        if name == "SocketConnection.send_frame":
            spoil(values[0])
        elif name == "Site._train" and (FOLDER / "slow").exists():
            time.sleep(0.2)
        reached(name, "before", values)
        result = function(*values, **options)
        reached(name, "after", values)
        return result

    return call


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and wraps the functions that are points."""

    def find_spec(self, name, path, target=None):
        if name not in POINTS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            for point in POINTS[name]:
                *owner, attribute = point.split(".")
                holder = getattr(module, owner[0]) if owner else module
                setattr(holder, attribute, wrapped(point, getattr(holder, attribute)))

        spec.loader.exec_module = exec_module
        return spec


if FOLDER.is_dir() and (ME := whose()):
    sys.meta_path.insert(0, Finder())
