"""Run README's ten lines, the command line's help and the demo with an installed wheel; a warning of infl is an error.

``python tests/wheel.py``, with the Python of an environment in which the wheel is installed. Everything runs in a folder of
its own, so that the sources beside this file are not what is imported.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python's own option -W takes the whole name of a module, not where it begins; this file is read by workers too.
FILTER = r"import warnings; warnings.filterwarnings('error', module=r'infl(\.|$)')"


def main() -> None:
    """Run each of them, and stop at the first that fails."""
    [ten_lines] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(FILTER)
        env = os.environ | {"PYTHONPATH": folder, "MPLBACKEND": "agg"}

        def run(*command: str) -> str:
            return subprocess.run(
                [sys.executable, *command], cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True
            ).stdout

        where = run("-c", "import infl; print(infl.__version__, infl.__file__)").strip()
        if str(ROOT / "src") in where:
            raise SystemExit(f"{where}: not the wheel; install it, without --editable")
        print(where, flush=True)
        run("-c", ten_lines)
        print("ten lines: fine", flush=True)
        run("-c", "from infl.governance.language import Words; assert Words('de').say('In short') != 'In short'")
        print("catalogues of the report: there", flush=True)
        run("-m", "infl", "--help")
        run("-m", "infl", "demo", "--out", "demo")
        print("help and demo: fine")


if __name__ == "__main__":
    main()
