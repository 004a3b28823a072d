"""Rules of disclosure in force, and the register of each site that keeps them.

Off by default in one process, where all data are at hand; between machines a site's policy turns them on.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from infl._files import file_name
from infl._settings import bind, unbind
from infl.privacy.own_rules import check_own
from infl.privacy.register import Register
from infl.privacy.rules import DisclosureRules


class Disclosure:
    """Rules for the sums of sites, and the registers of what was released.

    Set as ``infl.settings.disclosure``, or in a ``with`` block, the rules bind every sum over sites. A function that has no rules yet
    refuses to run.

    Parameters
    ----------
    rules
        What is asked of each sum (default: ``DisclosureRules()``).
    folder
        Where the registers are kept, one folder for each site. None: in memory, for the life of this object.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> with infl.privacy.Disclosure(infl.privacy.DisclosureRules(dominance=1, features_per_record=1000)):
    ...     table = infl.pp.moments(sites)
    >>> int(table["mean"].isna().sum())
    0
    """

    def __init__(self, rules: DisclosureRules | None = None, folder: str | Path | None = None) -> None:
        self.rules, self.folder = rules or DisclosureRules(), None if folder is None else Path(folder)
        check_own(self.rules.own)
        self.opened: dict[str, dict[str, int]] = {}
        """By sum: how many of its numbers were opened (``""``), and how many each rule closed."""
        self._registers: dict[str, Register] = {}

    def register(self, site: str) -> Register:
        """Return the register of a site."""
        if site not in self._registers:
            self._registers[site] = Register(None if self.folder is None else self.folder / file_name(site))
        return self._registers[site]

    def __enter__(self) -> Disclosure:
        bind(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unbind(self)
