"""The command line. Thin: arguments in, one call, clear errors out."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run ``infl``: exit code 0 when it worked, that of the error for what the user can mend (one line), 1 for a defect of ours."""
    from infl.cli.app import app
    from infl.errors import InflError

    try:
        app()
    except InflError as error:
        print(f"infl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("infl: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)  # as shells have it
