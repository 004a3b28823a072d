"""``python -m infl`` is the command ``infl``."""

from infl.cli import main

main()
