"""Sections about what the model is worth: its quality, other ways, and the file without the key."""

from __future__ import annotations

import pandas as pd

from infl import pl
from infl._html import Page
from infl._tables import by_method, label_of, number
from infl.governance.facts import Facts, metric_label
from infl.governance.steward import texts
from infl.governance.steward.parts import drawn, headline


def how_good(page: Page, facts: Facts) -> None:
    """Give validation measures, together and by site."""
    page.heading("How good the model is")
    if facts.quality:
        page.text(
            "Measured at the sites on validation records, which were not trained on but chose the best round; the sites send sums "
            f"only. Kept was round {facts.best_round} of {facts.n_rounds}."
        )
        rows = [(label_of(name), number(value), metric_label(name)) for name, value in facts.quality.items()]
        page.table(
            pd.DataFrame(rows, columns=["measure", "value", "meaning"]), "All sites together.", numbers=["value"]
        )
    else:
        page.text(
            texts.NO_MEASURES
            if facts.run.privacy
            else "No validation records were set aside, so the run itself says nothing of this."
        )
    page.subheading("At each site")
    table = facts.at_sites
    if table is None:
        page.text("Not measured: it needs the sites' data, and is done where they are.")
        return
    shown = pd.DataFrame({"site": table["site"]})
    for column, heading in (("n_obs", "records"), ("n_judged", "judged on")):
        shown[heading] = ["not reported" if pd.isna(n) else f"{n:,}" for n in table[column]]
    metrics = [c for c in table if c not in ("site", "n_obs", "n_judged") and table[c].notna().any()]
    first = headline(facts)
    for name in sorted(metrics, key=lambda m: m != first):
        shown[label_of(name)] = table[name].map(number)
    page.table(
        shown,
        "Each site by itself. A site whose value is far below the others' is not served well.",
        numbers=shown.columns[1:],
    )
    if table["n_judged"].isna().any():
        page.text(
            f"Numbers below {facts.min_count}, and what was measured on so few records, are not reported: they could tell of single "
            "people. Where only one site's would be missing, the next smallest is left out with it."
        )


def what_else(page: Page, facts: Facts) -> None:
    """Show other ways with the same data, and the file without its key."""
    if facts.comparison is not None:
        page.heading("What else could have been done")
        page.text(texts.OTHER_WAYS)
        wide = by_method(facts.comparison, list(dict.fromkeys(facts.comparison["metric"]))[:3])
        page.table(
            wide,
            "Methods compared; the worst site by the first measure. The model card has all measures.",
            numbers=wide.columns[1:],
        )
        page.figure(
            drawn(pl.compare, facts.comparison, size=(7, 4)),
            "Mean and standard deviation of each method.",
            alt="Chart of one measure of the table above, a row for each method.",
        )
    if facts.lock_curve is not None:
        page.heading("What the file is worth without the key")
        curve = facts.lock_curve
        metric = next(c for c in curve if c not in ("strength", "who", "sd"))
        full = curve[curve["strength"] == curve["strength"].max()].set_index("who")[metric]
        values = "; ".join(f"{who}: {number(value)}" for who, value in full.items())
        page.text(f"{label_of(metric).capitalize()} at full strength of the lock: {values}.")
        page.figure(
            drawn(pl.lock, curve, size=(7, 4)),
            "What the stored model is worth, by who holds which key, over strengths of the lock.",
            alt=f"Chart of {label_of(metric)} over the strength of the lock. At full strength: {values}.",
        )
