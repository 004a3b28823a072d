"""What a site answers with, remembers and writes down."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from tests.federation.test_programme import House

from infl.errors import FederationError, KeyringError
from infl.federation.aggregation import AtSite
from infl.federation.messages import KEYS_KIND, REPLAY_KIND, Answer, Applied, Key
from infl.federation.site import Site
from infl.privacy import DP
from infl.privacy.seal import Ledger, RangeError
from infl.privacy.seal.packing import limit


def test_the_key_in_use_is_the_agreed_one(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites)
    plan = house.until("train", 1)
    for change in ({"key_version": 2}, {"fingerprint": ""}):
        with pytest.raises(KeyringError, match="agreed was 1"):
            house.tell(replace(plan, **change))
    for change in ({"run": "0" * 32}, {"agreement": "0" * 64}):
        with pytest.raises(FederationError, match="not of the run that was agreed on"):
            house.tell(replace(plan, **change))


def test_what_is_answered_says_what_it_answers(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites, seal="pairwise")
    plan = house.until("train", 1)
    answer = house.tell(plan)
    a = house.agreement
    assert isinstance(answer, Answer)
    assert (answer.site, answer.run, answer.seq, answer.attempt) == ("site_1", a.run, plan.seq, 0)
    assert (answer.key_version, answer.fingerprint) == (a.key_version, a.fingerprint)
    assert {*answer.shares} == {*a.sites}
    replay = house.tell(replace(plan, kind=REPLAY_KIND, round=0, lanes=(0, 2, 0)))
    assert replay == Applied("site_1", plan.seq)
    key = house.tell(replace(plan, kind=KEYS_KIND, round=0, lanes=(0, 2, 0)))
    assert key == Key("site_1", plan.seq, house.sites["site_1"].pairwise.advertise())


def test_state_is_kept_before_anything_is_answered_and_only_when_it_changed(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites)
    site, kept = house.sites["site_1"], []
    site.on_change = lambda s: kept.append(s.replica.seq)
    plan = house.until("train", 2)
    assert kept == list(range(-1, plan.seq - 1))
    house.tell(plan)
    house.tell(plan)
    assert kept[-1] == plan.seq - 1 and len(kept) == plan.seq + 1


@pytest.mark.parametrize("forgets", [False, True])
def test_an_update_is_trained_once_where_it_is_not_forgotten(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch, forgets: bool
) -> None:
    house = House(small_sites)
    site, trained = house.sites["site_1"], []
    site._forgets = forgets
    plan = house.until("train", 1)
    values = Site._values
    monkeypatch.setattr(Site, "_values", lambda s, p: (trained.append(p.seq), values(s, p))[1])
    first, again = house.tell(plan), house.tell(plan)
    assert first.words.digest() == again.words.digest()
    assert trained == [plan.seq] * (1 + forgets)


def test_refusals_and_keys_are_written_down_for_the_exchange_that_is_due(
    small_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    house = House(small_sites)
    site = house.sites["site_1"]
    site.note_refusal()  # without a ledger there is nothing to write
    house.until("train", 1)
    site.ledger = Ledger(tmp_path / "ledger", bytes(32))
    due = site.replica.seq + 1
    for _ in range(2):
        site.note_refusal()
    kinds = [entry["kind"] for entry in site.ledger.entries]
    assert kinds == [f"{due}:refusal"]


def test_what_is_restored_is_what_was_kept(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites, seal="pairwise")
    house.until("train", 2)
    site = house.sites["site_1"]
    again = Site("site_1", small_sites["site_1"], site.replica)
    assert again.noise_key != site.noise_key and len(again.noise_key) == 32
    assert again.revealed == (-1, 0, "")
    again.restore(site.state())
    assert again.noise_key == site.noise_key and again.revealed == site.revealed
    assert site.state()["given"] is None and site.state()["epoch"] is None  # in one process nobody starts again


def test_a_site_is_weighted_by_its_share_of_the_samples(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites)
    plan = house.until("train", 1)
    site = house.sites["site_1"]
    site.replica.catch_up(plan.previous)
    update, arrays, weight = site._values(plan)
    n = len(site.data.train)
    assert weight == n / site.replica.n_total == n / sum(len(s.data.train) for s in house.sites.values())
    assert len(update) == len(site.replica.theta) and np.isfinite(arrays["train_loss"])
    assert "n" not in arrays and any(name.startswith("metric.") for name in arrays)


def test_a_site_counts_by_what_it_and_all_saw(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites, aggregation="qfedavg", aggregation_options={"q": 1.0})
    plan = house.until("train", 1)
    site = house.sites["site_1"]
    replica, n = site.replica, len(site.data.train)
    replica.catch_up(plan.previous)
    assert site._seen(0.5) == AtSite(0.5, n, excess=0.0, last=1.0, mean_n=replica.n_total / 3)
    for losses, last in (([3.0, 2.0], 2.0), ([3.0, np.nan], 1.0)):
        replica.rows = [{"loss": loss} for loss in losses]
        assert site._seen(0.5).last == last
    replica.rows = [{"loss": 2.0}]
    rows, loss = site.trainer.update(plan)
    expected = rows.numpy().ravel().copy()
    update, arrays, _ = site._values(plan)
    assert replica.rule.importance is not None
    factor = replica.rule.importance(site._seen(loss))
    assert factor != 1 and arrays["importance"] == n * factor and arrays["train_loss"] == loss * n
    np.testing.assert_allclose(update, expected * np.float32(factor), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("some", [False, True])
def test_a_round_tells_its_count_where_not_all_are_asked(small_sites: dict[str, AnnData], some: bool) -> None:
    house = House(small_sites, n_sites=4, **({"participation": 0.75} if some else {}))
    house.until("train", 1)
    site = house.sites["site_1"]
    site.replica.catch_up(tuple(house.coordinator.progress.totals))
    plan = replace(house.plans[-1], kind="train", round=1, seq=site.replica.seq + 1)
    arrays = site._values(plan)[1]
    assert ("n" in arrays) is some and arrays.get("n", len(site.data.train)) == len(site.data.train)


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_a_site_has_as_much_of_the_range_as_it_has_samples(small_sites: dict[str, AnnData], factor: float) -> None:
    """Weighted updates add to one at most; with equal shares a large site's would not fit beside small ones."""
    sites = {name: adata[:5] if name != "site_4" else adata for name, adata in small_sites.items()}
    house = House(dict(reversed(sites.items())))
    name = house.agreement.sites[0]
    plan = house.until("train", 1)
    site = house.sites[name]
    site.replica.catch_up(plan.previous)
    weight, packing = len(site.data.train) / site.replica.n_total, site.replica.packing
    assert name == "site_4" and weight > 0.5
    largest = limit(32, 3, weight) * packing.fields[0].step / weight
    values = np.full(packing.n32, factor * largest)
    site._pending = (plan.seq, values, np.zeros(packing.n64), weight)
    with nullcontext() if factor < 1 else pytest.raises(RangeError):
        assert isinstance(house.tell(plan), Answer)


def test_under_privacy_what_is_too_large_is_clipped_at_an_equal_share(small_sites: dict[str, AnnData]) -> None:
    """Whatever one site sends, the sum does not wrap."""
    dp = DP(noise_multiplier=2.0, delta=1e-3, noise="local")
    house = House(small_sites, privacy=dp, private=True, seal="none", lock=None, rounds=1)
    plan = house.until("train", 1)
    site = house.sites["site_1"]
    site.replica.catch_up(plan.previous)
    packing = site.replica.packing
    site._pending = (plan.seq, np.full(packing.n32, -(2.0**40)), np.zeros(packing.n64), 1.0)
    answer = house.tell(plan)
    assert set(answer.words.low.view(np.int32).tolist()) == {-limit(32, 3)}
