"""What Prometheus reads."""

import re
import urllib.error
import urllib.request

import pytest

from infl.deploy.attempt import Status
from infl.deploy.flare.metrics import HELP, exposition, metrics
from infl.errors import FederationError

SITES = {
    "site_1": {"up": True, "silent": 0.5, "in": 10, "out": 20, "trouble": ""},
    "site_2": {"up": False, "in": 1, "out": 2, "trouble": "lost"},
}
STATUS = Status("running", round=7, rounds=9, position=12, sites=SITES, attempts=2, updated=1e9, seconds=(1.0, 0.5))


def test_every_line_is_a_sample_of_a_known_name() -> None:
    text = exposition("tumours", STATUS)
    samples = dict(re.findall(r'^(\w+\{run="tumours"(?:,site="\w+")?\}) (\S+)$', text, re.MULTILINE))
    assert len(samples) == text.count("\n") - 2 * len(HELP)
    assert samples['infl_round{run="tumours"}'] == "7"
    assert samples['infl_round_seconds{run="tumours"}'] == "0.5"
    assert samples['infl_site_up{run="tumours",site="site_2"}'] == "0"
    assert samples['infl_site_bytes_in{run="tumours",site="site_1"}'] == "10"


def test_it_is_served_while_the_run_goes_on() -> None:
    now = [STATUS]
    with metrics(0, "tumours", lambda: now[0]) as port:
        url = f"http://127.0.0.1:{port}"
        assert 'infl_running{run="tumours"} 1' in urllib.request.urlopen(f"{url}/metrics").read().decode()
        now[0] = Status("finished")
        assert 'infl_finished{run="tumours"} 1' in urllib.request.urlopen(f"{url}/metrics").read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url)
        with (
            pytest.raises(FederationError, match=f"port {port} for metrics is taken"),
            metrics(port, "x", lambda: STATUS),
        ):
            pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/metrics")
