"""Every message can be sent, and one with a field of another kind is refused."""

import json
from typing import Any

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
)
from infl.federation.wire import decode, encode


def test_every_message_can_be_sent() -> None:
    seen: set[type] = set()

    @settings(max_examples=400, database=None)
    @given(messages)
    def draw(message: Any) -> None:
        seen.add(type(message))

    draw()
    assert seen == set(MESSAGE_TYPES)


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
