"""Coordinators in a tree: each adds the answers of its own sites and sends one sum on.

A coordinator of thousands of sites is limited by its line. Adding is associative, and it needs no key: so it can be done in parts, in as
many levels as one likes. A region's coordinator sees what the coordinator of the run would see of these sites, and nothing else; what it
sends on has their masks on it, those between two regions too, and opens together with the sums of the other regions alone, where
the run's coordinator and the sites do what they do without regions. A region that leaves a site out, or changes a word, is noticed as
the coordinator of the run would be: the site counts as lost, or the tag does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from infl.errors import SettingsError
from infl.federation.coordinator import Transport
from infl.federation.gathered import Gathered
from infl.federation.messages import Answer, Plan, Reply, Subtotal


class Region:
    """The coordinator of a region: stands between some sites and the coordinator of the run, or of a larger region.

    Parameters
    ----------
    name
        Of the region.
    sites
        Whose answers it adds.
    transport
        Moves messages between it and its sites, or :class:`Regions` of its own.

    Examples
    --------
    >>> from infl.federation.local import LocalTransport
    >>> Region("north", ("a", "b"), LocalTransport({})).sites
    ('a', 'b')
    """

    def __init__(self, name: str, sites: Sequence[str], transport: Transport) -> None:
        self.name, self.sites, self.transport = name, tuple(sites), transport

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Pass plans on to the sites of `cohort`, and yield the sum of their answers; what is no answer goes on as it is."""
        gathered: Gathered | None = None

        def passed_on(site: str) -> Plan:
            nonlocal gathered
            plan = plan_for(site)
            if gathered is None:
                gathered = Gathered(replace(plan, cohort=cohort))
            return plan

        for reply in self.transport.ask(cohort, passed_on):
            if isinstance(reply, Answer | Subtotal) and gathered is not None:
                gathered.take(reply)
            else:
                yield reply
            del reply  # its buffer goes before the next one comes
        if gathered is not None and (subtotal := gathered.subtotal(self.name)) is not None:
            yield subtotal

    def holder(self, site: str) -> str:
        """Name of the replica that `site` uses."""
        return self.transport.holder(site)


class Regions:
    """The regions of a run, or of a larger region: a transport that asks one after the other.

    Parameters
    ----------
    regions
        No site is in two of them.

    Raises
    ------
    SettingsError
        A site is in two regions.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> from infl.federation.agreement import Agreement
    >>> from infl.federation.local import run_in_process
    >>> task, key = infl.models.Classifier(target="tumour_class"), infl.keys.Keyring.create()
    >>> agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=1)
    >>> north, south = ("site_1", "site_3"), ("site_2", "site_4", "site_5")
    >>> def tree(line):
    ...     return Regions([Region("north", north, line), Region("south", south, line)])
    >>> len(run_in_process(agreement, task, sites, key, wrap=tree).run.history)
    1
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = tuple(regions)
        self._of: dict[str, Region] = {}
        for region in self._regions:
            for site in region.sites:
                if (other := self._of.setdefault(site, region)) is not region:
                    raise SettingsError(
                        f"{site!r} is in two regions, {other.name!r} and {region.name!r}: leave it in one"
                    )

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Yield what each region with sites of the cohort answers; a site of no region counts as lost."""
        for region in self._regions:
            if mine := tuple(site for site in cohort if self._of.get(site) is region):
                yield from region.ask(mine, plan_for)

    def holder(self, site: str) -> str:
        """Name of the replica that `site` uses."""
        return self._of[site].holder(site) if site in self._of else site
