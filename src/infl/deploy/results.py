"""What a finished run leaves in its folder at a site: the locked model, history, ledger and privacy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from infl._files import explained, parse_json, write_atomic
from infl.federation.descriptions import with_descriptions
from infl.federation.run import FederatedRun
from infl.privacy.seal.ledger import LEDGER_TEXT_COLUMNS

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement
    from infl.federation.site import Site
    from infl.keys import Keyring


def write_result(folder: Path, site: Site) -> Path:
    """Write the locked model, history and ledger; return the model's path.

    Where weights or moments stay at the sites, this site's whole model goes beside the shared one.
    """
    assert site.ledger is not None
    run = FederatedRun.of(site.replica, site.ledger.frame().assign(site=site.name))
    model = folder / "model.infl.safetensors"
    run.save(model, overwrite=True).chmod(0o600)
    if (own := site.own_model()) is not None:
        own.save(folder / "own_model.infl.safetensors", overwrite=True).chmod(0o600)
    derived = ["sum", "says"]  # follow from the task: the file has what the site wrote down
    for name, table in (("history", run.history), ("ledger", run.ledger.drop(columns=derived))):
        write_private(folder / f"{name}.csv", table.to_csv(index=name == "history").encode())
    write_private(folder / "privacy.json", json.dumps(run.privacy).encode())  # last: says it is all there
    return model


def is_written(folder: Path) -> bool:
    """Whether all of a result is there."""
    return (folder / "privacy.json").exists()


def read_result(folder: Path, agreement: Agreement, key: Keyring | None, site: str) -> FederatedRun:
    """Return what :func:`write_result` wrote at a site."""
    import pandas as pd

    from infl.models import load_model

    with explained(folder, "read"):
        model = load_model(folder / "model.infl.safetensors")
        history = pd.read_csv(folder / "history.csv", index_col="round")
        ledger = pd.read_csv(folder / "ledger.csv", dtype=dict.fromkeys(LEDGER_TEXT_COLUMNS, str))
        privacy = parse_json((folder / "privacy.json").read_text())
        own = folder / "own_model.infl.safetensors"
        site_models = {site: load_model(own)} if own.exists() else {}
        ledger = with_descriptions(ledger, model.header.build_task(), agreement.panel)
    return FederatedRun(model, key, history, agreement.settings(), ledger, privacy, site_models)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only the site's own user can read."""
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, content, overwrite=True, mode=0o600)
