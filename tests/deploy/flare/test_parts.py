"""The parts between FLARE and a run, each alone, with what is on FLARE's side played by the test."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

pytest.importorskip("nvflare")

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey

from infl.deploy.flare import checks
from infl.deploy.flare.console import Console
from infl.deploy.flare.consortium import Consortium
from infl.deploy.flare.controller import InflController
from infl.deploy.flare.job_channel import CHANNEL, JobChannel
from infl.errors import FederationError, FileError, SettingsError

LIMIT = 1000


class Cell:
    """FLARE's end of a line: keeps what is sent and refused, and has what FLARE would call."""

    def __init__(self, *, broken: bool = False) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.rejected: list[Any] = []
        self.broken = broken
        self.core_cell = SimpleNamespace(
            add_incoming_request_filter=lambda channel, topic, f: setattr(self, "admit", f)
        )
        self.byte_receiver = SimpleNamespace(reject=lambda message, error: self.rejected.append(message))

    def register_blob_cb(self, channel: str, topic: str, call: Any) -> None:
        self.arrived = call

    def send_blob(self, channel: str, topic: str, address: str, message: Any, optional: bool) -> None:
        if self.broken:
            raise ConnectionError("no route")
        self.sent.append((address, message.payload))


def channel_of(cell: Cell) -> tuple[JobChannel, list[tuple[str, bytes]]]:
    heard: list[tuple[str, bytes]] = []
    return JobChannel(
        cell, {"site_1": "site_1.job"}, lambda name, content: heard.append((name, content)), lambda: LIMIT
    ), heard


def stream(origin: str, size: Any, channel: str = CHANNEL) -> Message:
    return Message(
        {StreamHeaderKey.CHANNEL: channel, MessageHeaderKey.ORIGIN: origin, StreamHeaderKey.SIZE: size}, None
    )


@pytest.mark.parametrize(
    ("origin", "size", "admitted"),
    [
        ("site_1.job", LIMIT, True),
        ("site_1.job", LIMIT + 1, False),
        ("site_1.job", -1, False),
        ("site_1.job", "many", False),
        ("site_1.another_job", 10, False),
        ("stranger", 10, False),
    ],
)
def test_only_this_jobs_processes_are_heard_and_no_more_than_is_due(origin: str, size: Any, admitted: bool) -> None:
    cell = Cell()
    channel_of(cell)
    assert (cell.admit(stream(origin, size)) is None) == admitted
    assert len(cell.rejected) == (not admitted)


def test_streams_of_flares_own_pass() -> None:
    cell = Cell()
    channel_of(cell)
    assert cell.admit(stream("stranger", 10**12, "flare")) is None and not cell.rejected


def arrival(origin: str, result: Any) -> Any:
    def content() -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    return SimpleNamespace(headers={MessageHeaderKey.ORIGIN: origin}, result=content)


def test_what_arrives_is_handed_over_whole_with_the_name_of_its_sender(caplog: pytest.LogCaptureFixture) -> None:
    cell = Cell()
    channel, heard = channel_of(cell)
    cell.arrived(arrival("site_1.job", b"one"))
    cell.arrived(arrival("site_1.job", [b"t", b"wo"]))
    cell.arrived(arrival("stranger", b"noise"))
    cell.arrived(arrival("site_1.job", RuntimeError("broke off")))
    assert heard == [("site_1", b"one"), ("site_1", b"two")]
    assert "a message of 'site_1.job' broke off: RuntimeError" in caplog.text
    channel.close()
    cell.arrived(arrival("site_1.job", b"late"))
    assert len(heard) == 2


def test_what_cannot_be_sent_is_logged_and_lost(caplog: pytest.LogCaptureFixture) -> None:
    cell = Cell()
    channel, _ = channel_of(cell)
    channel.send("site_1", b"content")
    channel.send("stranger", b"content")
    assert cell.sent == [("site_1.job", b"content")]
    with caplog.at_level(logging.WARNING):
        channel_of(Cell(broken=True))[0].send("site_1", b"content")
    assert "could not send to site_1: ConnectionError" in caplog.text
    channel.close()
    channel.send("site_1", b"content")
    assert len(cell.sent) == 1


FLARE = """
import nvflare.fuel.flare_api.flare_api as api
from nvflare.fuel.flare_api.api_spec import JobNotFound

class Session:
    n = 0
    def __init__(self):
        Session.n += 1
    def submit_job(self, job):
        print("FLARE talks on its standard output")
        return f"{job} of session {Session.n}"
    def get_job_status(self, job):
        if job == "none":
            raise JobNotFound("none")
        raise ConnectionError("the server is away")
    def close(self):
        raise RuntimeError("closed already")

def new(user, kit, **_):
    if kit == "away":
        raise ConnectionError("nobody there")
    return Session()

api.new_secure_session = new
from infl.deploy.flare.console import main
main(KIT)
"""


def asked(kit: str, *requests: list[str]) -> list[dict[str, Any]]:
    """Return what the console's process answers."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    code = FLARE.replace("KIT", repr(kit))
    done = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_consoles_process_answers_line_by_line_and_begins_a_new_session_after_an_error() -> None:
    first, missing, error, again = asked("kit", ["submit", "a"], ["state", "none"], ["state", "a"], ["submit", "b"])
    assert first == {"value": "a of session 1"}
    assert missing == {}
    assert error == {"error": "ConnectionError: the server is away"}
    assert again == {"value": "b of session 2"}


def test_the_consoles_process_says_that_the_server_is_away() -> None:
    assert asked("away", ["submit", "a"]) == [{"error": "ConnectionError: nobody there"}]


# -- what people write -------------------------------------------------------------------------------------------------
def test_the_consoles_process_starts_in_its_kit_and_asks_no_name_server(tmp_path: Path) -> None:
    """FLARE looks through all folders below; gRPC would wait for a name server that cannot be reached."""
    console = Console(tmp_path)
    process = psutil.Process(console._started().pid)
    assert Path(process.cwd()) == tmp_path.resolve()
    assert process.environ()["GRPC_DNS_RESOLVER"] == "native"
    console.close()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "two words"}, "consortium 'two words': use letters"),
        ({"scheme": "http"}, "scheme 'http': 'tcp' or 'grpc'"),
        ({"port": 0}, "port 0: 1 to 65535"),
        ({"port": 65536}, "port 65536: 1 to 65535"),
    ],
)
def test_a_consortium_that_cannot_be(changes: dict[str, Any], why: str) -> None:
    good = {"name": "consortium", "host": "localhost", "port": 8002}
    assert Consortium(**good).port == 8002
    with pytest.raises(SettingsError, match=why):
        Consortium(**{**good, **changes})


def test_the_name_of_a_run_is_no_path() -> None:
    with pytest.raises(SettingsError, match="a name has letters, digits"):
        InflController("../run")


@pytest.mark.parametrize(("left", "said"), [(400.0, "valid for 400 days"), (59.0, "valid for 59 days: renew it soon")])
def test_how_long_a_certificate_is_valid(left: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "days_left", lambda kit: left)
    assert checks.days(Path("kit")).startswith(said)


def test_a_certificate_that_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "days_left", lambda kit: -3.0)
    with pytest.raises(FederationError, match="expired 3 days ago, or this machine's clock is wrong"):
        checks.days(Path("kit"))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks._disk(tmp_path).endswith("GB free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda home: SimpleNamespace(free=10**6))
    with pytest.raises(FileError, match=r"1 MB free at .*: make room for"):
        checks._disk(tmp_path)
