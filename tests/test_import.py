"""``import infl`` stays light."""

import subprocess
import sys

HEAVY = ("torch", "scanpy", "anndata", "mudata", "pandas", "matplotlib", "sklearn", "scipy", "pooch", "rich")


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, infl; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
