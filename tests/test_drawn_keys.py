"""Keys of tests follow from names, so that a bound on what they are worth holds or does not, in whichever order tests run."""

import hashlib
import os

import pytest

from infl.federation import agreement

ZERO = bytes(8)


@pytest.fixture(scope="session")
def of_session() -> bytes:
    return agreement.os.urandom(8)


@pytest.fixture(scope="module")
def of_module() -> bytes:
    return agreement.os.urandom(8)


def follows_from(name: str, drawn: bytes) -> bool:
    fresh = os.environ.get("INFL_TEST_KEYS") == "fresh"
    return fresh != (hashlib.shake_256(name.encode() + ZERO).digest(8) == drawn)


def test_what_fixtures_draw_follows_from_their_names(of_session: bytes, of_module: bytes) -> None:
    file = "tests/test_drawn_keys.py"
    assert follows_from(f"{file} of_session ", of_session) and follows_from(f"{file} of_module ", of_module)


def test_what_a_test_draws_follows_from_its_name(request: pytest.FixtureRequest) -> None:
    assert follows_from(request.node.nodeid, agreement.os.urandom(8))
