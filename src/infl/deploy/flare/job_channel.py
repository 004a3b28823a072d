"""Bytes between the processes of a FLARE job, by its cells, without FLARE's own serialisation.

Only the job's own processes are heard, by the identity that FLARE binds to their certificates; what comes from others, or
is larger than what is due, is refused before memory is set aside for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import StreamError

log = logging.getLogger(__name__)
CHANNEL, TOPIC = "infl", "message"


def cells_of(job: str, clients: Iterable[Any]) -> dict[str, str]:
    """Return the address of each client's process of a job, by the client's name."""
    return {client.name: FQCN.join([client.get_fqcn(), job]) for client in clients}


def server_cell(job: str) -> str:
    """Return the address of the server's process of a job."""
    return FQCN.join([FQCN.ROOT_SERVER, job])


class JobChannel:
    """Sends bytes to named peers and hands over what they send.

    Parameters
    ----------
    cell
        This process's cell.
    addresses
        The peers' addresses by name.
    receive
        Called with a peer's name and its bytes.
    limit
        Most bytes that are due now.
    """

    def __init__(
        self,
        cell: Any,
        addresses: Mapping[str, str],
        receive: Callable[[str, bytes], None],
        limit: Callable[[], int],
    ) -> None:
        self._cell, self._addresses, self._receive, self._limit = cell, dict(addresses), receive, limit
        self._names = {address: name for name, address in addresses.items()}
        self._open = True
        cell.core_cell.add_incoming_request_filter(STREAM_CHANNEL, STREAM_DATA_TOPIC, self._admit)
        cell.register_blob_cb(CHANNEL, TOPIC, self._arrived)

    def send(self, name: str, content: bytes | list[memoryview]) -> None:
        """Send bytes, or parts of a message one after the other, to a peer; they may be lost."""
        if not self._open or name not in self._addresses:
            return
        try:
            self._cell.send_blob(CHANNEL, TOPIC, self._addresses[name], Message({}, content), optional=True)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises, a lost message is asked for again
            log.warning("could not send to %s: %s", name, type(error).__name__)

    def close(self) -> None:
        """Neither send nor hand over anything any more."""
        self._open = False

    def _admit(self, message: Message) -> Message | None:
        """Refuse a stream on infl's channel that is not from this job or too large; FLARE's own streams pass."""
        if message.get_header(StreamHeaderKey.CHANNEL) != CHANNEL:
            return None
        origin, size = message.get_header(MessageHeaderKey.ORIGIN), message.get_header(StreamHeaderKey.SIZE, 0)
        if origin in self._names and isinstance(size, int) and 0 <= size <= self._limit():
            return None
        log.warning("refused a message of %.100r with %.20r bytes", origin, size)
        self._cell.byte_receiver.reject(message, StreamError("refused by infl"))
        return Message()  # ends its delivery

    def _arrived(self, future: Any, *args: Any) -> None:
        origin = future.headers.get(MessageHeaderKey.ORIGIN)
        try:
            content = future.result()
        except Exception as error:  # noqa: BLE001 - the stream broke off; what was lost is asked for again
            log.warning("a message of %.100r broke off: %s", origin, type(error).__name__)
            return
        if isinstance(content, list):
            content = b"".join(content)
        if self._open and origin in self._names:
            self._receive(self._names[origin], content)
