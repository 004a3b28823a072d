"""The former place of attacks."""

import pytest

import infl
from infl.errors import InflWarning


def test_the_old_name_gives_the_same_things_and_warns() -> None:
    with pytest.warns(InflWarning, match=r"infl\.privacy\.attacks is infl\.attacks now"):
        from infl.privacy.attacks import Attack
    assert Attack is infl.attacks.Attack
    with pytest.raises(AttributeError), pytest.warns(InflWarning):
        _ = infl.privacy.attacks.nothing
