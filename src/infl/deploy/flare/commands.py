"""FLARE's own command, ``nvflare``, without loading FLARE for each call.

``python -m infl.deploy.flare.commands`` loads FLARE once, reads a command per line and answers with a line, both JSON;
each command runs in a fork, so that none sees what another left behind. The process ends with the one that started it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

from infl.errors import FederationError

PROGRAM = (sys.executable, "-m", "infl.deploy.flare.commands")
_lock = threading.Lock()


def nvflare(home: Path, *arguments: object) -> None:
    """Run FLARE's own command; its audit files stay in `home`.

    Raises
    ------
    FederationError
        It failed; has the first lines that it printed.
    """
    words = [*map(str, arguments)]
    asked = {"folder": str(Path.cwd()), "home": str(home.resolve()), "arguments": words}
    with _lock:
        process = _process(os.getpid())
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
        except (OSError, ValueError) as error:
            _process.cache_clear()
            raise FederationError("nvflare could not be started: try `nvflare --version`") from error
    if answer["code"]:
        output = [line for line in answer["output"].splitlines() if line.strip()]
        raise FederationError(f"nvflare {' '.join(words[:2])}: {' '.join(output[:2])}")


@cache
def _process(parent: int) -> subprocess.Popen[str]:
    """Start the process; a fork of this one gets its own."""
    return subprocess.Popen(
        PROGRAM, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


# -- the process ------------------------------------------------------------------------------------------------------
def main() -> None:
    """Run commands until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what FLARE prints while it loads is no answer
    import nvflare.cli  # noqa: F401 - what the forks begin with

    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as output:
            process = multiprocessing.get_context("fork").Process(target=_run, args=(json.loads(line), output.fileno()))
            process.start()
            process.join()
            output.seek(0)
            answer = {"code": process.exitcode, "output": output.read()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _run(asked: dict[str, Any], output: int) -> None:
    from nvflare.cli import main as command

    os.chdir(asked["folder"])
    os.environ.update(HOME=asked["home"], NO_COLOR="1")
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["nvflare", *asked["arguments"]]
    command()


if __name__ == "__main__":
    main()
