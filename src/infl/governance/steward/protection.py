"""Sections about what protects: readers, the key, ε, attacks, and what is not protected."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infl import pl
from infl._html import Page
from infl._tables import NUMBERS, by_finding, label_of
from infl.attacks import Status
from infl.governance.facts import Facts
from infl.governance.steward import texts
from infl.governance.steward.parts import audit_in_short, drawn, minute, unit_of


def who_can_read(page: Page, facts: Facts) -> None:
    """Add who can read what."""
    seal, min_sites, lock = facts.settings["seal"], facts.settings["min_sites"], facts.run.model.header.lock
    page.heading("Who can read what")
    sealed = seal != "none"
    remembered = "bounded by ε" if facts.run.privacy else "not bounded"
    with_site = {"group": "yes, if it has the messages", "pairwise": "no", "none": "yes"}[seal]
    locked = "locked file" if lock != "none" else "yes"
    rows = [
        ("coordinator, and the network", "no" if sealed else "yes", "no" if sealed else "yes", "–"),
        ("another site", f"only sums over {min_sites} sites or more" if min_sites > 1 else "sums", "yes", remembered),
        ("coordinator that conspires with a site", with_site, "yes", remembered),
        ("somebody with the model file, without the key", "no", locked, "–" if lock != "none" else remembered),
        ("a user with the model file and the key", "no", "yes", remembered),
    ]
    page.table(
        pd.DataFrame(rows, columns=["who", "one site's update", "the model", "what it remembers of records"]),
        "By design, as tested by attacks; the audit below, if there is one, is of this very run.",
    )


def the_key(page: Page, facts: Facts) -> None:
    """Add which key it is and who has a grant."""
    header = facts.run.model.header
    page.heading("The key, and who has it")
    if not facts.settings["fingerprint"]:
        page.text("There is no key: the run has neither lock nor seal.")
        return
    rows = {
        "fingerprint": facts.settings["fingerprint"],
        "version": facts.settings["key_version"],
        "opens this model": header.fingerprint or "nothing is locked",
    }
    if facts.run.key is not None:
        rows["key holder"] = facts.run.key.trail.holder_fingerprint()
    page.facts(rows, "Public names of the key. The key itself is on no page and in no model file.")
    page.text(
        "A fingerprint is the public name of a key: compare it by telephone. Whoever has the key can open the model"
        + (
            "; if they also get hold of a site's sealed message on its way, they can open that too."
            if facts.settings["seal"] == "group"
            else "."
        )
    )
    grants = facts.grants
    if grants is None:
        page.text(texts.GRANTS_UNKNOWN)
    elif grants.empty:
        page.text(texts.NO_GRANT)
    else:
        grants = grants.assign(since=grants["since"].map(minute)).rename(columns={"since": "since (UTC)"})
        page.table(grants, "Who has a grant now, from the trail that the key holder signed.")
        page.text("The trail says what the key holder did, not whether a site has passed the key on.")


def differential_privacy(page: Page, facts: Facts) -> None:
    """Give settings and account of differential privacy."""
    page.heading("Differential privacy")
    p = facts.run.privacy
    if not p:
        page.text(texts.NOT_PRIVATE)
        return
    noise = {
        "distributed": "each site adds a share; the sum has all of it",
        "local": "each site adds all of it, and trusts nobody",
    }
    rows = {
        "ε that was spent": f"{p['epsilon']:.3g}",
        "ε that was allowed": "no limit" if np.isinf(p["budget"]) else f"{p['budget']:g}",
        "δ": f"{p['delta']:g}",
        "whose data are bounded": f"each {unit_of(p)}'s",
        "largest norm of its gradient": f"{p['clip_norm']:g}",
        "noise, in units of that norm": f"{p['noise_multiplier']:.3g}",
        "who adds the noise": noise[p["noise"]],
        "members whose shares may be known": p.get("colluders", 0) if p["noise"] == "distributed" else "all",
        "chance of taking part in a round": f"{p['sample_rate']:g}",
        "rounds": p["rounds"],
        "accounting": p["accountant"].upper(),
    }
    page.facts(rows, "Settings and account of differential privacy.")
    page.text(
        f"Whether one {unit_of(p)} was there changes the odds of anything that can be concluded from the model by at most a "
        f"factor of e^ε = {np.exp(min(p['epsilon'], 700)):.3g}, except with a probability of about δ. An ε up to 1 is strong, up "
        "to 10 in common use, above that weak. Records that were held out stayed at their sites, and the number of records of all "
        "sites together counts as public."
    )


def what_attacks_got(page: Page, facts: Facts) -> None:
    """Show the audit."""
    page.heading("What attacks got")
    if facts.audit is None:
        page.text(texts.NO_AUDIT)
        return
    page.text(
        "The run was attacked as capable enemies would. Chance is what guessing gets; unprotected is what the same attack gets "
        "from a run of the same data with neither lock nor seal (for keys: what the right key gives). An attack whose control "
        f"fails is {Status.NOT_JUDGED}. " + audit_in_short(facts)
    )
    table = facts.audit
    page.table(by_finding(table), "Findings of the audit.", numbers=NUMBERS)
    page.points(texts.STATUS[status] for status in texts.STATUS if status in facts.findings)
    if "note" in table:
        notes = {
            f"{label_of(a)}, {label_of(m)}": n
            for a, m, n in zip(table["attack"], table["metric"], table["note"], strict=True)
        }
        page.facts(notes, "The same in words.")
    if left_out := table.attrs.get("left_out"):
        page.text(f"Not applicable to this run, and left out: {', '.join(map(label_of, left_out))}.")
    page.figure(
        drawn(pl.audit, table, size=(9.5, 1.3 + 0.46 * len(table))),
        texts.AUDIT_FIGURE,
        alt=f"Chart of the findings in the table above, a row each. {audit_in_short(facts)}",
    )


def what_is_left(page: Page, facts: Facts) -> None:
    """Add what none of it protects from."""
    page.heading("What this does not protect from")
    points = [*texts.NOT_PROTECTED[facts.settings["seal"]]]
    if not facts.run.privacy:
        points.append("What the model remembers: who may use it with the key may learn who was in the training data.")
    points += [
        "Somebody who reads a computer's memory while it trains or predicts.",
        "Sizes and times of messages, which everybody on the way sees.",
        "A key that is passed on. A revoked site keeps what it has; only later models are closed to it.",
        "The lock is a keyed reparametrisation whose worth is measured by attacks. It is not encryption with a proof; encrypt "
        "a file in the post as well.",
    ]
    page.points(points)
