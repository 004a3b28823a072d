"""Messages on the wire: what is sent arrives, and nothing else is taken for a message."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federation.conftest import (
    framed,
    json_values,
    messages,
    same,
)

from infl.errors import FederationError
from infl.federation.messages import (
    MESSAGE_TYPES,
    Answer,
)
from infl.federation.wire import MAGIC, decode, encode, encode_parts
from infl.privacy.seal import MaskedArrays


@given(messages)
def test_what_is_sent_arrives(message: Any) -> None:
    assert same(decode(encode(message)), message)


@given(messages, st.data())
def test_no_part_of_a_message_is_a_message(message: Any, data: st.DataObject) -> None:
    content = encode(message)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(FederationError):
        decode(content[:cut])
    with pytest.raises(FederationError):
        decode(content + bytes(data.draw(st.integers(1, 17))))


@settings(max_examples=400)
@given(messages, st.data())
def test_altered_bytes_are_a_message_or_refused(message: Any, data: st.DataObject) -> None:
    content = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert type(decode(bytes(content))) in MESSAGE_TYPES
    except FederationError as error:
        assert len(str(error)) < 300


@settings(max_examples=400)
@given(
    st.binary(max_size=200)
    | st.builds(framed, st.binary(max_size=60))
    | json_values.map(lambda v: framed(json.dumps(v).encode()))
)
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(FederationError):
        decode(content)


def edited(change: Callable[[dict[str, Any]], None]) -> bytes:
    header: dict[str, Any] = {"Total": {"seq": 1, "kind": "count", "round": 0, "attempt": 0}}
    header["Total"] |= {"cohort": ["a"], "responders": ["a"], "words": [0, 0], "epochs": ""}
    change(header["Total"])
    return framed(json.dumps(header).encode())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a message of infl"),
        (MAGIC + (7).to_bytes(4, "little") + bytes(8), "format 7, this infl reads 3"),
        (framed(b'{"Plan": {}}'), "Plan has other fields than run"),
        (framed(b'{"System": {}}'), "not one of a message"),
        (framed(b'{"Stopped": {"site": "a", "site": "b", "seq": 1}}'), "named twice"),
        (framed(b'{"Stopped": {"site": "a", "seq": NaN}}'), "refused: NaN"),
        (framed(b"[" * 100_000), "not one of a message"),
        (framed(b'{"Key": {"site": "a", "seq": 1, "public": 900000}}'), "cut short"),
        (framed(b'{"Key": {"site": "a", "seq": 1, "public": 1}}', b"k" * 8), "belong to no field"),
        (edited(lambda f: f.update(seq=-1)), "out of range"),
        (edited(lambda f: f.update(seq=True)), "out of range"),
        (edited(lambda f: f.update(seq=1.0)), "out of range"),
        (edited(lambda f: f.update(kind="a\nb")), "unprintable"),
        (edited(lambda f: f.update(kind="\ud800")), "unprintable"),
        (edited(lambda f: f.update(kind="a" * 2000)), "too long"),
        (edited(lambda f: f.update(cohort=["w"] * 70_000)), "too long"),
        (edited(lambda f: f.update(more=1)), "other fields"),
    ],
)  # fmt: skip
def test_refusals_say_why(content: bytes, why: str) -> None:
    with pytest.raises(FederationError, match=why):
        decode(content)


def test_a_message_larger_than_due_is_refused_unread() -> None:
    with pytest.raises(FederationError, match="at most 1,000 are due"):
        decode(bytes(1001), limit=1000)


def test_large_words_are_not_copied() -> None:
    words = MaskedArrays(np.arange(1 << 16, dtype="<u4"), np.arange(3, dtype="<u8"))
    content = encode(Answer("a", "run", 1, 0, 1, "f", words))
    assert np.shares_memory(decode(content).words.low, np.frombuffer(content, "u1"))


def test_parts_of_a_message_are_views_of_its_arrays() -> None:
    words = MaskedArrays(np.arange(7, dtype="<u4"), np.arange(3, dtype="<u8"))
    answer = Answer("a", "run", 1, 0, 1, "f", words)
    parts = encode_parts(answer)
    assert b"".join(parts) == encode(answer)
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), words.low) for part in parts)
