"""What is given to FLARE to start an attempt: two small configuration files, and no code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl.deploy.flare import CONTROLLER_CLASS, EXECUTOR_CLASS
from infl.deploy.remote import Patience

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement

APP = "infl"


def write_job(
    folder: Path,
    run: str,
    sites: Sequence[str],
    *,
    min_sites: int,
    patience: Patience,
    agreement: Agreement | None = None,
) -> Path:
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
    agreement
        The specification, where the coordinator does not have it yet.
    """
    config = folder / APP / "config"
    config.mkdir(parents=True, exist_ok=True)
    meta = {
        "name": run,
        "min_clients": min_sites,
        "resource_spec": {},
        "deploy_map": {APP: ["server", *sites]},
    }
    arguments: dict[str, Any] = {"run": run, "patience": asdict(patience)}
    if agreement is not None:
        arguments["agreement"] = agreement.to_json()
    server = {"format_version": 2, "workflows": [{"id": "infl", "path": CONTROLLER_CLASS, "args": arguments}]}
    executor = {"tasks": ["infl"], "executor": {"path": EXECUTOR_CLASS, "args": {}}}
    client = {"format_version": 2, "executors": [executor]}
    for path, content in (
        (folder / "meta.json", meta),
        (config / "config_fed_server.json", server),
        (config / "config_fed_client.json", client),
    ):
        path.write_text(json.dumps(content, indent=1))
    return folder
