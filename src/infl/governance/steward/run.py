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
    header, run, words = facts.run.model.header, facts.run, facts.words
    say = words.say
    page.heading(say("In short"))
    page.text(say(texts.TOGETHER))
    n, size = len(run.ledger), size_of(int(run.ledger["bytes"].sum()), words)
    messages = words.count("{n} message", "{n} messages", n)
    if facts.simulated:
        points = [
            say(
                "This was a simulation: all sites were in one process, and nothing travelled between machines. The ledgers say "
                "what would have left them: {messages}, {size} in all, and no record.",
                messages=messages,
                size=size,
            )
        ]
    elif len(facts.with_ledger) == len(facts.sites):
        points = [say("No record left its site. {messages} did, {size} in all.", messages=messages, size=size)]
    else:
        points = [
            say(
                "No record left its site. {messages} of {sites} (the ledger that is here) did, {size} in all.",
                messages=messages,
                sites=_with_ledger(facts),
                size=size,
            )
        ]
    if facts.all_sealed:
        points.append(say("All of them were sealed: to the coordinator and to everybody on the way they are noise."))
    if header.lock != "none":
        points.append(
            say(
                "The model file is locked ({lock}, strength {strength}) under the key {fingerprint}.",
                lock=header.lock,
                strength=f"{header.strength:g}",
                fingerprint=header.fingerprint,
            )
        )
    if run.privacy:
        points.append(
            say(
                texts.EPSILON_IN_SHORT[unit_of(run.privacy)],
                epsilon=f"{run.privacy['epsilon']:.2f}",
                delta=f"{run.privacy['delta']:g}",
            )
        )
    else:
        points.append(say(texts.NO_EPSILON))
    points.append(audit_in_short(facts))
    if facts.quality:
        name = headline(facts)
        points.append(
            say(
                "On validation records of all sites together its {metric} is {value}.",
                metric=words.part(label_of(name)),
                value=words.part(number(facts.quality[name])),
            )
        )
    page.points(points)
    if not facts.all_sealed:
        page.alarm(
            words.count(
                "{n} message was not sealed: the coordinator could read the site's update.",
                "{n} messages were not sealed: the coordinator could read every site's update.",
                int((~run.ledger["sealed"].astype(bool)).sum()),
            )
        )
    if header.lock == "none":
        page.alarm(say("The model file is not locked: whoever has it can use it."))
    if n_leaks := facts.findings.get("leak"):
        page.alarm(
            words.count(
                "{n} finding of the audit is a leak; see “What attacks got”.",
                "{n} findings of the audit are leaks; see “What attacks got”.",
                n_leaks,
            )
        )


def what_people_say(page: Page, facts: Facts) -> None:
    """Give the answers of people, where there are some."""
    say = facts.words.say
    answers = {say(STATEMENTS[name]): answer for name, answer in facts.statements.items() if answer}
    if answers:
        page.heading(say("What the consortium says"))
        page.facts(answers, say("Answers of people; the software cannot check them."))


def who_took_part(page: Page, facts: Facts) -> None:
    """Name the sites, and when each answered."""
    say = facts.words.say
    page.heading(say("Who took part"))
    table = facts.by_site.set_index("site")
    rows = []
    for site in facts.sites:
        if site in table.index:
            row = table.loc[site]
            answered = say("{n} of {total}", n=row["rounds"], total=facts.n_rounds)
            rows.append((site, answered, span(row["first"], row["last"], facts.words)))
        else:
            rows.append((site, say("its ledger is at the site"), ""))
    head = [say("site"), say("rounds answered"), say("messages sent (UTC)")]
    page.table(pd.DataFrame(rows, columns=head), say("Sites of the run."))
    page.text(say(texts.NAMES_ARE_KNOWN))


def what_left(page: Page, facts: Facts) -> None:
    """Add what left each site, from the ledgers."""
    words = facts.words
    say = words.say
    page.heading(say("What left each site"))
    page.text(say(texts.LEDGER))
    if len(facts.with_ledger) < len(facts.sites):
        page.text(
            say(
                "This page was written where the ledger of {sites} is; the others keep their own.",
                sites=_with_ledger(facts),
            )
        )
    by_site = [
        (
            row.site,
            words.whole(row.messages),
            size_of(row.bytes, words),
            say("all")
            if not row.unsealed
            else say("{n} of {total}", n=row.messages - row.unsealed, total=row.messages),
        )
        for row in facts.by_site.itertuples()
    ]
    numbers = [say("messages"), say("size")]
    page.table(
        pd.DataFrame(by_site, columns=[say("site"), *numbers, say("sealed")]),
        say("By site, from the ledgers."),
        numbers=numbers,
    )
    by_kind = [
        (row.kind, words.known(row.what), words.whole(row.messages), size_of(row.bytes, words))
        for row in facts.by_kind.itertuples()
    ]
    page.table(
        pd.DataFrame(by_kind, columns=[say("kind"), say("what is in it"), *numbers], dtype=object),
        say("By kind of message, all sites that are listed above."),
        numbers=numbers,
    )
    page.text(say(texts.NO_VALUES))


def how_fitted(page: Page, facts: Facts) -> None:
    """List what the sites agreed on."""
    s, header, words = facts.settings, facts.run.model.header, facts.words
    say, whole = words.say, words.whole
    page.heading(say("How it was fitted"))
    lock = say("{lock}, strength {strength}", lock=header.lock, strength=f"{header.strength:g}")
    classes = ", ".join(map(str, header.panel.get("classes", ())))
    rows: list[tuple[str, object, str]] = [
        (say("task"), words.part(s["task"]), words.count("{n} weight", "{n} weights", facts.n_weights)),
        (say("features"), whole(len(header.panel.get("features", ()))), say("names that all sites agreed on")),
        (say("classes"), classes or say("no classes"), say("labels that it can give")),
        (
            say("rounds"),
            say("{n} of at most {most}", n=facts.n_rounds, most=s["rounds"]),
            say("in each, the sites train and one sum is opened"),
        ),
        (say("passes in a round"), s["local_epochs"], say("how often a site goes through its records")),
        (say("aggregation"), s["aggregation"], say("how the sites' changes become one")),
        (say("share of sites asked"), f"{s['participation']:g}", say("in each round")),
        (
            say("smallest sum"),
            words.count("{n} site", "{n} sites", s["min_sites"]),
            say("a sum over fewer is not opened"),
        ),
        (say("seal"), s["seal"], say(texts.SEALS[s["seal"]])),
        (say("lock"), lock, say(texts.LOCKS.get(header.lock, ""))),
        (say("seed"), s["seed"], say("the same seed and data give the same model")),
    ]
    if s.get("init"):
        model = say("model {digest}", digest=s["init"][:16])
        rows.append((say("begins with"), model, say("what that model learned is in this one, too")))
    head = [say("setting"), say("value"), say("meaning")]
    page.table(pd.DataFrame(rows, columns=head), say("What the sites agreed on before the run."))
    options = "; ".join(f"{name} {words.part(str(value))}" for name, value in facts.options.items())
    page.text(say("Options of the task: {options}.", options=options))
    page.text(say("Fitted with infl {version}.", version=header.infl_version))
    versions = ", ".join(f"{name} {v}" for name, v in facts.versions.items())
    page.text(say("Where this page was written: {versions}.", versions=versions))
    page.figure(
        drawn(pl.rounds, facts.run, words, size=(7, 4)),
        say("Training and validation over the rounds."),
        alt=words.count(
            "Chart of {n} round; the model of round {best} was kept.",
            "Chart of {n} rounds; the model of round {best} was kept.",
            facts.n_rounds,
            best=facts.best_round,
        ),
    )


def to_sign(page: Page, facts: Facts) -> None:
    """Leave room for what only people know, and to sign."""
    say = facts.words.say
    page.heading(say("To be completed by people"))
    if facts.unanswered:
        page.text(say("The software does not know this; it is part of a decision."))
        page.to_fill_in(say(question) for question in facts.unanswered.values())
    page.subheading(say("Decision"))
    page.to_fill_in(
        [
            say("Use of the model as described is"),
            say("Conditions"),
            say("Name and office"),
            say("Date"),
            say("Signature"),
        ]
    )


def _with_ledger(facts: Facts) -> str:
    return ", ".join(facts.with_ledger) or facts.words.say("no site")
