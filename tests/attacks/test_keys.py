"""Without the key, with wrong keys, one bit off."""

import numpy as np
import pytest
import torch
from torch import nn

from infl.attacks import AuditContext, Status
from infl.attacks._kit.weights import averaged, clipped, random_ring, rescaled
from infl.attacks.keys import Committee, NoKey, OneBitKey, WrongKey, evened, one_bit_off, signs
from infl.keys import Keyring

STORED = {"w": torch.tensor([[3.0, -0.5], [10.0, -1.0]]), "b": torch.zeros(2), "g": torch.tensor([2.0, -4.0])}
USUAL = {"w": torch.tensor([[1.0, -1.0], [0.5, 0.0]]), "b": torch.tensor([0.3, 0.1]), "g": torch.ones(2)}


def test_stored_weights_brought_to_usual_sizes() -> None:
    assert clipped(STORED, USUAL)["w"].tolist() == [[1.0, -0.5], [1.0, -1.0]]
    spread = rescaled(STORED, USUAL)
    assert float(spread["w"].std(correction=0)) == pytest.approx(float(USUAL["w"].std(correction=0)))
    assert spread["b"].tolist() == USUAL["b"].tolist()  # stored ones that are all equal tell nothing
    assert spread["g"].tolist() == [1, 1]
    assert signs(STORED, USUAL)["g"].tolist() == [1, -1]
    assert averaged([{"w": torch.zeros(2)}, {"w": torch.ones(2)}])["w"].tolist() == [0.5, 0.5]


def test_gains_of_rows_and_columns_are_taken_out() -> None:
    torch.manual_seed(0)
    w = torch.randn(60, 80)
    gains = torch.randn(60, 1).exp() * torch.randn(1, 80).exp()
    plain, locked = (evened({"w": t}, {"w": torch.randn(60, 80)})["w"] for t in (w, w * gains))
    torch.testing.assert_close(plain, locked, rtol=0.05, atol=0.05)


def test_committee_votes_and_is_else_its_first_member() -> None:
    members = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    for member, value in zip(members, (1.0, 3.0), strict=True):
        nn.init.constant_(member.weight, value)
        member.register_buffer("class_weight", torch.tensor([value]))
    committee = Committee(members)
    assert committee(torch.ones(1, 2)).item() == 4
    assert committee.class_weight.item() == 1
    with pytest.raises(AttributeError):
        committee.nothing  # noqa: B018


def test_one_bit_off_is_one_bit_off() -> None:
    key = Keyring.create()
    for bit in (0, 9, 255):
        a, b = (np.unpackbits(np.frombuffer(k._roots[1], np.uint8)) for k in (key, one_bit_off(key, bit)))
        assert (a != b).sum() == 1


def test_guesses_follow_from_the_seed() -> None:
    first, again = (random_ring(np.random.default_rng(3)) for _ in range(2))
    assert first == again
    assert random_ring(np.random.default_rng(4)) != first


@pytest.mark.parametrize("attack", [NoKey(), WrongKey(), OneBitKey()], ids=lambda a: a.name)
def test_default_is_worth_nothing_without_its_key(default: AuditContext, attack) -> None:
    (finding,) = attack.run(default)
    assert finding.status is Status.HOLDS
    assert finding.promised
    assert finding.control > 0.9
    assert abs(finding.value - 0.25) < 0.15
    assert attack.run(default) == [finding]  # one seed, one result


@pytest.mark.parametrize("attack", [NoKey(), WrongKey(), OneBitKey()], ids=lambda a: a.name)
def test_what_looks_like_a_leak_is_judged_on_trials_drawn_anew(default: AuditContext, attack, monkeypatch) -> None:
    asked: list[int] = []
    usual = type(attack).accuracies

    def lucky(self, context, file, times=1):
        asked.append(times)
        if times == 1:
            return {"luck": [0.9, 0.91, 0.92]}
        return usual(self, context, file, times)

    monkeypatch.setattr(type(attack), "accuracies", lucky)
    (finding,) = attack.run(default)
    assert (finding.status, asked) == (Status.HOLDS, [1, 4])
    monkeypatch.setattr(type(attack), "accuracies", lambda *_: {"a leak": [0.9, 0.91, 0.92]})
    (finding,) = attack.run(default)
    assert finding.status is Status.BROKEN


def test_open_file_and_published_lock_are_shown_as_what_they_are(
    unprotected: AuditContext, published: AuditContext
) -> None:
    (open_file,) = NoKey().run(unprotected)
    assert open_file.status is Status.NOT_PROMISED
    assert open_file.value == open_file.control > 0.9
    assert not WrongKey().applies(unprotected)
    (any_key,) = WrongKey().run(published)
    assert any_key.status is Status.NOT_PROMISED
    assert any_key.value > any_key.control - 0.15


def test_relocked_after_rotation_one_bit_is_off_in_the_models_version(default: AuditContext) -> None:
    ring = default.run.key
    assert all(key.versions == [default.run.model.header.key_version] for key in OneBitKey().keys(default))
    assert ring.versions == [1]
