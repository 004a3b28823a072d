"""A site's own machine: which data and key it uses, what it accepts, and what it keeps of each run.

The coordinator and its jobs name none of these files; they name the run.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl._files import explained, write_atomic
from infl._settings import settings as package_settings
from infl.deploy.folders import alone
from infl.deploy.policy import Policy
from infl.errors import DataError, FederationError, FileError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.descriptions import with_descriptions
from infl.federation.membership import Membership
from infl.federation.replica import Replica
from infl.federation.run import FederatedRun
from infl.federation.site import Site
from infl.privacy.account import Account
from infl.privacy.seal import Ledger
from infl.privacy.seal.ledger import TEXT_COLUMNS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from infl._types import Data
    from infl.keys import Keyring


@dataclass(frozen=True)
class SiteSettings:
    """What ``infl site start`` was given.

    Attributes
    ----------
    name
        As enrolled.
    data
        h5ad or h5mu file.
    key
        The site's key ring, empty for runs without one.
    identity
        The site's identity file: opens the ring, and shows in runs who it is (empty: the user's own).
    expects
        Digest of the specification in the site's own copy of ``run.toml`` (empty: the policy alone decides).
    stamp
        Size and time of the data file when it was named (empty: any).
    """

    name: str
    data: str
    key: str = ""
    identity: str = ""
    expects: str = ""
    stamp: str = ""


class Station:
    """A site's folder.

    Parameters
    ----------
    home
        Has ``site.json``, ``policy.toml``, ``runs`` and the kit.
    settings
        What the site would use, for checks that write nothing (None: what was kept).
    """

    def __init__(self, home: str | Path, settings: SiteSettings | None = None) -> None:
        self.home, self._settings = Path(home), settings

    @property
    def settings(self) -> SiteSettings:
        """What the site uses.

        Raises
        ------
        FileError
            Nothing was set yet.
        """
        if self._settings is not None:
            return self._settings
        path = self.home / "site.json"
        if not path.exists():
            raise FileError(f"{path} is missing: run `infl site start` with --data and --key first")
        with explained(path, "read"):
            return SiteSettings(**json.loads(path.read_text()))

    def keep(self, settings: SiteSettings) -> None:
        """Write down what the site uses; a run's file among it is a new yes."""
        (self.home / "approved" / "expected").unlink(missing_ok=True)
        _keep(self.home / "site.json", json.dumps(asdict(settings), indent=1).encode())

    @property
    def policy(self) -> Policy:
        """What the site accepts."""
        return Policy.read(self.home / "policy.toml")

    @property
    def account(self) -> Account:
        """What the site's records have been exposed to under differential privacy, over all runs."""
        policy = self.policy
        limits = {"epsilon": policy.lifetime_epsilon, "delta": policy.lifetime_delta}
        return Account(self.home / "account", **limits, colluders=policy.colluders)

    def _said_yes(self, agreement: Agreement) -> bool:
        """Whether a person did: by ``infl site approve``, or by naming the run's file at ``infl site start``."""
        approved, expects = self.home / "approved", self.settings.expects
        if (approved / agreement.digest).exists():
            return True
        if not expects or not is_specified(agreement, expects):
            return False
        taken = approved / "expected"
        return not taken.exists() or taken.read_text() == agreement.digest

    def run_folder(self, agreement: Agreement) -> Path:
        """Return where the site keeps what it has of a run, made if it is not there; its name is random, and only that."""
        if not re.fullmatch(r"[0-9a-f]{32}", agreement.run):
            raise FederationError(f"{self.settings.name}: the run has no random name; refused")
        folder, most = self.home / "runs" / agreement.run, self.policy.max_runs
        if not folder.exists() and len(list(folder.parent.glob("*"))) >= most:
            raise FederationError(
                f"{self.settings.name} refuses: {most} runs were offered, and its policy accepts no more"
            )
        with explained(folder, "make"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def hold(self, agreement: Agreement) -> AbstractContextManager[None]:
        """Keep other processes away from a run's folder."""
        return alone(self.run_folder(agreement))

    def approve(self, digest: str) -> str:
        """Say yes to a run that was offered, by its digest or the beginning of it; return the digest.

        Raises
        ------
        FederationError
            No such run was offered, or several.
        """
        offered = {self.agreement(folder).digest for folder in self.runs()}
        found = [d for d in offered if d.startswith(digest)]
        if len(found) != 1 or len(digest) < 8:
            raise FederationError(f"{len(found)} runs with digest {digest!r} were offered: give what the refusal says")
        folder = self.home / "approved"
        folder.mkdir(exist_ok=True)
        _keep(folder / found[0], b"")
        return found[0]

    def runs(self, beginning: str = "") -> list[Path]:
        """Return the folders of the runs that were offered, whose random name begins so."""
        return sorted(f.parent for f in (self.home / "runs").glob(f"{beginning}*/agreement.json"))

    def agreement(self, folder: Path) -> Agreement:
        """Return the specification of a run that was offered."""
        with explained(folder, "read"):
            return Agreement.from_json((folder / "agreement.json").read_text())

    def ledger(self, folder: Path) -> list[dict[str, Any]]:
        """Return what left the site in a run, while the run goes on too; damage is for :class:`Ledger` to find."""
        lines = [p.read_text().splitlines() for p in (folder / "ledgers").glob("*.ledger")]
        return [json.loads(line) for part in lines for line in part if line.endswith("}")]

    def enrolled_name(self) -> str:
        """Return the name that the certificate was asked for."""
        names = [p.name for p in (self.home / "request").glob("*") if p.is_dir()]
        if len(names) != 1:
            raise FileError(f"{self.home} has no request: `infl site enrol NAME` first")
        return names[0]

    def note(self, line: str) -> None:
        """Write down for the people at the site what happened."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        with explained(self.home, "write to"), (self.home / "events.log").open("a") as log:
            log.write(f"{when} {''.join(c if c.isprintable() else '?' for c in line)}\n")

    def events(self) -> list[str]:
        """Return what was noted."""
        path = self.home / "events.log"
        return path.read_text().splitlines() if path.exists() else []

    def prepare(self, agreement: Agreement) -> Site:
        """Make the site for a run: check it against the policy, open key and data, go on where the site was.

        Raises
        ------
        InflError
            One line that says why the site does not take part.
        """
        settings, policy = self.settings, self.policy
        name = settings.name
        known = self._said_yes(agreement)
        policy.check(agreement, name, consented=known or policy.asks(agreement))  # who is asked, is asked below
        if name not in agreement.sites:
            raise FederationError(f"{name} is not a site of this run ({', '.join(agreement.sites[:8])})")
        if settings.expects and not is_specified(agreement, settings.expects):
            raise FederationError(f"{name}: the run differs from this site's run.toml; refused")
        folder = self.run_folder(agreement)
        accepted = folder / "accepted"
        if accepted.exists() and accepted.read_text() != agreement.digest:
            raise FederationError(f"{name}: another run was offered under this run's name; refused")
        _keep(folder / "agreement.json", agreement.to_json().encode())
        if policy.asks(agreement) and not known:
            raise FederationError(
                f"{name}: a person must say yes; read {folder}/agreement.json, then `infl site approve {agreement.digest[:12]}`, "
                f"or add its panel, {agreement.panel_digest}, to the policy's panels"
            )
        self._check_seed(agreement)
        if settings.expects:  # a yes to one run: another one with the same settings is asked for anew
            _keep(self.home / "approved" / "expected", agreement.digest.encode())
        key = self.open_key(agreement)
        membership = None if key is None else self.membership(agreement, key)
        package_settings.bases.update(policy.bases)
        replica = Replica(agreement, key, min_holders=policy.min_holders)
        if settings.stamp and settings.stamp != stamp(Path(settings.data)):
            raise DataError(
                f"{name}: {settings.data} has changed since it was checked: end `infl site start`, start anew"
            )
        data = read_site(Path(settings.data), name)
        own = replica.task.agree({name: data})
        absent = sorted(set(own.get("classes", [])) - set(agreement.panel.get("classes", [])))
        if absent:
            raise DataError(
                f"{name} has {absent[0]!r}, which is not a class of the run: harmonise, or agree on it anew"
            )
        own_keys = self._own_keys(membership, agreement)
        store = Checkpoint(folder, own_keys.get("checkpoint"))
        site = Site(
            name,
            data,
            replica,
            Ledger(store.ledger_path(name), own_keys.get("ledger", bytes(32)), run=agreement.run),
            membership=membership,
            keep=partial(self._keep_state, store),
            account=None if agreement.dp is None else self.account,
        )
        _keep(accepted, agreement.digest.encode())
        store.note_data(replica, {name: site})
        store.restore_sites(replica, {name: site})
        return site

    def _check_seed(self, agreement: Agreement) -> None:
        """Refuse to train twice with one seed: the first update would be the same, and other sums would tell it.

        Under differential privacy batches and noise follow from the site's own secret and the run.
        """
        if agreement.dp is not None or self.policy.repeat_seeds:
            return
        for folder in self.runs():
            other = self.agreement(folder)
            if other.run == agreement.run or other.seed != agreement.seed:
                continue
            trained = any(str(row["kind"]).endswith(":train") for row in self.ledger(folder))
            if trained or (folder / "trains").exists():
                raise FederationError(
                    f"{self.settings.name}: it trained with seed {agreement.seed} before, in run {other.run[:12]}; its first update "
                    "would be the same, and a sum with it less one without it would be that update. Leave seed out of run.toml, or "
                    "set repeat_seeds = true in policy.toml"
                )

    def _keep_state(self, store: Checkpoint, site: Site) -> None:
        """Write down a site's state; before the first round also that the run trains with its seed.

        Of runs with one seed that go on at the same time, only one comes so far.
        """
        agreement, due = site.replica.agreement, site.replica.due
        trains = self.run_folder(agreement) / "trains"
        if due is not None and due.round and not trains.exists():
            seeds = self.home / "seeds"
            with explained(seeds, "make"):
                seeds.mkdir(exist_ok=True)
            with alone(seeds):
                self._check_seed(agreement)
                _keep(trains, b"")
        store.keep_sites(site.replica, {site.name: site})

    def open_key(self, agreement: Agreement) -> Keyring | None:
        """Return the key ring that the run needs."""
        if not agreement.fingerprint:
            return None
        from infl.keys import Keyring

        settings = self.settings
        if not settings.key:
            raise FileError(f"{settings.name}: the run needs key version {agreement.key_version}: start with --key")
        ring = Keyring.load(settings.key, settings.identity or None, os.environ.get("INFL_KEY_PASSPHRASE"))
        ring.check(agreement.key_version, agreement.fingerprint)
        return ring

    def membership(self, agreement: Agreement, ring: Keyring) -> Membership:
        """Return who this site and the others are, by the grant trail in its own ring.

        Raises
        ------
        KeyringError
            One of them is no member, or has no identity; one line says what to do.
        """
        from infl.keys import Identity

        settings, passphrase = self.settings, os.environ.get("INFL_KEY_PASSPHRASE")
        mine = (
            Identity.load(settings.identity, passphrase) if settings.identity else Identity.own(passphrase=passphrase)
        )
        return Membership.of(settings.name, mine, agreement.sites, ring.trail)

    def _own_keys(self, membership: Membership | None, agreement: Agreement) -> dict[str, bytes]:
        """Return what ledger and checkpoint are under: keys that no other member has. None for a run without a key."""
        if membership is None:
            return {}
        salt = bytes.fromhex(agreement.run)
        return {use: membership.identity.subkey(use, salt=salt) for use in ("ledger", "checkpoint")}

    def finish(self, site: Site) -> None:
        """Write the locked model, history and ledger into the run's folder, after the last sum.

        Where weights or moments stay at the sites, this site's whole model goes beside the shared one.
        """
        agreement = site.replica.agreement
        folder = self.run_folder(agreement)
        assert site.ledger is not None
        run = FederatedRun.of(site.replica, site.ledger.frame().assign(site=site.name))
        run.save(folder / "model.infl.safetensors", overwrite=True).chmod(0o600)
        if (own := site.own_model()) is not None:
            own.save(folder / "own_model.infl.safetensors", overwrite=True).chmod(0o600)
        said = ["sum", "says"]  # follow from the task: the file has what the site wrote down
        for name, table in (("history", run.history), ("ledger", run.ledger.drop(columns=said))):
            _keep(folder / f"{name}.csv", table.to_csv(index=name == "history").encode())
        _keep(folder / "privacy.json", json.dumps(run.privacy).encode())  # last: says it is all there
        self.note(f"run {agreement.run} finished: {folder / 'model.infl.safetensors'}")

    def has_result(self, agreement: Agreement) -> bool:
        """Whether the run was finished here."""
        return (self.run_folder(agreement) / "privacy.json").exists()

    def result(self, agreement: Agreement, key: Keyring | None) -> FederatedRun:
        """Return what :meth:`finish` wrote."""
        import pandas as pd

        from infl.models import load_model

        folder = self.run_folder(agreement)
        with explained(folder, "read"):
            model = load_model(folder / "model.infl.safetensors")
            history = pd.read_csv(folder / "history.csv", index_col="round")
            ledger = pd.read_csv(folder / "ledger.csv", dtype=dict.fromkeys(TEXT_COLUMNS, str))
            privacy = json.loads((folder / "privacy.json").read_text())
            own = folder / "own_model.infl.safetensors"
            site_models = {self.settings.name: load_model(own)} if own.exists() else {}
            ledger = with_descriptions(ledger, model.header.build_task(), agreement.panel)
        return FederatedRun(model, key, history, agreement.settings(), ledger, privacy, site_models)


def _keep(path: Path, content: bytes) -> None:
    """Write a file of the site's that nobody else on the machine reads."""
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, content, overwrite=True, mode=0o600)


def stamp(path: Path) -> str:
    """Return size and time of a file, or of all files of a zarr store, which say whether it changed."""
    with explained(path, "read"):
        facts = [p.stat() for p in ((path, *path.rglob("*")) if path.is_dir() else (path,))]
    return f"{sum(f.st_size for f in facts)}:{max(f.st_mtime_ns for f in facts)}"


def read_site(path: Path, name: str) -> Data:
    """Read a site's data."""
    from infl._files import read_data

    try:
        return read_data(path)
    except FileError as error:
        raise FileError(f"{name}: {error}") from None


ANY_SEED = " with any seed"
"""Ends the digest of a specification whose seed is drawn for each run."""


def specification_digest(agreement: Agreement, *, any_seed: bool = False) -> str:
    """Return the SHA-256 of what people agree on: all of the specification but the run's random name and salt.

    With `any_seed` the seed is left out as well, and the digest says so.
    """
    fixed = replace(agreement, run="", salt="", seed=0 if any_seed else agreement.seed)
    return fixed.digest + (ANY_SEED if any_seed else "")


def is_specified(agreement: Agreement, specification: str) -> bool:
    """Whether a run is the one of a specification digest.

    Examples
    --------
    >>> import infl
    >>> task, panel = infl.models.Classifier(target="y"), {"features": ["g"], "classes": ["a", "b"]}
    >>> one, other = (Agreement.new(task, panel, ["x", "y", "z"], infl.keys.Keyring.create(), seed=s) for s in (1, 2))
    >>> is_specified(one, specification_digest(one)), is_specified(other, specification_digest(one, any_seed=True))
    (True, False)
    """
    return specification == specification_digest(agreement, any_seed=specification.endswith(ANY_SEED))
