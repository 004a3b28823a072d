"""Errors are one line of bounded length, and of one family."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infl import errors
from infl.errors import MAX_LENGTH, InflError, InflWarning

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, InflError)]


@given(st.text(max_size=3 * MAX_LENGTH))
def test_a_message_is_one_short_line(text):
    line = str(InflError(text))
    assert len(line) < MAX_LENGTH and line.splitlines() == ([line] if line else [])
    folded = " ".join(text.split())
    assert line == folded or (line[-1] == "…" and folded.startswith(line[:-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_catches_the_family_catches_each(kind):
    with pytest.raises(InflError):
        raise kind("there is no ring: give one")
    assert not issubclass(kind, Warning) and not issubclass(kind, ValueError)


def test_a_warning_is_no_error():
    assert issubclass(InflWarning, UserWarning) and not issubclass(InflWarning, InflError)
