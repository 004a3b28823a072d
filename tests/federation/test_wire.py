"""Messages on the wire: what is sent arrives, and nothing else is taken for a message."""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.errors import FederationError
from infl.federation.messages import (
    MESSAGE_TYPES,
    Alive,
    Answer,
    Applied,
    Consent,
    Done,
    Heard,
    Key,
    Offer,
    Plan,
    Reveal,
    Said,
    Stopped,
    StudyOffer,
    Total,
    Trouble,
)
from infl.federation.wire import LANE_FORMATS, MAGIC, VERSION, decode, encode, encode_parts
from infl.privacy.seal import MaskedArrays, Revealed

names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=12)
numbers = st.integers(0, 1 << 53)
blobs = st.binary(max_size=40)
tables = st.dictionaries(names, blobs, max_size=3)
sites = st.lists(names, max_size=4, unique=True).map(tuple)
lanes = st.builds(
    lambda low, high, of_all: MaskedArrays(np.asarray(low, "<u4"), np.asarray(high, "<u8"), np.asarray(of_all, "<u8")),
    st.lists(st.integers(0, 2**32 - 1), max_size=5),
    st.lists(st.integers(0, 2**64 - 1), max_size=5),
    st.lists(st.integers(0, 2**64 - 1), max_size=5),
)
totals = st.builds(Total, numbers, names, numbers, numbers, sites, sites, lanes)
plans = st.builds(
    Plan, names, numbers, names, numbers, numbers, sites, st.tuples(numbers, numbers, numbers), names, numbers, names,
    st.lists(totals, max_size=2).map(tuple), tables, sites, tables,
)  # fmt: skip
messages = st.one_of(
    plans,
    totals,
    st.builds(Answer, names, names, numbers, numbers, numbers, names, lanes, tables),
    st.builds(Stopped, names, numbers),
    st.builds(Key, names, numbers, blobs),
    st.builds(Applied, names, numbers),
    st.builds(Reveal, names, numbers, st.builds(Revealed, names, tables, tables)),
    st.builds(Offer, names, blobs),
    st.builds(Consent, names, names, names, names, names, numbers),
    st.builds(Trouble, names, numbers, names),
    st.builds(Alive, names, numbers, numbers, names),
    st.builds(Done, names, numbers),
    st.builds(StudyOffer, names, blobs),
    st.builds(Said, names, names, numbers, numbers, names, lanes, blobs),
    st.builds(Heard, names, numbers, numbers, lanes, tables),
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, MaskedArrays):
        return all(np.array_equal(getattr(a, lane), getattr(b, lane)) for lane in LANE_FORMATS)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return a == b


@given(messages)
def test_what_is_sent_arrives(message: Any) -> None:
    assert same(decode(encode(message)), message)


def test_every_message_can_be_sent() -> None:
    seen: set[type] = set()

    @settings(max_examples=400, database=None)
    @given(messages)
    def draw(message: Any) -> None:
        seen.add(type(message))

    draw()
    assert seen == set(MESSAGE_TYPES)


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def framed(header: bytes, buffers: bytes = b"") -> bytes:
    header += b" " * (-len(header) % 8)
    return MAGIC + VERSION.to_bytes(4, "little") + len(header).to_bytes(4, "little") + bytes(4) + header + buffers


@settings(max_examples=400)
@given(
    st.binary(max_size=200)
    | st.builds(framed, st.binary(max_size=60))
    | json_values.map(lambda v: framed(json.dumps(v).encode()))
)
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(FederationError):
        decode(content)


@settings(max_examples=400)
@given(messages, st.data())
def test_a_field_of_another_kind_is_refused(message: Any, data: st.DataObject) -> None:
    """Replace one field of a header by any JSON value: what is then read has fields of the declared kinds only."""
    content = encode(message)
    size = int.from_bytes(content[8:12], "little")
    header = json.loads(content[16 : 16 + size])
    table = next(iter(header.values()))
    table[data.draw(st.sampled_from(sorted(table)))] = data.draw(json_values)
    try:
        again = decode(framed(json.dumps(header).encode(), content[16 + size :]))
    except FederationError:
        return
    assert type(again) is type(message)
    assert same(decode(encode(again)), again)


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
