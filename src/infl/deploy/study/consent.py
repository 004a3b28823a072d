"""Whether a site takes part in a study: its policy, and a person's yes; the site's own files, made or found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anndata import AnnData

from infl.deploy.folders import alone
from infl.deploy.policy import Policy
from infl.deploy.results import write_private
from infl.deploy.study.site import StudySite
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import FIT, Step, check_fields, check_groups, check_ruled
from infl.deploy.study.working import JOURNAL, WorkingObject
from infl.errors import DataError, FederationError, FileError, KeyringError
from infl.privacy import Disclosure
from infl.privacy.seal import Ledger

if TYPE_CHECKING:
    from infl._types import Data
    from infl.deploy.site_folder import SiteFolder
    from infl.federation.agreement import Agreement
    from infl.keys import Keyring

STUDIES = "studies"
"""Folder of a site's studies, in the site's folder."""
LEDGER = "study.ledger"


def asks(policy: Policy, study: Study) -> bool:
    """Whether a person must say yes: always, but where the policy lists every step and every column that it reads.

    Examples
    --------
    >>> from infl.deploy.study.steps import Step
    >>> study = Study.new("first", ["a", "b", "c"], [Step.read("pp.log1p", {})], 1, "abcd")
    >>> asks(Policy(), study), asks(Policy(steps=["pp.log1p"]), study), asks(Policy(steps=["*"]), study)
    (True, False, False)
    """
    return not all(step_is_listed(policy, step) for step in study.steps)


def step_is_listed(policy: Policy, step: Step) -> bool:
    """Whether the policy lists a step and every column that it reads.

    Examples
    --------
    >>> step_is_listed(Policy(steps=["*"]), Step.read("pp.log1p", {}))
    True
    """
    return ("*" in policy.steps or step.do in policy.steps) and step.columns <= {*policy.targets}


def check_policy(policy: Policy, study: Study, site: str) -> None:
    """Raise a FederationError unless the site accepts the study, whoever says yes.

    Sums of a study are under the group seal, which a coordinator and one member together can open, and without noise.
    """
    other = sorted(_columns(study) - {*policy.targets})
    fits = [str(step.all_arguments["model"] or "classifier") for step in study.steps if step.do == FIT]
    models = sorted({*fits} - {*policy.tasks})
    refusals: dict[str, Callable[[], bool]] = {
        f"column {other[0] if other else ''!r}": lambda: bool(policy.targets and other),
        f"model {models[0] if models else ''!r}": lambda: bool(policy.tasks and models),
        f"{len(study.sites)} sites (at least {policy.min_sites})": lambda: len(study.sites) < policy.min_sites,
        "seal 'group', under which the sums of a study travel": lambda: "group" not in policy.seals,
        f"key version {study.key_version}": lambda: (
            bool(policy.key_versions) and study.key_version not in policy.key_versions
        ),
        "sums without differential privacy": lambda: policy.max_epsilon > 0 or policy.lifetime_epsilon > 0,
    }
    for what, refused in refusals.items():
        if refused():
            raise FederationError(f"{site} refuses: its policy does not accept {what}")
    if policy.disclosure_rules:
        check_ruled(study.steps, site)
    for number, step in enumerate(study.steps, 1):
        if step.do == FIT and (what := _too_much(policy, step.all_arguments)):
            raise FederationError(f"{site} refuses: its policy does not accept {what} (step {number}, {FIT})")


def _too_much(policy: Policy, fit: Mapping[str, Any]) -> str:
    """Return what of a fit's settings a policy does not accept, before anybody is asked for it; the rest follows from the panel."""
    rounds, epochs, strength = int(fit["rounds"]), int(fit["local_epochs"]), float(fit["strength"])
    lock = "none" if fit["lock"] is None else str(fit["lock"])
    refusals = {
        f"{rounds} rounds (at most {policy.max_rounds})": rounds > policy.max_rounds,
        f"{epochs} local epochs (at most {policy.max_local_epochs})": epochs > policy.max_local_epochs,
        f"lock {lock!r}": lock not in policy.locks,
        f"strength {strength:g} (at least {policy.min_strength:g})": lock != "none" and strength < policy.min_strength,
    }
    return next((what for what, refused in refusals.items() if refused), "")


def rules_of(policy: Policy, home: Path) -> Disclosure | None:
    """Return the rules of disclosure of a policy, with the site's registers; None where it switches them off."""
    return Disclosure(policy.disclosure, home / "disclosure") if policy.disclosure_rules else None


def _columns(study: Study) -> set[str]:
    return {column for step in study.steps for column in step.columns}


class SiteStudies:
    """A site's studies.

    Parameters
    ----------
    site_folder
        The site.
    """

    def __init__(self, site_folder: SiteFolder) -> None:
        self.site_folder = site_folder

    def folder(self, study: Study) -> Path:
        """Return where the site keeps what it has of a study, made if it is not there."""
        return self.site_folder.offered_folder(STUDIES, study.run)

    def hold(self, study: Study) -> AbstractContextManager[None]:
        """Keep other processes away from a study's folder."""
        return alone(self.folder(study))

    def prepare(self, study: Study) -> StudySite:
        """Make the site for a study: check it against policy, key and data, go on where the site was.

        Raises
        ------
        InflError
            One line that says why the site does not take part.
        """
        site_folder = self.site_folder
        settings, policy = site_folder.settings, site_folder.policy
        name, expected = settings.name, settings.expects == study.specification
        check_policy(policy, study, name)
        if name not in study.sites:
            raise FederationError(f"{name} is not a site of this study ({', '.join(study.sites[:8])})")
        if settings.expects and not expected:
            raise FederationError(
                f"{name}: the study differs from this site's study.toml; refused: compare the files, then start anew with the new one"
            )
        folder = self.folder(study)
        kept = folder / "study.json"
        if kept.exists() and kept.read_bytes() != study.to_json().encode():
            raise FederationError(f"{name}: another study was offered under this study's name; refused")
        site_folder.log.offered(kept, study.digest)
        write_private(kept, study.to_json().encode())
        known = site_folder.said_yes(study.digest, expected=expected)
        if asks(policy, study) and not known:
            raise FederationError(
                f"{name}: a person must say yes; read {folder}/study.json, then `infl site approve {study.digest[:12]}`, or list "
                "its steps and columns in the policy's steps and targets"
            )
        if expected:
            site_folder.take_expected(study.digest)
        site_folder.log.consented(study.digest, asked=known)
        key = self.open_key(study)
        ledger_key = site_folder.own_keys(site_folder.membership(study, key), study.run)["ledger"]
        working = self.working(study, settings.data)
        working.check_source()
        adata = site_folder.read_data() if not working.done else working.read()
        check_data(study, policy, adata, name, done=working.done)
        disclosure = rules_of(policy, site_folder.home)
        ledger = Ledger(folder / LEDGER, ledger_key, run=study.run)

        def admit(fit: Agreement) -> int:
            policy.check(fit, name)
            return policy.min_holders

        return StudySite(name, study, working, key, ledger, site_folder.log.note, disclosure, admit)

    def open_key(self, study: Study) -> Keyring:
        """Return the key ring, whose version in use is the study's.

        Raises
        ------
        KeyringError
            It is not.
        """
        key = self.site_folder.open_key(study)
        if key is None or key.current != study.key_version:
            name = self.site_folder.settings.name
            raise KeyringError(
                f"{name}: the study is under key version {study.key_version}, and the ring's version in use is another: write the "
                "version in use into study.toml"
            )
        return key

    def find(self, study: str = "") -> Study:
        """Return the study of this name, or whose random name begins so; the only one where none is given.

        Raises
        ------
        FileError
            There is none, or there are several.
        """
        found = [
            Study.from_json((folder / "study.json").read_text(errors="replace"))
            for folder in self.site_folder.studies()
        ]
        chosen = [one for one in found if one.name == study or one.run.startswith(study)]
        if len(chosen) != 1:
            named = ", ".join(f"{one.name} ({one.run[:12]})" for one in chosen or found)
            called = f" called {study!r}" if study else ""
            remedy = f"name one of {named}" if named else "give the folder of a site that took part in one"
            raise FileError(f"{len(chosen) or 'no'} studies{called} in {self.site_folder.home}: {remedy}")
        return chosen[0]

    def result(self, study: str = "") -> tuple[Study, WorkingObject]:
        """Return a study that has ended here, and its working object.

        Raises
        ------
        FileError
            There is none, or it has not ended.
        """
        one = self.find(study)
        journal = self.folder(one) / JOURNAL
        working = self.working(one, self.site_folder.settings.data) if journal.exists() else None
        if working is None or working.done < len(one.steps):
            done = 0 if working is None else working.done
            raise FileError(
                f"study {one.name} has done {done} of {len(one.steps)} steps here: wait until it is finished"
            )
        return one, working

    def working(self, study: Study, source: str | Path) -> WorkingObject:
        """Return the site's working object."""
        return WorkingObject(self.folder(study), study.digest, Path(source), self.site_folder.settings.name)


def check_data(study: Study, policy: Policy, data: Data, site: str, *, done: int = 0) -> None:
    """Check before any work that a site's data can go through all steps that are left.

    Raises
    ------
    DataError
        One line: which step, what is missing or in the way.
    SettingsError
        The policy's rules of disclosure do not release groups that a step asks about.
    """
    if not isinstance(data, AnnData):
        raise DataError(f"{site}: a study works on AnnData, and its data are MuData: write one modality to a file")
    check_fields(study.steps, data, site, done=done)
    if policy.disclosure_rules:
        check_groups(study.steps, policy.disclosure, data, site)
