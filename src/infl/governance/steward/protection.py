"""Sections about what protects: readers, the key, ε, attacks, and what is not protected."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infl import pl
from infl._html import Page
from infl._tables import NUMBERS, by_finding, label_of
from infl.governance.facts import Facts
from infl.governance.steward import texts
from infl.governance.steward.parts import audit_in_short, drawn, minute, shown, unit_of


def who_can_read(page: Page, facts: Facts) -> None:
    """Add who can read what."""
    say = facts.words.say
    seal, min_sites, lock = facts.settings["seal"], facts.settings["min_sites"], facts.run.model.header.lock
    page.heading(say("Who can read what"))
    no, yes = say("no"), say("yes")
    sealed = seal != "none"
    remembered = say("bounded by ε") if facts.run.privacy else say("not bounded")
    with_site = {"group": say("yes, if it has the messages"), "pairwise": no, "none": yes}[seal]
    locked = say("locked file") if lock != "none" else yes
    sums = say("only sums over {n} sites or more", n=min_sites) if min_sites > 1 else say("sums")
    rows = [
        (say("coordinator, and the network"), no if sealed else yes, no if sealed else yes, "–"),
        (say("another site"), sums, yes, remembered),
        (say("coordinator that conspires with a site"), with_site, yes, remembered),
        (say("somebody with the model file, without the key"), no, locked, "–" if lock != "none" else remembered),
        (say("a user with the model file and the key"), no, yes, remembered),
    ]
    head = [say("who"), say("one site's update"), say("the model"), say("what it remembers of records")]
    page.table(
        pd.DataFrame(rows, columns=head),
        say("By design, as tested by attacks; the audit below, if there is one, is of this very run."),
    )


def the_key(page: Page, facts: Facts) -> None:
    """Add which key it is and who has a grant."""
    say, header = facts.words.say, facts.run.model.header
    page.heading(say("The key, and who has it"))
    if not facts.settings["fingerprint"]:
        page.text(say("There is no key: the run has neither lock nor seal."))
        return
    rows = {
        say("fingerprint"): facts.settings["fingerprint"],
        say("version"): facts.settings["key_version"],
        say("opens this model"): header.fingerprint or say("nothing is locked"),
    }
    if facts.run.key is not None:
        rows[say("key holder")] = facts.run.key.trail.holder_fingerprint()
    page.facts(rows, say("Public names of the key. The key itself is on no page and in no model file."))
    if facts.settings["seal"] == "group":
        opens = say(
            "Whoever has the key can open the model; if they also get hold of a site's sealed message on its way, they can "
            "open that too."
        )
    else:
        opens = say("Whoever has the key can open the model.")
    page.text(f"{say('A fingerprint is the public name of a key: compare it by telephone.')} {opens}")
    grants = facts.grants
    if grants is None:
        page.text(say(texts.GRANTS_UNKNOWN))
    elif grants.empty:
        page.text(say(texts.NO_GRANT))
    else:
        granted = [(site, versions, minute(since)) for site, versions, since in grants.itertuples(index=False)]
        grants = pd.DataFrame(granted, columns=[say("site"), say("versions"), say("since (UTC)")])
        page.table(grants, say("Who has a grant now, from the trail that the key holder signed."))
        page.text(say("The trail says what the key holder did, not whether a site has passed the key on."))


def differential_privacy(page: Page, facts: Facts) -> None:
    """Give settings and account of differential privacy."""
    say, p = facts.words.say, facts.run.privacy
    page.heading(say("Differential privacy"))
    if not p:
        page.text(say(texts.NOT_PRIVATE))
        return
    noise = {
        "distributed": say("each site adds a share; the sum has all of it"),
        "local": say("each site adds all of it, and trusts nobody"),
    }
    rows = {
        say("ε that was spent"): f"{p['epsilon']:.3g}",
        say("ε that was allowed"): say("no limit") if np.isinf(p["budget"]) else f"{p['budget']:g}",
        "δ": f"{p['delta']:g}",
        say("whose data are bounded"): say(texts.BOUNDED[unit_of(p)]),
        say("largest norm of its gradient"): f"{p['clip_norm']:g}",
        say("noise, in units of that norm"): f"{p['noise_multiplier']:.3g}",
        say("who adds the noise"): noise[p["noise"]],
        say("members whose shares may be known"): p.get("colluders", 0) if p["noise"] == "distributed" else say("all"),
        say("chance of taking part in a round"): f"{p['sample_rate']:g}",
        say("rounds"): p["rounds"],
        say("accounting"): p["accountant"].upper(),
    }
    page.facts(rows, say("Settings and account of differential privacy."))
    page.text(say(texts.EPSILON[unit_of(p)], factor=f"{np.exp(min(p['epsilon'], 700)):.3g}"))


def what_attacks_got(page: Page, facts: Facts) -> None:
    """Show the audit."""
    words = facts.words
    say = words.say
    page.heading(say("What attacks got"))
    if facts.audit is None:
        page.text(say(texts.NO_AUDIT))
        return
    page.text(f"{say(texts.ATTACKED)} {audit_in_short(facts)}")
    if undecided := sum(facts.findings.get(status, 0) for status in texts.UNDECIDED):
        page.text(
            words.count(
                "{n} finding decides nothing: it counts neither for a protection nor against it.",
                "{n} findings decide nothing: they count neither for a protection nor against it.",
                undecided,
            )
        )
    table = facts.audit
    page.table(shown(by_finding(table), words), say("Findings of the audit."), numbers=map(words.part, NUMBERS))
    page.points(say(text) for status, text in texts.STATUS.items() if status in facts.findings)
    if "note" in table:
        notes = {
            f"{words.part(label_of(a))}, {words.part(label_of(m))}": words.known(n)
            for a, m, n in zip(table["attack"], table["metric"], table["note"], strict=True)
        }
        page.facts(notes, say("The same in words."))
    if left_out := table.attrs.get("left_out"):
        names = ", ".join(words.part(label_of(name)) for name in left_out)
        page.text(say("Not applicable to this run, and left out: {attacks}.", attacks=names))
    page.figure(
        drawn(pl.audit, table, words, size=(9.5, 1.3 + 0.46 * len(table))),
        say(texts.AUDIT_FIGURE),
        alt=f"{say('Chart of the findings in the table above, a row each.')} {audit_in_short(facts)}",
    )


def what_is_left(page: Page, facts: Facts) -> None:
    """Add what none of it protects from."""
    say = facts.words.say
    page.heading(say("What this does not protect from"))
    remembers = [] if facts.run.privacy else [texts.REMEMBERS]
    page.points(
        say(text) for text in (*texts.NOT_PROTECTED[facts.settings["seal"]], *remembers, *texts.NEVER_PROTECTED)
    )
