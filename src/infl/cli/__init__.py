"""The command line. Thin: arguments in, one call, clear errors out."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run ``infl``: exit code 0 when it worked, that of the error for what the user can mend (one line), 1 for a defect of ours."""
    from infl.cli.app import app
    from infl.errors import FileError, InflError

    try:
        app()
    except InflError as error:
        print(f"infl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        line = FileError.of(
            f"cannot use {error.filename}", error
        )  # a folder where a file should be, no permission, no room
        print(f"infl: {line}", file=sys.stderr)
        sys.exit(line.exit_code)
    except KeyboardInterrupt:
        print("infl: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)  # as shells have it
