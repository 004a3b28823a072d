"""A hospital that is in one round and not in the next: its metrics stay closed, its update is told as far as rounds are alike."""

import pytest

from infl.attacks import AuditContext, Finding, Status, load_attack
from infl.attacks.missing_site import GENTLE
from infl.privacy.seal import MaskedArrays, Packing

from .conftest import attacked


def opens_metrics_of_any(patch: pytest.MonkeyPatch) -> None:
    """Coordinator and sites as before: what comes is added, and opened whoever is in it."""
    patch.setattr(Packing, "lanes_of", lambda packing, *, all_sites: packing.lanes)
    patch.setattr(MaskedArrays, "of_some", lambda words: words)


@pytest.fixture(scope="module")
def pairwise() -> AuditContext:
    return attacked(seal="pairwise", rounds=2)


def found(context: AuditContext) -> list[Finding]:
    attack = load_attack("missing_site")
    assert attack.applies(context)
    return attack.run(context)


@pytest.mark.parametrize("seal", ["default", pytest.param("pairwise", marks=pytest.mark.long)])
def test_metrics_are_not_told_and_the_update_is_as_far_as_rounds_are_alike(
    seal: str, request: pytest.FixtureRequest
) -> None:
    update, numbers = found(request.getfixturevalue(seal))
    assert (numbers.status, numbers.value) == (Status.HOLDS, 0.0)
    assert numbers.control > 0.3
    assert update.value <= update.chance  # batches and dropout of two rounds differ
    assert update.control > 0.9  # gentle training: the difference is nearly the update


def test_the_numbers_are_told_where_they_are_opened_of_any(
    default: AuditContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens_metrics_of_any(monkeypatch)
    _, numbers = found(default)
    assert (numbers.status, numbers.value) == (Status.BROKEN, 1.0)


def test_differencing_finds_metrics_that_are_opened_of_any(
    default: AuditContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = load_attack("differencing")
    (finding,) = attack.run(default)
    assert finding.status is Status.HOLDS and "the metrics of all but one" in finding.note
    opens_metrics_of_any(monkeypatch)
    (finding,) = attack.run(default)
    assert finding.status is Status.BROKEN and finding.note.count("the metrics of all but one") == 2


def test_the_update_is_told_where_training_is_gentle() -> None:
    context = attacked(**GENTLE)
    update, numbers = found(context)
    assert (update.status, numbers.status) == (Status.NOT_PROMISED, Status.HOLDS)
    assert update.value == pytest.approx(update.control)


def test_under_differential_privacy_the_difference_is_noise(private: dict[str, AuditContext]) -> None:
    (update,) = found(private["local"])
    assert (update.status, update.value) == (Status.HOLDS, 0.0)


def test_it_needs_a_sum_that_opens_without_a_site(default: AuditContext, unprotected: AuditContext) -> None:
    attack = load_attack("missing_site")
    assert not attack.applies(unprotected)
    few = dict(list(default.sites.items())[:3])
    assert not attack.applies(AuditContext(default.run, few))
