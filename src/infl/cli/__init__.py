"""The command line. Thin: arguments in, one call, clear errors out."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``infl``: exit code 0 when it worked, 2 for what the user can mend (one line), 1 for a defect of ours."""
    from infl.cli.app import app
    from infl.errors import InflError

    try:
        app()
    except InflError as error:
        print(f"infl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("infl: interrupted", file=sys.stderr)
        sys.exit(2)
