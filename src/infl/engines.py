"""Where a fit runs when it does not run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infl.deploy.flare.notebook import FlareEngine

__all__ = ["flare"]


def flare(
    kit: str | Path, *, site: str | Path, panel: str | Path | None = None, give_up: float = float("inf")
) -> FlareEngine:
    """Return an engine for ``infl.tl.fit_federated(..., engine=)`` that runs the fit over enrolled sites.

    The coordinator is up (``infl coordinator start``), and so is every site (``infl site start``), this one included.

    Parameters
    ----------
    kit
        The coordinator's admin kit, or a copy of it: who has it may ask for runs. Each site's policy decides.
    site
        This site's own folder, where the model arrives.
    panel
        ``panel.json`` of all sites (``infl run panel``); default: that of the data that are given to the fit.
    give_up
        Seconds without progress after which to end with an error.

    Raises
    ------
    MissingExtraError
        NVIDIA FLARE is not installed.
    FileError
        `kit` or `site` is not what it should be.

    Examples
    --------
    >>> import infl
    >>> infl.engines.flare("nowhere", site="hospital_a")
    Traceback (most recent call last):
    infl.errors.FileError: nowhere is no admin kit: it is the folder 'admin' that `infl coordinator init` makes
    """
    from infl.deploy.flare.notebook import FlareEngine

    return FlareEngine(Path(kit), Path(site), None if panel is None else Path(panel), give_up)
