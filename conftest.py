"""The rule for tests that need the public data sets; it holds for the tests and for the examples in docstrings.

Data are looked for in ``INFL_DATA_DIR``, else in ``../shared/data`` beside the repository, and fetched from
``INFL_DATA_URL`` where that is set. A test that needs them is marked ``data_dir`` (``pytestmark = pytest.mark.data_dir``
for a module). Without folder and mirror such tests are left out, and one line at the end says how many; under continuous
integration (``CI=true``) that is a failure.
"""

import os
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers fill the cores: threads of one would wait for those of another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import infl

_BESIDE = Path(__file__).resolve().parent.parent / "shared" / "data"
_EXAMPLES = "src/infl/datasets/_public.py"  # their examples read the files too
_INSTALLED_BY = {
    "scvi": "pip install 'infl[scvi]'",
    "peft": "pip install 'infl[trex]'",
    "transformers": "pip install 'infl[trex]'",
    "nvflare": "pip install 'infl[flare]'",
    "playwright": "pip install --group browser",
}
_left_out = pytest.StashKey[int]()
_took: Counter[str] = Counter()

# They load PEFT, which takes seconds, when they are collected: tests/nn/trex/test_tuner.py runs their examples.
collect_ignore = [f"src/infl/{name}" for name in ("nn/trex/__init__.py", "nn/trex/tuner.py", "models/adapter/net.py")]
# A former name, which warns whoever looks into it; a test of its own does.
collect_ignore += ["src/infl/privacy/attacks.py"]
# Scripts that made vectors, where the library that they are of is installed.
collect_ignore_glob = ["tests/vectors/*.py"]


def _data_dir() -> Path | None:
    named = os.environ.get("INFL_DATA_DIR")
    folder = Path(named).expanduser() if named else _BESIDE
    return folder if folder.is_dir() else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a package that is not installed, and give torch its own number of threads again.

    Numba, under UMAP, sets the threads of the library that both use.
    """
    for marker in item.iter_markers("needs"):
        if missing := [name for name in marker.args if find_spec(name) is None]:
            pytest.skip(f"needs {' and '.join(missing)}: {_INSTALLED_BY.get(missing[0], f'pip install {missing[0]}')}")
    if "PYTEST_XDIST_WORKER" in os.environ and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return one worker more than there are cores: tests with processes of their own wait much of their time."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers, and tell the package where the data are."""
    config.addinivalue_line(
        "markers", "needs(*packages): is skipped where one is not installed; none is loaded while tests are collected"
    )
    config.addinivalue_line(
        "markers", "data_dir: needs the folder of public data sets (INFL_DATA_DIR or ../shared/data)"
    )
    infl.settings.data_dir = _data_dir()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with files that take long; leave out what cannot run without the data, but not in continuous integration."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    took = _seconds(config)
    items.sort(key=lambda item: -took.get(_file(item.nodeid), 10.0 * (item.path in slow)))
    if _data_dir() is not None or infl.settings.data_url is not None:
        return
    needy = [item for item in items if item.get_closest_marker("data_dir") or item.nodeid.startswith(_EXAMPLES)]
    if needy and os.environ.get("CI", "").lower() == "true":
        raise pytest.UsageError(
            f"{len(needy)} tests need the public data: INFL_DATA_DIR or ../shared/data is no folder, INFL_DATA_URL not set"
        )
    config.stash[_left_out] = len(needy)
    config.hook.pytest_deselected(items=needy)
    items[:] = [item for item in items if item not in needy]


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _seconds(config: pytest.Config) -> dict[str, float]:
    """Return how long each file took when it was last run here."""
    cache = getattr(config, "cache", None)
    return {} if cache is None else cache.get(_kept(config), {})


def _kept(config: pytest.Config) -> str:
    """Return where it is kept, apart for each choice of markers: a file's long tests are not its others."""
    return f"infl/seconds/{config.getoption('markexpr') or 'all'}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up how long each file takes."""
    _took[_file(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep it for the order of the next run; with several workers, the process that leads them does."""
    cache = getattr(session.config, "cache", None)
    if cache is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        cache.set(_kept(session.config), _seconds(session.config) | _took)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests were left out."""
    if number := config.stash.get(_left_out, 0):
        terminalreporter.write_line(
            f"{number} tests left out: they need the public data (set INFL_DATA_DIR, or put them in ../shared/data)",
            yellow=True,
        )
