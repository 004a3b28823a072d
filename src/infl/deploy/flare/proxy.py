"""The way to the coordinator: straight, or by the HTTP proxy that the environment names and gRPC takes."""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from infl.deploy.flare.consortium import Consortium

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
NOT_FOR = ("no_grpc_proxy", "no_proxy")
"""Environment variables, the first that is set counts; https://github.com/grpc/grpc/blob/master/doc/environment_variables.md"""


class Place(NamedTuple):
    """A machine's name and port."""

    host: str
    port: int


def first_place(consortium: Consortium) -> Place:
    """Return where a site's connection leads first: to a proxy, or to the coordinator.

    Examples
    --------
    >>> first_place(Consortium("con", "coordinator.example.org"))
    Place(host='coordinator.example.org', port=8002)
    """
    proxy = _proxy(consortium)
    if proxy is None:
        return Place(consortium.host, consortium.port)
    return Place(proxy.hostname or "", proxy.port or 80)


def connect(consortium: Consortium, seconds: float) -> socket.socket:
    """Return a connection to the coordinator, before TLS.

    Raises
    ------
    OSError
        There is none; says what the proxy said.
    """
    proxy = _proxy(consortium)
    if proxy is None:
        return socket.create_connection((consortium.host, consortium.port), timeout=seconds)
    line = HTTPConnection(*first_place(consortium), timeout=seconds)
    headers = {}
    if proxy.username is not None:
        who = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + b64encode(who.encode()).decode()
    line.set_tunnel(consortium.host, consortium.port, headers)
    try:
        line.connect()
    except HTTPException as error:
        raise OSError(f"{proxy.hostname} is no proxy: {error!r:.60}") from None
    assert line.sock is not None  # for the type checker: it is connected
    return line.sock


def _proxy(consortium: Consortium) -> SplitResult | None:
    if consortium.scheme != "grpc":  # FLARE's own connections take none
        return None
    value = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), "")
    spared = next((os.environ[name] for name in NOT_FOR if os.environ.get(name)), "").split(",")
    if not value or any(consortium.host.endswith(end.strip()) for end in spared if end.strip()):
        return None
    return urlsplit(value if "//" in value else f"http://{value}")
