"""Sections about the run itself: in short, who, what left, how, and the place to sign."""

from __future__ import annotations

import pandas as pd

from infl import pl
from infl._html import Page
from infl._tables import label_of, number
from infl.governance.facts import STATEMENTS, Facts
from infl.governance.steward import texts
from infl.governance.steward.parts import audit_in_short, drawn, headline, size_of, span, unit_of


def in_short(page: Page, facts: Facts) -> None:
    """Add a few lines on what was done, and what protects it."""
    header, run = facts.run.model.header, facts.run
    page.heading("In short")
    page.text(texts.TOGETHER)
    n, size = len(run.ledger), size_of(int(run.ledger["bytes"].sum()))
    whose = (
        ""
        if len(facts.with_ledger) == len(facts.sites)
        else f" of {', '.join(facts.with_ledger) or 'no site'} (the ledger that is here)"
    )
    points = [f"No record left its site. {n:,} messages{whose} did, {size} in all."]
    if facts.simulated:
        points = [
            "This was a simulation: all sites were in one process, and nothing travelled between machines. The ledgers say what "
            f"would have left them: {n:,} messages, {size} in all, and no record."
        ]
    if facts.all_sealed:
        points.append("All of them were sealed: to the coordinator and to everybody on the way they are noise.")
    if header.lock != "none":
        lock = f"{header.lock}, strength {header.strength:g}"
        points.append(f"The model file is locked ({lock}) under the key {header.fingerprint}.")
    if run.privacy:
        points.append(
            f"Differential privacy: ε = {run.privacy['epsilon']:.2f} at δ = {run.privacy['delta']:g} for each "
            f"{unit_of(run.privacy)}."
        )
    else:
        points.append(texts.NO_EPSILON)
    points.append(audit_in_short(facts))
    if facts.quality:
        name = headline(facts)
        points.append(
            f"On validation records of all sites together its {label_of(name)} is {number(facts.quality[name])}."
        )
    page.points(points)
    if not facts.all_sealed:
        n_open = int((~run.ledger["sealed"].astype(bool)).sum())
        page.alarm(f"{n_open:,} messages were not sealed: the coordinator could read every site's update.")
    if header.lock == "none":
        page.alarm("The model file is not locked: whoever has it can use it.")
    if facts.findings.get("leak"):
        n_leaks = facts.findings["leak"]
        what = "finding of the audit is a leak" if n_leaks == 1 else "findings of the audit are leaks"
        page.alarm(f"{n_leaks} {what}; see “What attacks got”.")


def what_people_say(page: Page, facts: Facts) -> None:
    """Give the answers of people, where there are some."""
    answers = {STATEMENTS[name]: answer for name, answer in facts.statements.items() if answer}
    if answers:
        page.heading("What the consortium says")
        page.facts(answers, "Answers of people; the software cannot check them.")


def who_took_part(page: Page, facts: Facts) -> None:
    """Name the sites, and when each answered."""
    page.heading("Who took part")
    table = facts.by_site.set_index("site")
    rows = []
    for site in facts.sites:
        if site in table.index:
            row = table.loc[site]
            rows.append((site, f"{row['rounds']} of {facts.n_rounds}", span(row["first"], row["last"])))
        else:
            rows.append((site, "its ledger is at the site", ""))
    page.table(pd.DataFrame(rows, columns=["site", "rounds answered", "messages sent (UTC)"]), "Sites of the run.")
    page.text(texts.NAMES_ARE_KNOWN)


def what_left(page: Page, facts: Facts) -> None:
    """Add what left each site, from the ledgers."""
    page.heading("What left each site")
    page.text(texts.LEDGER)
    if len(facts.with_ledger) < len(facts.sites):
        page.text(
            f"This page was written where the ledger of {', '.join(facts.with_ledger) or 'no site'} is; the others keep their own."
        )
    sites = facts.by_site.assign(size=facts.by_site["bytes"].map(size_of))
    sealed = sites["messages"] - sites["unsealed"]
    sites["sealed"] = [
        "all" if n == all_ else f"{n} of {all_}" for n, all_ in zip(sealed, sites["messages"], strict=True)
    ]
    page.table(
        sites[["site", "messages", "size", "sealed"]], "By site, from the ledgers.", numbers=["messages", "size"]
    )
    kinds = facts.by_kind.assign(size=facts.by_kind["bytes"].map(size_of))
    kinds = kinds[["kind", "what", "messages", "size"]].rename(columns={"what": "what is in it"})
    page.table(kinds, "By kind of message, all sites that are listed above.", numbers=["messages", "size"])
    page.text(texts.NO_VALUES)


def how_fitted(page: Page, facts: Facts) -> None:
    """List what the sites agreed on."""
    s, header = facts.settings, facts.run.model.header
    page.heading("How it was fitted")
    rows: list[tuple[str, object, str]] = [
        ("task", s["task"], f"{facts.n_weights:,} weights"),
        ("features", f"{len(header.panel.get('features', ())):,}", "names that all sites agreed on"),
        ("classes", ", ".join(map(str, header.panel.get("classes", ()))) or "none", "labels that it can give"),
        ("rounds", f"{facts.n_rounds} of at most {s['rounds']}", "in each, the sites train and one sum is opened"),
        ("passes in a round", s["local_epochs"], "how often a site goes through its records"),
        ("aggregation", s["aggregation"], "how the sites' changes become one"),
        ("share of sites asked", f"{s['participation']:g}", "in each round"),
        ("smallest sum", f"{s['min_sites']} sites", "a sum over fewer is not opened"),
        ("seal", s["seal"], texts.SEALS[s["seal"]]),
        ("lock", f"{header.lock}, strength {header.strength:g}", texts.LOCKS.get(header.lock, "")),
        ("seed", s["seed"], "the same seed and data give the same model"),
    ]
    page.table(pd.DataFrame(rows, columns=["setting", "value", "meaning"]), "What the sites agreed on before the run.")
    page.text("Options of the task: " + "; ".join(f"{name} {value}" for name, value in facts.options.items()) + ".")
    page.text(f"Fitted with infl {header.infl_version}.")
    page.text("Where this page was written: " + ", ".join(f"{name} {v}" for name, v in facts.versions.items()) + ".")
    page.figure(
        drawn(pl.rounds, facts.run, size=(7, 4)),
        "Training and validation over the rounds.",
        alt=f"Chart of {facts.n_rounds} rounds; the model of round {facts.best_round} was kept.",
    )


def to_sign(page: Page, facts: Facts) -> None:
    """Leave room for what only people know, and to sign."""
    page.heading("To be completed by people")
    if facts.unanswered:
        page.text("The software does not know this; it is part of a decision.")
        page.to_fill_in(facts.unanswered.values())
    page.subheading("Decision")
    page.to_fill_in(["Use of the model as described is", "Conditions", "Name and office", "Date", "Signature"])
