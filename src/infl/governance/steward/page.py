"""The whole page, section by section."""

from __future__ import annotations

from infl._html import Page
from infl.governance.facts import Facts
from infl.governance.steward.protection import (
    differential_privacy,
    the_key,
    what_attacks_got,
    what_is_left,
    who_can_read,
)
from infl.governance.steward.run import how_fitted, in_short, to_sign, what_left, what_people_say, who_took_part
from infl.governance.steward.worth import how_good, what_else


def steward_page(facts: Facts) -> Page:
    """Return the page: a place for each section, in the order in which it is read.

    Parameters
    ----------
    facts
        The run, and what else is known of it.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    >>> page = steward_page(Facts(run))
    >>> page.title, page.headings[0]
    ('One classifier for tumour_class, fitted by 5 sites', 'In short')
    """
    what = f"{facts.settings['task']} for {facts.target}" if facts.target else f"{facts.settings['task']} model"
    n = len(facts.sites)
    page = Page(
        f"One {what}, fitted by {n} site{'s' if n != 1 else ''}",
        lead=f"Report on a federated run, written {facts.written} by infl {facts.versions['infl']}. For data stewards, "
        "data-access committees and ethics boards.",
        foot=f"Run {facts.settings['run']} · model file SHA-256 {facts.run.model.header.digest} · this page has no key and "
        "no patient's data in it, and loads nothing from elsewhere.",
    )
    for part in (
        in_short,
        what_people_say,
        who_took_part,
        what_left,
        who_can_read,
        the_key,
        differential_privacy,
        what_attacks_got,
        how_good,
        what_else,
        how_fitted,
        what_is_left,
        to_sign,
    ):
        part(page, facts)
    return page
