"""Sections about what the model is worth: its quality, other ways, and the file without the key."""

from __future__ import annotations

import pandas as pd

from infl import pl
from infl._html import Page
from infl._tables import by_method, label_of, number
from infl.governance.facts import Facts, metric_label
from infl.governance.steward import texts
from infl.governance.steward.parts import drawn, headline, shown


def how_good(page: Page, facts: Facts) -> None:
    """Give validation measures, together and by site."""
    words = facts.words
    say, part = words.say, words.part
    page.heading(say("How good the model is"))
    if facts.quality:
        page.text(
            say(
                "Measured at the sites on validation records, which were not trained on but chose the best round; the sites send "
                "sums only. Kept was round {best} of {n}.",
                best=facts.best_round,
                n=facts.n_rounds,
            )
        )
        rows = [(part(label_of(m)), part(number(x)), words.known(metric_label(m))) for m, x in facts.quality.items()]
        head = [say("measure"), say("value"), say("meaning")]
        page.table(pd.DataFrame(rows, columns=head), say("All sites together."), numbers=[say("value")])
    else:
        page.text(say(texts.NO_MEASURES if facts.run.privacy else texts.NO_VALIDATION))
    page.subheading(say("At each site"))
    table = facts.at_sites
    if table is None:
        page.text(say("Not measured: it needs the sites' data, and is done where they are."))
        return
    by_site = pd.DataFrame({say("site"): table["site"]})
    for column, heading in (("n_obs", say("records")), ("n_judged", say("judged on"))):
        by_site[heading] = [say("not reported") if pd.isna(n) else words.whole(n) for n in table[column]]
    metrics = [c for c in table if c not in ("site", "n_obs", "n_judged") and table[c].notna().any()]
    first = headline(facts)
    for name in sorted(metrics, key=lambda m: m != first):
        by_site[part(label_of(name))] = [part(number(value)) for value in table[name]]
    page.table(
        by_site,
        say("Each site by itself. A site whose value is far below the others' is not served well."),
        numbers=by_site.columns[1:],
    )
    if table["n_judged"].isna().any():
        page.text(
            say(
                "Numbers below {few}, and what was measured on so few records, are not reported: they could tell of single "
                "people. Where only one site's would be missing, the next smallest is left out with it.",
                few=facts.min_count,
            )
        )


def what_else(page: Page, facts: Facts) -> None:
    """Show other ways with the same data, and the file without its key."""
    words = facts.words
    say, part = words.say, words.part
    if facts.comparison is not None:
        page.heading(say("What else could have been done"))
        page.text(say(texts.OTHER_WAYS))
        wide = shown(by_method(facts.comparison, list(dict.fromkeys(facts.comparison["metric"]))[:3]), words)
        page.table(
            wide,
            say("Methods compared; the worst site by the first measure. The model card has all measures."),
            numbers=wide.columns[1:],
        )
        page.figure(
            drawn(pl.compare, facts.comparison, words, size=(7, 4)),
            say("Mean and standard deviation of each method."),
            alt=say("Chart of one measure of the table above, a row for each method."),
        )
    if facts.lock_curve is not None:
        page.heading(say("What the file is worth without the key"))
        curve = facts.lock_curve
        metric = next(c for c in curve if c not in ("strength", "who", "sd"))
        full = curve[curve["strength"] == curve["strength"].max()].set_index("who")[metric]
        values = {"metric": part(label_of(metric))}
        values["values"] = "; ".join(f"{part(str(who))}: {part(number(value))}" for who, value in full.items())
        page.text(say("At full strength of the lock, {metric}: {values}.", **values))
        page.figure(
            drawn(pl.lock, curve, words, size=(7, 4)),
            say("What the stored model is worth, by who holds which key, over strengths of the lock."),
            alt=say("Chart of {metric} over the strength of the lock. At full strength: {values}.", **values),
        )
