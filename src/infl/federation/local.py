"""The in-process transport: sites in one process, nothing to install or start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infl.federation.coordinator import Reply
    from infl.federation.messages import Plan
    from infl.federation.site import Site


class LocalTransport:
    """Calls one site after the other.

    Parameters
    ----------
    sites
        By name. They share one replica.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = sites

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Yield each site's answer."""
        for name in cohort:
            reply = self.sites[name].handle(plan_for(name))
            if reply is not None:
                yield reply

    def holder(self, site: str) -> str:
        """All sites share one replica."""
        return "shared"
