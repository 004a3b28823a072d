"""Messages as bytes: a JSON header, then the raw arrays. No pickle; what is not exactly a message is refused.

A message is ``INFL`` · version (uint32) · length of the header (uint32) · 4 zero bytes · header · buffers, all little endian.
The header has the message's name and its fields; where a field holds words or bytes it has their lengths, and the buffers
follow in the order of the fields, each padded to 8 bytes. How a field is read follows from its declared type, so a message
cannot get a field that is sent but not checked.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NoReturn, cast, get_args, get_origin, get_type_hints

import numpy as np

from infl.errors import FederationError, InflError
from infl.federation.messages import MESSAGE_TYPES
from infl.privacy.seal import MaskedArrays
from infl.privacy.seal.narrow import FULL, LEAST, pack, packed_size, unpack

MAGIC, VERSION = b"INFL", 3
PREFIX = 16
MAX_MESSAGE_BYTES = 1 << 33
"""Largest message; a receiver that knows what is due gives `decode` a smaller limit."""
MAX_HEADER = 1 << 25
MAX_TEXT = 1 << 10
MAX_ITEMS = 1 << 16
MAX_BLOB = 1 << 32
LANE_FORMATS = {"low": ("<u4", 4), "high": ("<u8", 8), "of_all": ("<u8", 8)}
"""Of :class:`MaskedArrays`: how a number is written, and its bytes."""


def encode(message: Any) -> bytes:
    """Return a message as bytes.

    Examples
    --------
    >>> from infl.federation.messages import Stopped
    >>> decode(encode(Stopped("site_1", seq=3)))
    Stopped(site='site_1', seq=3)
    """
    return b"".join(encode_parts(message))


def encode_parts(message: Any) -> list[memoryview]:
    """Return what :func:`encode` joins: the header, and views of the message's own arrays, which are not copied."""
    buffers: list[Any] = []
    name = type(message).__name__
    header = json.dumps({name: _plain(message, buffers)}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    parts = [MAGIC, VERSION.to_bytes(4, "little"), len(header).to_bytes(4, "little"), bytes(4), header]
    for buffer in buffers:
        parts += [buffer, bytes(-len(buffer) % 8)]
    return [memoryview(part) for part in parts if len(part)]


def name_of(content: bytes | memoryview) -> str:
    """Return what message bytes say that they are, without reading it; whether they are one is for :func:`decode`.

    Examples
    --------
    >>> from infl.federation.messages import Stopped
    >>> name_of(encode(Stopped("site_1", seq=3)))
    'Stopped'
    """
    _, _, name = bytes(content[PREFIX : PREFIX + 64]).partition(b'{"')
    return name.partition(b'"')[0].decode(errors="replace")


def decode(content: bytes | bytearray | memoryview, *, limit: int = MAX_MESSAGE_BYTES) -> Any:
    """Return the message that `content` is; its arrays are read-only views of `content`.

    Parameters
    ----------
    content
        From :func:`encode`, or anything else.
    limit
        Most bytes that are accepted.

    Raises
    ------
    FederationError
        It is no message: damaged, of another version, too large, or with a field that is missing, unknown or wrong.
    """
    view = memoryview(content).cast("B")
    if len(view) > limit:
        _refuse(f"{len(view):,} bytes, at most {limit:,} are due")
    if len(view) < PREFIX or view[:4] != MAGIC or view[12:16] != bytes(4):
        _refuse("not a message of infl")
    version, size = (int.from_bytes(view[start : start + 4], "little") for start in (4, 8))
    if version != VERSION:
        raise FederationError(f"a message has format {version}, this infl reads {VERSION}: install one infl everywhere")
    if size > min(MAX_HEADER, len(view) - PREFIX) or size % 8:
        _refuse("its header is cut short")
    buffers = _Buffers(view[PREFIX + size :])
    try:
        header = json.loads(bytes(view[PREFIX : PREFIX + size]), object_pairs_hook=_object, parse_constant=_refuse)
        ((name, fields),) = header.items()
        message = _dataclass(_classes()[name], fields, buffers)
    except InflError as error:
        raise (
            error if isinstance(error, FederationError) else FederationError(f"a message was refused: {error}")
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _refuse("its header is not one of a message")
    if buffers.rest:
        _refuse("it has bytes that belong to no field")
    return message


def _refuse(why: str) -> NoReturn:
    raise FederationError(f"a message was refused: {why}")


@cache
def _classes() -> dict[str, type]:
    return {message.__name__: message for message in MESSAGE_TYPES}


# -- to plain values ---------------------------------------------------------------------------------------------------
def _plain(value: Any, buffers: list[Any]) -> Any:
    if isinstance(value, MaskedArrays):
        lanes = [np.ascontiguousarray(getattr(value, name), dtype) for name, (dtype, _) in LANE_FORMATS.items()]
        low, *others = (lane.view(np.uint8) for lane in lanes)
        narrow = value.width < FULL
        buffers += [pack(lanes[0], value.width) if narrow else low, *others]
        return [len(lane) for lane in lanes] + [value.width] * narrow
    if isinstance(value, bytes):
        buffers.append(value)
        return len(value)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name), buffers) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item, buffers) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item, buffers) for item in value]
    return value


# -- and back ----------------------------------------------------------------------------------------------------------
class _Buffers:
    """Cuts what follows the header into buffers."""

    def __init__(self, rest: memoryview) -> None:
        self.rest = rest

    def take(self, n: int) -> memoryview:
        padded = n + -n % 8
        if padded > len(self.rest):
            _refuse("it is cut short")
        if bytes(self.rest[n:padded]).strip(b"\0"):
            _refuse("it has bytes that belong to no field")
        taken, self.rest = self.rest[:n], self.rest[padded:]
        return taken


def _dataclass(cls: type, raw: Any, buffers: _Buffers) -> Any:
    readers = _readers(cls)
    if type(raw) is not dict or list(raw) != list(readers):  # the order is that of the buffers
        _refuse(f"{cls.__name__} has other fields than {', '.join(readers)}")
    return cls(**{name: read(raw[name], buffers) for name, read in readers.items()})


@cache
def _readers(cls: type) -> dict[str, Callable[[Any, _Buffers], Any]]:
    hints = get_type_hints(cls)
    return {f.name: _reader(hints[f.name]) for f in dataclasses.fields(cls)}


def _reader(hint: Any) -> Callable[[Any, _Buffers], Any]:
    """Return what reads values of a declared type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and arguments[1:] == (...,):
        item = _reader(arguments[0])
        return lambda raw, buffers: tuple(item(r, buffers) for r in _list(raw))
    if origin is not None and issubclass(origin, Mapping) and arguments[0] is str:
        item = _reader(arguments[1])
        return lambda raw, buffers: {_text(k, buffers): item(v, buffers) for k, v in _dict(raw).items()}
    if hint in READERS:
        return READERS[hint]
    if dataclasses.is_dataclass(hint):
        return lambda raw, buffers: _dataclass(cast(type, hint), raw, buffers)
    raise TypeError(f"messages cannot have a field of type {hint}")


def _integer(raw: Any, buffers: _Buffers | None = None, *, least: int = 0, most: int = 1 << 53) -> int:
    if type(raw) is not int or not least <= raw <= most:
        _refuse("a number is missing or out of range")
    return raw


def _text(raw: Any, buffers: _Buffers | None = None) -> str:
    if type(raw) is not str or len(raw) > MAX_TEXT or not raw.isprintable():
        _refuse("a text is missing, too long or unprintable")
    return raw


def _list(raw: Any) -> list[Any]:
    if type(raw) is not list or len(raw) > MAX_ITEMS:
        _refuse("a list is missing or too long")
    return raw


def _dict(raw: Any) -> dict[str, Any]:
    if type(raw) is not dict or len(raw) > MAX_ITEMS:
        _refuse("a table is missing or too long")
    return raw


def _blob(raw: Any, buffers: _Buffers) -> bytes:
    return bytes(buffers.take(_integer(raw, most=MAX_BLOB)))


def _words(raw: Any, buffers: _Buffers) -> MaskedArrays:
    if len(_list(raw)) == len(LANE_FORMATS) + 1:
        return _narrow_words(raw, buffers)
    sizes = zip(raw, LANE_FORMATS.values(), strict=True)
    low, high, of_all = (np.frombuffer(buffers.take(_integer(n) * size), dtype) for n, (dtype, size) in sizes)
    return MaskedArrays(low, high, of_all)


def _narrow_words(raw: list[Any], buffers: _Buffers) -> MaskedArrays:
    """Read words of fewer than 32 bits, which the message has packed."""
    *sizes, width = (_integer(n) for n in raw)
    if not LEAST <= width < FULL:
        _refuse("its words have a width that none has")
    low = unpack(np.frombuffer(buffers.take(packed_size(sizes[0], width)), np.uint8), sizes[0], width)
    high, of_all = (np.frombuffer(buffers.take(n * 8), "<u8") for n in sizes[1:])
    return MaskedArrays(low, high, of_all, width)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Read a JSON object; one that names a field twice is read differently by different readers."""
    result = dict(pairs)
    if len(result) < len(pairs):
        _refuse("a field is named twice")
    return result


READERS: dict[Any, Callable[[Any, _Buffers], Any]] = {
    int: _integer,
    str: _text,
    bytes: _blob,
    MaskedArrays: _words,
}
