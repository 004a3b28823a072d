"""What a site's folder tells of the runs that were offered there."""

from __future__ import annotations

from infl.deploy.results import is_written
from infl.deploy.site_folder import SiteFolder


def runs_of(site_folder: SiteFolder) -> list[str]:
    """Return a line for each run that was offered: its task, and how far it came here."""
    rows = []
    for folder in site_folder.runs():
        agreement = site_folder.agreement(folder)
        last = max((int(row["round"]) for row in site_folder.ledger(folder)), default=0)
        state = "finished" if is_written(folder) else "begun" if (folder / "accepted").exists() else "offered"
        rows.append(f"run {folder.name[:12]}: {agreement.task}, {state}, round {last} of {agreement.rounds}")
    return rows
