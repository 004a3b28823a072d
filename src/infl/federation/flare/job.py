"""What is given to FLARE to start an attempt: two small configuration files, and no code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from infl.federation.flare import CONTROLLER, EXECUTOR
from infl.federation.remote import Patience

APP = "infl"


def write_job(folder: Path, run: str, sites: Sequence[str], *, min_sites: int, patience: Patience) -> Path:
    """Write a job that makes one attempt at a run.

    Parameters
    ----------
    folder
        Where to write it.
    run
        Name of the run.
    sites
        Sites that are up now: those that are not would keep the job waiting.
    min_sites
        Fewest sites that must be able to start.
    patience
        For the coordinator.
    """
    config = folder / APP / "config"
    config.mkdir(parents=True, exist_ok=True)
    meta = {
        "name": run,
        "min_clients": min_sites,
        "resource_spec": {},
        "deploy_map": {APP: ["server", *sites]},
    }
    server = {
        "format_version": 2,
        "workflows": [{"id": "infl", "path": CONTROLLER, "args": {"run": run, "patience": asdict(patience)}}],
    }
    executor = {"tasks": ["infl"], "executor": {"path": EXECUTOR, "args": {}}}
    client = {"format_version": 2, "executors": [executor]}
    for path, content in (
        (folder / "meta.json", meta),
        (config / "config_fed_server.json", server),
        (config / "config_fed_client.json", client),
    ):
        path.write_text(json.dumps(content, indent=1))
    return folder
