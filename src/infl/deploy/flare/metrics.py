"""What a coordinator knows of a run, for Prometheus: text at ``/metrics``, names and numbers of the run only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from infl.deploy.attempt import Status
from infl.errors import UnreachableError

HELP = {
    "infl_round": "Last finished round.",
    "infl_rounds": "Rounds of the run.",
    "infl_exchanges": "Finished exchanges.",
    "infl_attempts": "Attempts at the run.",
    "infl_running": "1 while an attempt is under way.",
    "infl_finished": "1 when the run is finished.",
    "infl_round_seconds": "Duration of the last round.",
    "infl_updated_seconds": "When the state was written, in seconds since 1970.",
    "infl_site_up": "1 while a site is heard of.",
    "infl_site_bytes_in": "Bytes from a site in this attempt.",
    "infl_site_bytes_out": "Bytes to a site in this attempt.",
}


def exposition(run: str, status: Status) -> str:
    """Return a status in Prometheus' text format.

    Examples
    --------
    >>> print(exposition("tumours", Status(state="running", round=3)).splitlines()[2])
    infl_round{run="tumours"} 3
    """
    values: dict[str, dict[str, float]] = {
        "infl_round": {"": status.round},
        "infl_rounds": {"": status.rounds},
        "infl_exchanges": {"": status.position},
        "infl_attempts": {"": status.attempts},
        "infl_running": {"": int(status.state == "running")},
        "infl_finished": {"": int(status.state == "finished")},
        "infl_round_seconds": {"": status.seconds[-1]} if status.seconds else {},
        "infl_updated_seconds": {"": status.updated},
        "infl_site_up": {site: int(row["up"]) for site, row in status.sites.items()},
        "infl_site_bytes_in": {site: row["in"] for site, row in status.sites.items()},
        "infl_site_bytes_out": {site: row["out"] for site, row in status.sites.items()},
    }
    lines = []
    for name, rows in values.items():
        lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge"]
        for site, value in rows.items():
            lines.append(f'{name}{{run="{run}"{f",site={chr(34)}{site}{chr(34)}" if site else ""}}} {value:.17g}')
    return "\n".join(lines) + "\n"


@contextmanager
def metrics(port: int, run: str, status: Callable[[], Status], *, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve a run's state, and yield the port (0: a free one).

    Raises
    ------
    UnreachableError
        The port is taken.
    """

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/metrics"
            content = exposition(run, status()).encode() if found else b"see /metrics\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    try:
        server = ThreadingHTTPServer((host, port), Page)
    except OSError as error:
        raise UnreachableError(f"port {port} for metrics is taken ({error.strerror}): choose another") from None
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
