"""The model file in the hands of attackers and of its owner."""

import numpy as np
import pytest
import torch

from infl.attacks import AuditContext
from infl.attacks._kit.model_file import ModelFile
from infl.federation.agreement import Agreement
from infl.federation.initial import build_flat_model


def test_initial_weights_are_the_runs(default: AuditContext) -> None:
    agreement = Agreement(**{**default.run.settings, "panel": default.panel, "sites": tuple(default.sites)})
    flat_model = build_flat_model(default.task, agreement)
    for name, view in flat_model.shared.views(flat_model.copy_shared()).items():
        torch.testing.assert_close(ModelFile(default).initial[name], view)


def test_copies_differ_and_are_the_same_model(default: AuditContext) -> None:
    file = ModelFile(default)
    copies = file.copies(3, np.random.default_rng(0))
    assert torch.equal(copies[0]["embed.weight"], default.run.model.stored["embed.weight"])
    assert not torch.equal(copies[1]["embed.weight"], copies[2]["embed.weight"])
    assert file.right == file.accuracy(default.run.model.module(default.run.key), opened=True)


def test_file_that_nothing_locks(unprotected: AuditContext) -> None:
    file = ModelFile(unprotected)
    assert not file.locked
    assert len(file.copies(5, np.random.default_rng(0))) == 1
    assert file.accuracy(file.unlocked) == pytest.approx(file.right)
    assert file.right > 0.9
    assert not file.promised


def test_fresh_weights_follow_from_their_purpose_and_leave_torch_alone(default: AuditContext) -> None:
    file = ModelFile(default)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = file.fresh("a"), file.fresh("a"), file.fresh("c")
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(a["embed.weight"], b["embed.weight"])
    assert not torch.equal(a["embed.weight"], c["embed.weight"])
