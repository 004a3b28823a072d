"""What attacks share: draws that repeat, the first round again with and without protection, and what is sealed."""

import numpy as np

from infl.attacks import AuditContext


def test_draws_repeat_by_what_they_are_for(default: AuditContext) -> None:
    draws = [default.rng(*what).integers(2**32) for what in (("a", 0), ("a", 0), ("a", 1), ("b", 0))]
    assert draws[0] == draws[1] and len(set(draws)) == 3


def test_patients_are_one_at_each_site_with_protection_and_without_in_turn(default: AuditContext) -> None:
    protected, open_ = default.patients(1)
    for recorded in (protected, open_):
        assert {site: len(one.data.train) for site, one in recorded.outcome.sites.items()} == dict.fromkeys(
            default.sites, 1
        )
    # a sealed update is masked: as large at every place as its range allows; in the clear it is one small step
    sizes = [
        np.median([np.abs(update.values).mean() for update in recorded.updates()]) for recorded in (protected, open_)
    ]
    assert sizes[0] > 100 * sizes[1]


def test_sealed_is_what_the_run_was(default: AuditContext, unprotected: AuditContext) -> None:
    assert default.sealed and not unprotected.sealed
