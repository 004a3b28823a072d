"""The whole page, section by section."""

from __future__ import annotations

from infl._html import Page
from infl.governance.facts import Facts
from infl.governance.steward import texts
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
    words = facts.words
    say = words.say
    task = words.part(facts.settings["task"])
    what = (
        say("{task} for {target}", task=task, target=facts.target) if facts.target else say("{task} model", task=task)
    )
    page = Page(
        words.count("One {what}, fitted by {n} site", "One {what}, fitted by {n} sites", len(facts.sites), what=what),
        lead=say(
            "Report on a federated run, written {when} by infl {version}. For data stewards, data-access committees and ethics "
            "boards.",
            when=facts.written,
            version=facts.versions["infl"],
        ),
        foot=say(
            "Run {run} · model file SHA-256 {digest} · this page has no key and no patient's data in it, and loads nothing from "
            "elsewhere.",
            run=facts.settings["run"],
            digest=facts.run.model.header.digest,
        ),
        language=words.language,
        say=say,
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
    if words.kept_english:
        page.note(say(texts.KEPT_ENGLISH))
    return page
