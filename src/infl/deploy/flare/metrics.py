"""What a coordinator or a site knows of itself, for Prometheus: text at ``/metrics``, names and numbers only."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from infl.deploy.attempt import FINAL_STATES, NO_TROUBLE, AttemptFolder
from infl.deploy.condition import condition
from infl.deploy.flare.kits import days_left
from infl.deploy.flare.line import REFUSED, UP, Line
from infl.deploy.results import is_written
from infl.deploy.site_folder import SiteFolder
from infl.errors import SettingsError, UnreachableError

HELP = {
    "infl_round": "Last finished round of a run, or step of a study.",
    "infl_rounds": "Rounds of the run.",
    "infl_exchanges": "Finished exchanges.",
    "infl_attempts": "Attempts at the run.",
    "infl_running": "1 while an attempt is under way and its heartbeat is heard.",
    "infl_waiting": "1 while the next attempt waits for sites, for room or for its time.",
    "infl_finished": "1 when the run is finished.",
    "infl_stopped": "1 when the run was stopped.",
    "infl_round_seconds": "Duration of the last round.",
    "infl_updated_seconds": "When the state was written, in seconds since 1970.",
    "infl_site_up": "1 while a site is heard of.",
    "infl_site_bytes_in": "Bytes from a site in this attempt.",
    "infl_site_bytes_out": "Bytes to a site in this attempt.",
    "infl_site_in_trouble": "1 when a site declined, or could not answer.",
    "infl_line_up": "1 while this site is connected to the coordinator.",
    "infl_line_refused": "1 when the coordinator shut this site out.",
    "infl_line_since_seconds": "Since when the line is as it is, in seconds since 1970.",
    "infl_runs_offered": "Runs that were offered to this site.",
    "infl_runs_finished": "Runs that were finished at this site.",
    "infl_refusals": "Refusals and troubles in this site's events.jsonl.",
    "infl_certificate_days": "Days for which the certificate is valid.",
    "infl_disk_free_bytes": "Free bytes where the participant's folder is.",
}
"""All names, with what they say; all are gauges."""
LINGER = 60.0
"""Seconds that a run which is over stays visible at most: until it was read once."""

Sample = tuple[str, dict[str, str], float]
"""Name, labels and value."""


def exposition(samples: Iterable[Sample]) -> str:
    """Return samples in Prometheus' text format.

    Examples
    --------
    >>> print(exposition([("infl_round", {"run": "tumours"}, 3)]))
    # HELP infl_round Last finished round of a run, or step of a study.
    # TYPE infl_round gauge
    infl_round{run="tumours"} 3
    <BLANKLINE>
    """
    rows: dict[str, list[str]] = {}
    for name, labels, value in samples:
        inside = ",".join(f'{label}="{of}"' for label, of in labels.items())
        rows.setdefault(name, []).append(f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}")
    lines = []
    for name, samples_of in rows.items():
        lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge", *samples_of]
    return "\n".join(lines) + "\n"


def of_coordinator(home: Path, run: AttemptFolder) -> list[Sample]:
    """Return what a coordinator knows of itself and of the run that it works for."""
    found = condition(run)
    status, name = found.status, {"run": run.folder.name}
    seconds = {"infl_round_seconds": status.seconds[-1]} if status.seconds else {}
    values = {
        "infl_round": status.round, "infl_rounds": status.rounds, "infl_exchanges": status.position,
        "infl_attempts": status.attempts, "infl_running": int(status.state == "running" and found.fresh),
        "infl_waiting": int(bool(status.waits) and not found.over), "infl_finished": int(status.state == "finished"),
        "infl_stopped": int(found.over and status.state != "finished"), "infl_updated_seconds": status.updated,
    }  # fmt: skip
    samples: list[Sample] = [(what, name, value) for what, value in (values | seconds).items()]
    for site, row in status.sites.items():
        labels = name | {"site": site}
        up = int(row["up"] and found.fresh)
        samples += [
            ("infl_site_up", labels, up),
            ("infl_site_bytes_in", labels, row["in"]),
            ("infl_site_bytes_out", labels, row["out"]),
            ("infl_site_in_trouble", labels, int(row["trouble"] not in NO_TROUBLE)),
        ]
    return samples + _of_folder(home)


def of_site(site_folder: SiteFolder) -> list[Sample]:
    """Return what a site knows of itself; no name of a run and no number of records is among it."""
    runs, line = site_folder.runs(), Line.read(site_folder.home)
    events = site_folder.log.events()
    samples: list[Sample] = [
        ("infl_runs_offered", {}, len(runs)),
        ("infl_runs_finished", {}, sum(map(is_written, runs))),
        ("infl_refusals", {}, sum("refuse" in event or "must say yes" in event for event in events)),
    ]
    if line is not None:
        samples += [
            ("infl_line_up", {}, int(line.state == UP)),
            ("infl_line_refused", {}, int(line.state == REFUSED)),
            ("infl_line_since_seconds", {}, line.since),
        ]
    return samples + _of_folder(site_folder.home)


def _of_folder(home: Path) -> list[Sample]:
    return [
        ("infl_certificate_days", {}, days_left(home / "kit")),
        ("infl_disk_free_bytes", {}, shutil.disk_usage(home).free),
    ]


class Metrics:
    """A page that is read; its port is taken when it is made, so that nothing begins where that does not work.

    Parameters
    ----------
    address
        ``"9464"`` or ``"127.0.0.1:9464"`` for this machine only, ``"0.0.0.0:9464"`` for others, too; port 0: a free one.

    Raises
    ------
    SettingsError
        It is no address.
    UnreachableError
        The port is taken, or the address is not this machine's.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdigit() or int(port) > 65535:
            raise SettingsError(f"metrics at {address!r}: give a port, or ADDRESS:PORT, such as 127.0.0.1:9464")
        self._samples: Callable[[], Iterable[Sample]] = lambda: ()
        self._over, self._seen = threading.Event(), threading.Event()
        try:
            self._server = ThreadingHTTPServer((host or "127.0.0.1", int(port)), _page(self))
        except OSError as error:
            raise UnreachableError(
                f"metrics cannot be served at {address} ({error.strerror or error}): choose another"
            ) from None
        self.port = self._server.server_port

    def content(self) -> bytes:
        """Return the page, and note that it was read."""
        over = self._over.is_set()
        content = exposition(self._samples()).encode()
        if over:
            self._seen.set()
        return content

    @contextmanager
    def serve(self, samples: Callable[[], Iterable[Sample]]) -> Iterator[None]:
        """Serve what a function returns."""
        self._samples = samples
        with self._server:
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
            try:
                yield
            finally:
                self._server.shutdown()

    def linger(self, seconds: float = LINGER) -> None:
        """Wait until what is the case now was read once."""
        self._over.set()
        self._seen.wait(seconds)


def _page(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                code, content = (200, metrics.content()) if self.path == "/metrics" else (404, b"see /metrics\n")
            except Exception as error:  # noqa: BLE001 - whoever reads must see that there is nothing to read
                code, content = 500, f"{type(error).__name__}: {error}\n".encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    return Page


@contextmanager
def serving(metrics: Metrics | None, run: AttemptFolder, home: Path) -> Iterator[None]:
    """Serve a run's metrics, if they are wanted, and a little longer once it is over."""
    with metrics.serve(lambda: of_coordinator(home, run)) if metrics is not None else nullcontext():
        yield
        if metrics is not None and run.status.state in FINAL_STATES:
            metrics.linger()
