"""What a member keeps of the others' accounts in a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infl.errors import FederationError
from infl.federation.others import Others
from infl.privacy.account import Account
from infl.privacy.heads import Heads
from infl.privacy.seal import epochs_of

MEMBERS = {"a": b"a" * 32, "b": b"b" * 32, "c": b"c" * 32}


def advertised(head: bytes) -> bytes:
    """What a site with an identity advertises, as far as it matters here."""
    return bytes(128) + head


EPOCHS = epochs_of(dict.fromkeys(MEMBERS, advertised(b"")))


def total(kind: str, *responders: str, epochs: str = EPOCHS) -> Any:
    return SimpleNamespace(kind=kind, responders=responders, epochs=epochs)


@pytest.fixture
def accounts(tmp_path: Path) -> dict[str, Account]:
    accounts = {name: Account(tmp_path / name) for name in MEMBERS}
    for name, account in accounts.items():
        part = account.admit("run", ["record"], noise=2.0, sample_rate=0.2, rounds=2)
        for number in range(2):
            part.charge(f"{name} {number}".encode())
    return accounts


@pytest.fixture
def others(accounts: dict[str, Account]) -> Others:
    seen = Others("a", accounts["a"], SimpleNamespace(members=MEMBERS))  # type: ignore[arg-type]
    seen.witness({name: advertised(account.head()) for name, account in accounts.items()})
    return seen


def least(accounts: dict[str, Account], name: str) -> int:
    with Heads(accounts["a"])._seen_of(MEMBERS[name]) as seen:
        return seen.least


def test_sums_of_training_are_counted_for_those_who_are_in_them(others: Others, accounts: dict[str, Account]) -> None:
    others.credit([total("count", "a", "b", "c"), total("train", "a", "b", "c"), total("train", "a", "b")])
    assert [least(accounts, name) for name in "abc"] == [0, 4, 3]  # of itself a site keeps nothing here


@pytest.mark.parametrize("epochs", ["", "0" * 64], ids=["none", "of other starts"])
def test_a_sum_that_may_have_been_charged_before_the_start_does_not_count(
    others: Others, accounts: dict[str, Account], epochs: str
) -> None:
    """As long as no sum was opened with the keys of the starts that were seen, they may be of any time."""
    others.credit([total("train", "b", epochs=epochs), total("train", "b"), total("train", "b", epochs=epochs)])
    assert least(accounts, "b") == 3


def test_another_start_says_anew_what_was_charged(others: Others, accounts: dict[str, Account]) -> None:
    others.credit([total("count", "b"), total("train", "b")])
    assert least(accounts, "b") == 3
    accounts["b"].admit("run", ["record"], noise=2.0, sample_rate=0.2, rounds=4).charge(b"b 3")
    again = {name: advertised(account.head()) for name, account in accounts.items()}
    others.witness(again)
    others.witness(again)
    others.credit([total("train", "b", "c")])  # which b charged before it started again
    assert [least(accounts, name) for name in "bc"] == [3, 0]
    others.credit([total("train", "b", "c")])
    assert [least(accounts, name) for name in "bc"] == [4, 3]


def test_who_shows_no_account_is_refused_each_time(others: Others) -> None:
    for _ in range(2):
        with pytest.raises(FederationError, match="c shows no account"):
            others.witness({"c": advertised(b"")})
