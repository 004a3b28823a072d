"""The table of ``infl demo``, and of README: all methods on Khan's tumours at five hospitals, five random splits, one key.

The splits, sites and settings are those of Khan's rows in ``benchmarks/published.py``.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

from _evidence import over_resplits
from _table import Table
from infl.cli.demo import run_demo

TEST_SHARE = 0.3
"""As :func:`infl.tl.compare` has it."""


def main() -> None:
    """Run the demo and keep its table."""
    table = Table("demo")
    with tempfile.TemporaryDirectory() as folder:
        records = run_demo(Path(folder)).attrs["values"]
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if not record["site"]:
            found[f"{record['method']}: {record['metric']}"].append(record["value"])
    for what, values in found.items():
        table.estimate(what, "", over_resplits(values, TEST_SHARE), data="khan")
    table.save()


if __name__ == "__main__":
    main()
