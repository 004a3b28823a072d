"""A run on disk: what the coordinator keeps and what the sites keep, each written in one step.

The coordinator's file has sealed sums and the plan only. The sites' file has the model and is encrypted: between machines
under a key of the site's own, in one process under the key ring's checkpoint subkey.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from infl._files import check_file_names, explained, file_name, parse_json, read_own, write_atomic
from infl._warn import warn
from infl.errors import DataError, FileError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint_files import decrypted, encrypted, map_arrays, read_arrays
from infl.federation.coordinator import Opening, Progress
from infl.federation.digest import data_digest
from infl.federation.messages import Total
from infl.federation.wire import LANE_FORMATS, decode, encode
from infl.privacy.seal import MaskedArrays

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infl.federation.replica import Replica
    from infl.federation.site import Site


class Checkpoint:
    """A folder that a run can be continued from.

    Parameters
    ----------
    folder
        Made if it is missing.
    secret
        32 secret bytes of the site that alone uses the folder (None: what is kept of sites is under the run's key ring).

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> from infl.federation.agreement import Agreement
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    >>> import tempfile
    >>> store = Checkpoint(tempfile.mkdtemp())
    >>> store.exists
    False
    >>> store.begin(agreement)
    >>> store.exists
    True
    """

    def __init__(self, folder: str | Path, secret: bytes | None = None) -> None:
        self.folder, self._secret = Path(folder).expanduser(), secret
        self._data: dict[str, str] = {}  # digests of the sites' data
        with explained(self.folder, "make"):
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / "agreement.json").exists()

    def begin(self, agreement: Agreement) -> None:
        """Write down what was agreed on."""
        if self.exists:
            raise FileError(f"{self.folder} already has a run: pass resume=True to go on with it, or another folder")
        check_file_names(agreement.sites)
        write_atomic(self.folder / "agreement.json", agreement.to_json().encode())

    def agreement(self, expected: Agreement) -> Agreement:
        """Return what was agreed on, if it is what is asked for now.

        Raises
        ------
        SettingsError
            The settings differ; the message names the first difference.
        """
        with explained(self.folder / "agreement.json", "read"):
            kept = Agreement.from_json((self.folder / "agreement.json").read_text())
        same = replace(expected, run=kept.run, salt=kept.salt)
        was, now = _settings(kept), _settings(same)
        for name, value in was.items():
            if now.get(name) != value:
                what = "" if name == "panel" else f" (was {value!r}, now {now.get(name)!r})"
                raise SettingsError(f"cannot resume {self.folder}: {name} differs{what}")
        return kept

    def ledger_path(self, site: str) -> Path:
        """Return where a site's ledger is."""
        folder = self.folder / "ledgers"
        folder.mkdir(exist_ok=True)
        return folder / f"{file_name(site)}.ledger"

    # -- coordinator -----------------------------------------------------------------------------------------------
    def save_progress(self, progress: Progress) -> Progress:
        """Write the coordinator's state; return it with its sums on disk, mapped, where they take no memory of their own.

        A sum is a file of its own, written once, and removed when all sites have applied it. So is one that is being opened;
        nothing else has changed then.
        """
        if (opening := progress.opening) is not None:
            shares = {site: _hexed(boxes) for site, boxes in opening.shares.items()}
            self._save_total(self._opening_path, opening.total, peers=_hexed(opening.peers), shares=shares)
            return progress
        for total in progress.totals:
            path = self._total_path(total.seq)
            if total is progress.totals[-1] or not path.exists():  # the last one may be there from before a crash
                self._save_total(path, total)
        seqs = [total.seq for total in progress.totals]
        state = {"position": progress.position, "seq": progress.seq, "totals": seqs, "chain": progress.chain}
        write_atomic(self.folder / "coordinator.json", json.dumps(state).encode(), overwrite=True)
        for path in (self.folder / "sums").glob("*.safetensors"):
            if int(path.stem) not in seqs:
                path.unlink()
        self._opening_path.unlink(missing_ok=True)
        return self.progress()

    def progress(self) -> Progress:
        """Return the coordinator's state."""
        path = self.folder / "coordinator.json"
        if not path.exists():
            return Progress(opening=self._opening(0))
        state = self._state()
        totals = tuple(self._total(self._total_path(seq))[0] for seq in state["totals"])
        return Progress(state["position"], state["seq"], totals, state["chain"], self._opening(state["seq"]))

    @property
    def position(self) -> int:
        """Number of finished exchanges: no sum is read, which a process that works in the folder may be removing just now."""
        return int(self._state()["position"]) if (self.folder / "coordinator.json").exists() else 0

    def _state(self) -> dict[str, Any]:
        then = "put the run's folder back from a backup, or begin anew under another name"
        return read_own(self.folder / "coordinator.json", _checked_state, then)

    def _opening(self, seq: int) -> Opening | None:
        if not self._opening_path.exists():
            return None
        total, more = self._total(self._opening_path)
        shares = {site: _unhexed(boxes) for site, boxes in more["shares"].items()}
        return Opening(total, _unhexed(more["peers"]), shares) if total.seq == seq else None  # else it was opened

    def _save_total(self, path: Path, total: Total, **more: Any) -> None:
        from safetensors.numpy import save_file

        arrays = {name: getattr(total.words, name) for name in LANE_FORMATS}
        row = {k: v for k, v in vars(total).items() if k != "words"}
        facts = {"total": json.dumps(row), "more": json.dumps(more), "width": json.dumps(total.words.width)}
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, partial(save_file, arrays, metadata=facts), overwrite=True)

    def _total(self, path: Path) -> tuple[Total, dict[str, Any]]:
        arrays, metadata = map_arrays(path)
        row = parse_json(metadata["total"])
        if set(arrays) != set(LANE_FORMATS):
            raise FileError(
                f"{path} has sums as an earlier version of infl laid them out: begin the run again in another folder"
            )
        low, high, of_all = (arrays[name] for name in LANE_FORMATS)
        words = MaskedArrays(low, high, of_all, parse_json(metadata.get("width", "32")))
        row |= {"cohort": tuple(row["cohort"]), "responders": tuple(row["responders"])}
        return Total(**row, words=words), parse_json(metadata["more"])

    @property
    def _opening_path(self) -> Path:
        return self.folder / "opening.safetensors"

    def _total_path(self, seq: int) -> Path:
        return self.folder / "sums" / f"{seq}.safetensors"

    # -- sites -----------------------------------------------------------------------------------------------------
    def note_data(self, replica: Replica, sites: Mapping[str, Site]) -> None:
        """Take a digest of what the sites read, before anything is done with it; it is kept with their state.

        It is keyed by the site's own key, or by the ring and the run's salt; by the salt alone where there is no ring.
        """
        secret = self._key(replica) or bytes.fromhex(replica.agreement.salt)
        self._data = {name: data_digest(site.data, secret) for name, site in sites.items()}

    def save_sites(self, replica: Replica, sites: Mapping[str, Site]) -> None:
        """Write the replica and what the sites keep to themselves, encrypted when there is a key."""
        from safetensors.numpy import save

        arrays, facts = _replica_state(replica)
        for name, site in sites.items():
            arrays[f"noise_key.{name}"] = np.frombuffer(site.state()["noise_key"], dtype=np.uint8)
            arrays |= {f"{what}.{name}": value for what, value in site.trainer.own.arrays().items()}
        facts["own"] = {name: site.trainer.own.facts() for name, site in sites.items()}
        revealed = {name: site.revealed for name, site in sites.items()}
        facts |= {"data": self._data, "revealed": revealed}
        facts["starts"] = {name: _start_facts(site.state()) for name, site in sites.items()}
        content = save(arrays, metadata={"facts": json.dumps(facts)})
        content = encrypted(content, self._key(replica), replica.agreement)
        write_atomic(self.folder / "sites.checkpoint", content, overwrite=True, mode=0o600)

    def restore_sites(self, replica: Replica, sites: Mapping[str, Site]) -> None:
        """Inverse of :meth:`save_sites`.

        Raises
        ------
        DataError
            A site has other data than those that the run began with.
        """
        path = self.folder / "sites.checkpoint"
        if not path.exists():
            return
        arrays, metadata = read_arrays(path, decrypted(path, self._key(replica), replica.agreement))
        facts: dict[str, Any] = parse_json(metadata["facts"])
        own, revealed = facts.pop("own", {}), facts.pop("revealed", {})
        starts = facts.pop("starts", {})
        self._check_data(facts.pop("data", {}))
        _restore_replica(replica, arrays, facts)
        for name, site in sites.items():
            end = f".{name}"
            mine = {what.removesuffix(end): value for what, value in arrays.items() if what.endswith(end)}
            site.trainer.own.restore(mine, own[name])
            state: dict[str, Any] = {"noise_key": mine["noise_key"].tobytes()}
            state["revealed"] = tuple(revealed.get(name, (-1, 0, "")))
            site.restore(state | _start_state(starts.get(name, {})))

    def _key(self, replica: Replica) -> bytes | None:
        a, ring = replica.agreement, replica.key
        if self._secret is not None or ring is None:
            return self._secret
        return ring.subkey("checkpoint", version=a.key_version, salt=bytes.fromhex(a.salt))

    def _check_data(self, kept: Mapping[str, str]) -> None:
        if self._data and not kept:
            warn(
                f"{self.folder} was written by an earlier version: whether the data are still those that it began with "
                "cannot be checked"
            )
        for name, digest in self._data.items():
            if kept.get(name, digest) != digest:
                raise DataError(
                    f"cannot resume {self.folder}: {name} has other data than the run began with; "
                    "give the same data, or begin anew in another folder"
                )


def _replica_state(replica: Replica) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays: dict[str, np.ndarray] = {"theta": replica.theta.numpy()}
    if replica.best_theta is not None:
        arrays["best"] = replica.best_theta.numpy()
    arrays |= {f"rule.{name}": value.numpy() for name, value in replica.rule_state.items()}
    arrays |= {f"private.{name}": np.asarray(value, order="C") for name, value in replica.private.items()}
    known = ("seq", "chain", "made", "best_made", "n_total", "best_round", "stopped", "rows", "wider", "absent")
    names = (*known, "counted", "begun_with", "lacks")
    return arrays, {name: getattr(replica, name) for name in names}


def _restore_replica(replica: Replica, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    if not {"chain", "made"} <= facts.keys():
        raise FileError(
            "this checkpoint is of infl 0.1, whose seal was bound to less: begin the run again in another folder"
        )
    rule = {k: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("rule.")}
    replica.go_on_from(
        facts,
        theta=torch.from_numpy(arrays["theta"]),
        best_theta=torch.from_numpy(arrays["best"]) if "best" in arrays else None,
        rule_state={k.removeprefix("rule."): v for k, v in rule.items()},
        private={k.removeprefix("private."): v for k, v in arrays.items() if k.startswith("private.")},
    )


def _start_facts(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return as JSON in which start a site answered last, and what it gave to open a sum."""
    facts: dict[str, Any] = {}
    if state["epoch"] is not None:
        private, met = state["epoch"]
        facts["epoch"] = [private.hex(), _hexed(met)]
    if state["given"] is not None:
        agreed, reveal = state["given"]
        facts["given"] = [agreed, encode(reveal).hex()]
    return facts


def _start_state(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`_start_facts`."""
    private, met = facts.get("epoch", ("", {}))
    epoch = (bytes.fromhex(private), _unhexed(met)) if private else None
    given = (facts["given"][0], decode(bytes.fromhex(facts["given"][1]))) if "given" in facts else None
    return {"epoch": epoch, "given": given}


def _hexed(values: Mapping[str, bytes]) -> dict[str, str]:
    return {name: value.hex() for name, value in values.items()}


def _unhexed(values: Mapping[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(value) for name, value in values.items()}


def _settings(agreement: Agreement) -> dict[str, Any]:
    """Return what people agreed on, the task's options one by one."""
    settings = asdict(agreement)
    return settings | {f"option {name}": value for name, value in settings.pop("options").items()}


def _checked_state(raw: dict[str, Any]) -> dict[str, Any]:
    """Return what the coordinator's file has, if it is of the kinds that it must be."""
    whole = type(raw["position"]) is int and type(raw["seq"]) is int and isinstance(raw["chain"], str)
    if not whole or not all(type(seq) is int for seq in raw["totals"]):
        raise TypeError
    return raw
