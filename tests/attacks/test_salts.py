"""Salts that many re-locks or an offer would choose, on real runs; each with the old rule put back as a control."""

from dataclasses import replace

import numpy as np
import pytest

from infl.attacks import AuditContext, Status
from infl.attacks.chosen_salt import ChosenSalt
from infl.attacks.many_relocks import ManyRelocks
from infl.federation.run_lock import RunLock
from infl.keys import Keyring
from infl.models.locked import LockedModel, lock_model


@pytest.mark.long
def test_many_locks_of_one_model_tell_no_more_than_one(default: AuditContext, unprotected: AuditContext) -> None:
    assert not ManyRelocks().applies(unprotected)
    (finding,) = ManyRelocks().run(default)
    assert finding.status is Status.HOLDS
    assert finding.value == pytest.approx(finding.chance)  # all files are the same one
    assert finding.control > finding.chance + 0.3


@pytest.mark.long
def test_fresh_salts_at_each_lock_are_found_out(default: AuditContext, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def relock(self: LockedModel, key: Keyring) -> LockedModel:
        salts = {name: rng.bytes(16).hex() for name in self.stored}
        return lock_model(self.header, self.effective(key), {}, key, salts=salts)

    monkeypatch.setattr(LockedModel, "relock", relock)
    monkeypatch.setattr("infl.attacks.many_relocks.N_FILES", 64)
    (finding,) = ManyRelocks().run(default)
    assert finding.status is Status.BROKEN


def test_an_offered_salt_opens_nothing(default: AuditContext, unprotected: AuditContext) -> None:
    assert not ChosenSalt().applies(unprotected)
    (finding,) = ChosenSalt().run(default)
    assert finding.status is Status.HOLDS
    assert finding.control > 0.95


def test_a_lock_under_the_offers_salt_is_found_out(default: AuditContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunLock, "salt", lambda self, name, made: self.agreement.salt)
    monkeypatch.setattr(
        "infl.models.locked.model.tensor_salt", lambda key, version, name, made: default.run.settings["salt"]
    )
    header = default.run.model.header
    salts = dict.fromkeys(header.salts, default.run.settings["salt"])
    model = lock_model(header, default.run.model.effective(default.run.key), {}, default.run.key, salts=salts)
    (finding,) = ChosenSalt().run(AuditContext(replace(default.run, model=model), default.sites))
    assert finding.status is Status.BROKEN
    assert finding.value > 0.95
