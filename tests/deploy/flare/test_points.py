"""The points of the code at which `make faults` kills a participant are there."""

import importlib
import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "points" / "sitecustomize.py"
spec = importlib.util.spec_from_file_location("points_of_faults", SCRIPT)
assert spec is not None and spec.loader is not None
spec.loader.exec_module(points := importlib.util.module_from_spec(spec))


@pytest.mark.parametrize(("module", "names"), points.POINTS.items(), ids=[*points.POINTS])
def test_points_are_functions_of_the_code(module: str, names: tuple[str, ...]) -> None:
    """One that was renamed would stop every process that imports the module, and every fault with it."""
    for name in names:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)
