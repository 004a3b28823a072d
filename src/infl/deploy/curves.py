"""Loss and metrics of a run's rounds at a site, for TensorBoard: what is in ``history.csv`` at the end, while the run goes on."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl.errors import MissingExtraError

if TYPE_CHECKING:
    from infl.federation.site import Site

log = logging.getLogger(__name__)


def require_tensorboard() -> None:
    """Raise a MissingExtraError unless TensorBoard is installed."""
    if find_spec("tensorboard") is None:
        raise MissingExtraError("curves need TensorBoard: pip install 'infl[curves]'")


class Curves:
    """Writes what the opened sums say of each round; nothing that is the site's alone.

    Parameters
    ----------
    folder
        Of all runs; each gets a folder of its own in it (empty: nothing is written).

    Examples
    --------
    >>> Curves("").folder is None
    True
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) if str(folder) else None
        self._writer: Any = None
        self._written: list[set[str]] = []

    def write(self, site: Site) -> None:
        """Write what the site has learned since the last time. A disk that is full costs curves, not the run."""
        rows = site.replica.rows
        if self.folder is None or not rows:
            return
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                # all rounds so far come again after a new start, and replace those from before it
                self._writer = SummaryWriter(str(self.folder / site.replica.agreement.run[:12]), purge_step=1)
            before = len(self._written)
            self._written += [set() for _ in rows[before:]]
            for at in range(max(0, before - 1), len(rows)):  # the last round's metrics come with the next sum
                for name in rows[at].keys() - self._written[at]:
                    self._writer.add_scalar(name, rows[at][name], at + 1)
                    self._written[at].add(name)
            self._writer.flush()
        except OSError as error:
            log.warning("no curves are written to %s: %s", self.folder, error)
            self.folder = None

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
