"""Kills a participant's process at a named point of the code, slows it down, or spoils its disk or network; for `faults.py`.

Python imports this at the start of every process that has the folder on its path. The folder INFL_FAULTS says what to do:
a file named like a participant has the points at which something happens to its process, one a line, each once and in this order;
``slow`` is there while a round of training takes longer; ``network`` has the seconds by which everything that is sent is late,
and the share that is lost and sent again.
"""

import importlib.abc
import importlib.util
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

POINTS = {
    "infl.deploy.site_folder": ("SiteFolder.prepare", "SiteFolder.finish"),
    "infl.federation.site": ("Site.handle", "Site._compute", "Site._reveal"),
    "infl.federation.training": ("Trainer.judge", "Trainer.update"),
    "infl.models.classifier": ("Classifier.loss",),
    "infl.deploy.site_worker": ("SiteWorker._say",),
    "infl.federation.replica": ("Replica.catch_up",),
    "infl._files": ("_place",),
    "infl.deploy.remote": ("RemoteTransport.offer", "RemoteTransport._put"),
    "infl.federation.coordinator": ("Coordinator._exchange", "Coordinator._uncover"),
    "infl.federation.gathered": ("Gathered.take",),
    "infl.federation.checkpoint": ("Checkpoint.save_progress",),
    "infl.privacy.seal.ledger": ("Ledger.record_reveal", "Ledger.record"),
    "infl.privacy.register.file": ("RegisterFile.append",),
    "infl.deploy.study.consent": ("SiteStudies.prepare",),
    "infl.deploy.study.site": ("StudySite.run", "StudySite._step"),
    "infl.deploy.study.channel": ("StudyChannel.add", "StudyChannel.agree"),
    "infl.deploy.study.working": ("WorkingObject.drawn", "WorkingObject.write", "WorkingObject.keep"),
    "infl.deploy.study.matrices": ("_write",),
    "infl.deploy.study.worker": ("StudyWorker._exchange",),
    "infl.deploy.study.heard": ("HeardFile.add",),
    "infl.deploy.study.desk": ("Desk._forget_before",),
    "infl.deploy.study.attempt": ("StudyTransport.tell", "StudyAttempt._work"),
    "infl.deploy.run_attempt": ("RunFolder.record", "RunAttempt._delivered"),
    "nvflare.fuel.f3.drivers.socket_conn": ("SocketConnection.send_frame",),
}
FOLDER = Path(os.environ.get("INFL_FAULTS", "/nonexistent"))
RESEND = 0.4
"""Seconds after which a lost packet is sent again, twice the way there and back."""


def kit() -> Path | None:
    """Return the kit of this process's participant."""
    arguments = Path("/proc/self/cmdline").read_text().split("\0")
    return next((Path(a) for a in arguments if a.endswith("/kit")), None)


def about(values: tuple) -> str:
    """Return what a call is about: kinds of plans and exchanges, names of classes and files, numbers of steps and exchanges."""
    return " ".join(word for value in values[:3] for word in words_of(value))


def words_of(value: object) -> list[str]:
    if isinstance(value, str | int):
        return [value if isinstance(value, str) else f"step={value}"]
    words = [str(getattr(value, "kind", "")), type(value).__name__, str(getattr(value, "name", ""))]
    file, step = getattr(value, "path", None), getattr(value, "step", getattr(value, "_step", None))
    return [*words, file.name if isinstance(file, Path) else "", f"step={step}" if isinstance(step, int) else ""]


def reached(name: str, when: str, values: tuple) -> None:
    """Do what is to be done here, if it is due."""
    order = FOLDER / KIT.parent.name
    try:
        due, *later = order.read_text().splitlines()
        point, moment, words, *what = due.split("|")
    except (OSError, ValueError):
        return
    if (point, moment) == (name, when) and re.search(words, about(values)):
        if later:
            order.write_text("\n".join(later))
        else:
            order.unlink()
        DEEDS[what[0] if what else "die"]()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    """Leave no byte free on the disk that the participant's runs are on."""
    with (KIT.parent / "runs" / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 12)):
                pass
        except OSError:
            pass


def back_up() -> None:
    for run in (KIT.parent / "runs").iterdir():
        shutil.copytree(run, FOLDER / "backup" / run.name)


def put_back() -> None:
    """Die, with the participant's runs as they were."""
    for run in (FOLDER / "backup").iterdir():
        shutil.rmtree(KIT.parent / "runs" / run.name)
        shutil.copytree(run, KIT.parent / "runs" / run.name)
    shutil.rmtree(FOLDER / "backup")
    die()


def wait() -> None:
    """Say that this place is reached, and stay until somebody kills the process or takes the word back."""
    said = FOLDER / "reached"
    said.write_text(KIT.parent.name)
    while said.exists():
        time.sleep(0.01)


DEEDS = {"wait": wait, "die": die, "fill": fill, "back up": back_up, "put back": put_back}


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
        elif name == "Trainer.update" and (FOLDER / "slow").exists():
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


if FOLDER.is_dir() and (KIT := kit()):
    sys.meta_path.insert(0, Finder())
