"""What FLARE leaves in a kit for each job: removed when the job is over, so that attempts do not fill a disk."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OVER = 600.0
"""Seconds after which a job that no process works on is over."""
FAILED = 10
"""How many folders of jobs with errors in their logs are kept, the newest."""


def clear_jobs(kit: Path, *, now: float | None = None) -> None:
    """Remove the folders of jobs that are over from a participant's kit; of those with errors the newest stay."""
    now, failed = time.time() if now is None else now, list[tuple[float, Path]]()
    found = [p for place in (kit, kit / "jobs") for p in place.glob("*") if JOB.fullmatch(p.name) and p.is_dir()]
    busy = _commands() if found else ""
    for folder in found:
        changed = max((p.stat().st_mtime for p in (folder, *folder.glob("*")) if p.exists()), default=0.0)
        if folder.name in busy or now - changed < OVER:
            continue
        log = folder / "error_log.txt"
        if log.exists() and log.stat().st_size:
            failed.append((changed, folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for _, folder in sorted(failed)[:-FAILED]:
        shutil.rmtree(folder, ignore_errors=True)


def _commands() -> str:
    """Return the command lines of all processes: FLARE's name the job."""
    import psutil

    return "\n".join(" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
