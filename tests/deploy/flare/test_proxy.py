"""The connection of a site goes where gRPC's would: by the proxy that the environment names."""

import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infl.deploy.flare.consortium import Consortium
from infl.deploy.flare.proxy import NOT_FOR, VARIABLES, connect, first_place


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *NOT_FOR):
        monkeypatch.delenv(name, raising=False)


class Proxy(BaseHTTPRequestHandler):
    """Connects one place with another, for those who say the word."""

    asked: list[tuple[str, str]]

    def do_CONNECT(self) -> None:
        given = self.headers.get("Proxy-Authorization", "").removeprefix("Basic ")
        self.asked.append((self.path, b64decode(given).decode()))
        if given and b64decode(given) != b"me:se cret":
            self.send_error(407)
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            self.send_response(200)
            self.end_headers()
            other.sendall(self.connection.recv(100))
            self.connection.sendall(other.recv(100))

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def proxy() -> Iterator[int]:
    Proxy.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def coordinator() -> Iterator[int]:
    """Answers in capitals, once."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as line:
                line.sendall(line.recv(100).upper())

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


def said(consortium: Consortium) -> bytes:
    with closing(connect(consortium, 10)) as line:
        line.sendall(b"hello")
        return line.recv(100)


def test_grpc_goes_by_the_proxy(proxy: int, coordinator: int, monkeypatch: pytest.MonkeyPatch) -> None:
    consortium = Consortium("con", "127.0.0.1", coordinator, "grpc")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("grpc_proxy", f"http://me:se%20cret@127.0.0.1:{proxy}")
    assert first_place(consortium) == ("127.0.0.1", proxy)
    assert said(consortium) == b"HELLO"
    assert Proxy.asked == [(f"127.0.0.1:{coordinator}", "me:se cret")]


@pytest.mark.parametrize(("scheme", "spared"), [("tcp", ""), ("grpc", "example.org, 127.0.0.1")])
def test_tcp_and_spared_hosts_go_straight(
    proxy: int, coordinator: int, monkeypatch: pytest.MonkeyPatch, scheme: str, spared: str
) -> None:
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy}")
    monkeypatch.setenv("no_proxy", spared)
    consortium = Consortium("con", "127.0.0.1", coordinator, scheme)
    assert first_place(consortium) == ("127.0.0.1", coordinator)
    assert said(consortium) == b"HELLO"
    assert Proxy.asked == []


def test_what_a_proxy_refuses_is_said(proxy: int, coordinator: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", f"http://me:wrong@127.0.0.1:{proxy}")
    with pytest.raises(OSError, match="407"):
        connect(Consortium("con", "127.0.0.1", coordinator, "grpc"), 10)
