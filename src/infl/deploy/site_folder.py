"""A site's own machine: which data and key it uses, what it accepts, and what it keeps of each run.

The coordinator and its jobs name none of these files; they name the run.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl._device import device_named
from infl._files import explained, parse_json, read_own
from infl._settings import settings as package_settings
from infl.deploy.folders import alone
from infl.deploy.policy import Policy
from infl.deploy.results import is_written, read_result, write_private, write_result
from infl.deploy.site_data import SiteSettings, read_site, stamp
from infl.deploy.site_log import SiteLog
from infl.deploy.specification import Sealed, is_specified, read_agreement
from infl.errors import DataError, FederationError, FileError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.membership import Membership
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.privacy.account import Account
from infl.privacy.seal import Ledger
from infl.privacy.seal.ledger import LEDGER_COLUMNS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Identity, Keyring


class SiteFolder:
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
        self.log = SiteLog(self.home, self._identity)

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
        return read_own(path, SiteSettings.from_json, "run `infl site start` with --data and --key anew")

    def save_settings(self, settings: SiteSettings) -> None:
        """Write down what the site uses; a run's file among it is a new yes."""
        (self.home / "approved" / "expected").unlink(missing_ok=True)
        write_private(self.home / "site.json", json.dumps(asdict(settings), indent=1).encode())

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

    def said_yes(self, digest: str, *, expected: bool) -> bool:
        """Whether a person did: by ``infl site approve``, or by naming the file at ``infl site start``.

        Parameters
        ----------
        digest
            Of what is offered.
        expected
            It is what the file describes. That is a yes to one run or study, not to the next one like it.
        """
        approved = self.home / "approved"
        if (approved / digest).exists():
            return True
        taken = approved / "expected"
        return expected and (not taken.exists() or taken.read_bytes() == digest.encode())

    def _is_expected(self, agreement: Agreement) -> bool:
        """Whether a run is the one of the file that was named at ``infl site start``."""
        expects = self.settings.expects
        return bool(expects) and is_specified(agreement, expects)

    def take_expected(self, digest: str) -> None:
        """Write down that the yes to the file that was named is used up."""
        write_private(self.home / "approved" / "expected", digest.encode())

    def run_folder(self, agreement: Agreement) -> Path:
        """Return where the site keeps what it has of a run, made if it is not there."""
        return self.offered_folder("runs", agreement.run)

    def offered_folder(self, kind: str, run: str) -> Path:
        """Return the folder of an offered run or study (`kind`), made if it is not there; its name is random, and only that."""
        if not re.fullmatch(r"[0-9a-f]{32}", run):
            raise FederationError(f"{self.settings.name}: the run has no random name; refused")
        folder, most = self.home / kind / run, self.policy.max_runs
        if not folder.exists() and len([*self.home.glob("runs/*"), *self.home.glob("studies/*")]) >= most:
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
        offered = {sha256(path.read_bytes()).hexdigest() for path in self._specifications()}
        found = [d for d in offered if d.startswith(digest)]
        if len(found) != 1 or len(digest) < 8:
            raise FederationError(f"{len(found)} runs with digest {digest!r} were offered: give what the refusal says")
        folder = self.home / "approved"
        folder.mkdir(exist_ok=True)
        self.log.security.note("approved", digest=found[0])
        write_private(folder / found[0], b"")
        return found[0]

    def _specifications(self) -> list[Path]:
        """Return the files of all that was offered; a specification's digest is that of its file."""
        return [*self.home.glob("runs/*/agreement.json"), *self.home.glob("studies/*/study.json")]

    def runs(self, beginning: str = "") -> list[Path]:
        """Return the folders of the runs that were offered, whose random name begins so."""
        return sorted(f.parent for f in (self.home / "runs").glob(f"{beginning}*/agreement.json"))

    def studies(self, beginning: str = "") -> list[Path]:
        """Return the folders of the studies that were offered, whose random name begins so."""
        return sorted(f.parent for f in (self.home / "studies").glob(f"{beginning}*/study.json"))

    def agreement(self, folder: Path) -> Agreement:
        """Return the specification of a run that was offered."""
        return read_agreement(folder / "agreement.json")

    def ledger(self, folder: Path) -> list[dict[str, Any]]:
        """Return what left the site in a run, while the run goes on too; damage is for :class:`Ledger` to find."""
        lines = [line for path in sorted(folder.rglob("*.ledger")) for line in path.read_bytes().splitlines()]
        try:
            rows = [parse_json(line) for line in lines if line.endswith(b"}")]
            if all(
                {*LEDGER_COLUMNS} <= row.keys() and type(row["round"]) is int and type(row["bytes"]) is int
                for row in rows
            ):
                return rows
        except (ValueError, TypeError, AttributeError):
            pass
        raise FileError(
            f"a ledger in {folder} is damaged: put it back from a backup, or the site cannot go on with this run"
        )

    def enrolled_name(self) -> str:
        """Return the name that the certificate was asked for."""
        names = [p.name for p in (self.home / "request").glob("*") if p.is_dir()]
        if len(names) != 1:
            raise FileError(f"{self.home} has no request: `infl site enrol NAME` first")
        return names[0]

    def prepare(self, agreement: Agreement) -> Site:
        """Make the site for a run: check it against the policy, open key and data, go on where the site was.

        Raises
        ------
        InflError
            One line that says why the site does not take part.
        """
        settings, policy = self.settings, self.policy
        name = settings.name
        expected = self._is_expected(agreement)
        known = self.said_yes(agreement.digest, expected=expected)
        policy.check(agreement, name, consented=known or policy.asks(agreement))  # who is asked, is asked below
        if name not in agreement.sites:
            raise FederationError(f"{name} is not a site of this run ({', '.join(agreement.sites[:8])})")
        if settings.expects and not expected:
            raise FederationError(f"{name}: the run differs from this site's run.toml; refused")
        folder = self.run_folder(agreement)
        accepted = folder / "accepted"
        if accepted.exists() and accepted.read_bytes() != agreement.digest.encode():
            raise FederationError(f"{name}: another run was offered under this run's name; refused")
        self.log.offered(folder / "agreement.json", agreement.digest)
        write_private(folder / "agreement.json", agreement.to_json().encode())
        if policy.asks(agreement) and not known:
            raise FederationError(
                f"{name}: a person must say yes; read {folder}/agreement.json, then `infl site approve {agreement.digest[:12]}`, "
                f"or add its panel, {agreement.panel_digest}, to the policy's panels"
            )
        self._check_seed(agreement)
        if settings.expects:  # a yes to one run: another one with the same settings is asked for anew
            self.take_expected(agreement.digest)
        key = self.open_key(agreement)
        membership = None if key is None else self.membership(agreement, key)
        package_settings.bases.update(policy.bases)
        replica = Replica(agreement, key, min_holders=policy.min_holders, device=device_named())
        data = self.read_data()
        own = replica.task.agree({name: data})
        absent = sorted(set(own.get("classes", [])) - set(agreement.panel.get("classes", [])))
        if absent:
            raise DataError(
                f"{name} has {absent[0]!r}, which is not a class of the run: harmonise, or agree on it anew"
            )
        own_keys = self.own_keys(membership, agreement.run)
        store = Checkpoint(folder, own_keys.get("checkpoint"))
        site = Site(
            name,
            data,
            replica,
            Ledger(store.ledger_path(name), own_keys.get("ledger", bytes(32)), run=agreement.run),
            membership=membership,
            on_change=partial(self._save_state, store),
            account=None if agreement.dp is None else self.account,
        )
        if not accepted.exists():
            self.log.consented(agreement.digest, asked=known)
            write_private(accepted, agreement.digest.encode())
        store.note_data(replica, {name: site})
        store.restore_sites(replica, {name: site})
        return site

    def read_data(self) -> Data:
        """Return the site's data, if they are those that were checked."""
        settings, name = self.settings, self.settings.name
        if settings.stamp and settings.stamp != stamp(Path(settings.data)):
            raise DataError(
                f"{name}: {settings.data} has changed since it was checked: end `infl site start`, start anew"
            )
        return read_site(Path(settings.data), name)

    def _check_seed(self, agreement: Agreement) -> None:
        """Refuse to train twice with one seed: the first update would be the same, and the difference of two sums would reveal it.

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

    def _save_state(self, store: Checkpoint, site: Site) -> None:
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
                write_private(trains, b"")
        store.save_sites(site.replica, {site.name: site})

    def open_key(self, agreement: Sealed) -> Keyring | None:
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

    def membership(self, agreement: Sealed, ring: Keyring) -> Membership:
        """Return who this site and the others are, by the grant trail in its own ring.

        Raises
        ------
        KeyringError
            One of them is no member, or has no identity; one line says what to do.
        """
        settings = self.settings
        return Membership.of(settings.name, self._identity(), agreement.sites, ring.trail)

    def _identity(self) -> Identity:
        from infl.keys import Identity

        settings, passphrase = self.settings, os.environ.get("INFL_KEY_PASSPHRASE")
        return (
            Identity.load(settings.identity, passphrase) if settings.identity else Identity.own(passphrase=passphrase)
        )

    def own_keys(self, membership: Membership | None, run: str) -> dict[str, bytes]:
        """Return what ledger and checkpoint are under: keys that no other member has. None for a run without a key."""
        if membership is None:
            return {}
        salt = bytes.fromhex(run)
        return {use: membership.identity.subkey(use, salt=salt) for use in ("ledger", "checkpoint")}

    def finish(self, site: Site) -> None:
        """Write the locked model, history and ledger into the run's folder, after the last sum."""
        agreement = site.replica.agreement
        model = write_result(self.run_folder(agreement), site)
        self.log.note(f"run {agreement.run} finished, trained on {site.replica.device}: {model}")

    def has_result(self, agreement: Agreement) -> bool:
        """Whether the run was finished here."""
        return is_written(self.run_folder(agreement))

    def result(self, agreement: Agreement, key: Keyring | None) -> FederatedRun:
        """Return what :meth:`finish` wrote."""
        return read_result(self.run_folder(agreement), agreement, key, self.settings.name)
