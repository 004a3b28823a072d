"""The page for a data steward or an ethics board: plain words beside each number, and a place to sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from infl import pl
from infl._html import Page
from infl._tables import NUMBERS, by_finding, by_method, number, verdict, words
from infl.attacks._kit.contract import Status
from infl.governance.facts import STATEMENTS, Facts, metric_words

STATUS = {
    "holds": "holds: the attacker got no more than was promised",
    "leak": "LEAK: a protection that was promised did not hold",
    "not promised": "not promised: the attack works, and nothing was promised against it",
    str(Status.NOT_JUDGED): f"{Status.NOT_JUDGED}: the attack did not work without protection either",
}
SEALS = {
    "group": "all sites share one key; the coordinator reads no message, unless it conspires with a site",
    "pairwise": "each pair of sites has a secret of its own; the coordinator reads no message, also if it conspires with a site",
    "none": "NO SEAL: the coordinator reads every site's update",
}
LOCKS = {
    "field": "the stored weights are useless without the key; tested by attacks, not proved",
    "published": "the published keyed method; a wrong key often works nearly as well as the right one",
    "none": "NO LOCK: whoever has the file has the model",
}


def steward_page(facts: Facts) -> Page:
    """Return the page.

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
    for part in (_short, _people, _who, _left, _readers, _key, _privacy, _audit, _quality, _cost, _fit, _limits, _sign):
        part(page, facts)
    return page


def _short(page: Page, facts: Facts) -> None:
    header, run = facts.run.model.header, facts.run
    page.heading("In short")
    page.text(
        "The sites trained one model together, each on its own records. What travels between them are changes of the model's "
        "weights, and sums. This page says what left each site, who could read it, what the model is worth, and what is not "
        "protected."
    )
    n, size = len(run.ledger), _bytes(int(run.ledger["bytes"].sum()))
    whose = (
        ""
        if len(facts.told) == len(facts.sites)
        else f" of {', '.join(facts.told) or 'no site'} (the ledger that is here)"
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
            f"{_unit(run.privacy)}."
        )
    else:
        points.append(
            "No differential privacy: nothing bounds what the model remembers of the records it was trained on."
        )
    points.append(_audit_in_short(facts))
    if facts.quality:
        name = _headline(facts)
        points.append(
            f"On validation records of all sites together its {words(name)} is {number(facts.quality[name])}."
        )
    page.points(points)
    if not facts.all_sealed:
        n_open = int((~run.ledger["sealed"].astype(bool)).sum())
        page.alarm(f"{n_open:,} messages were not sealed: the coordinator could read every site's update.")
    if header.lock == "none":
        page.alarm("The model file is not locked: whoever has it can use it.")
    if facts.findings.get("leak"):
        n_leaks = facts.findings["leak"]
        said = "finding of the audit is a leak" if n_leaks == 1 else "findings of the audit are leaks"
        page.alarm(f"{n_leaks} {said}; see “What attacks got”.")


def _people(page: Page, facts: Facts) -> None:
    said = {STATEMENTS[name]: answer for name, answer in facts.statements.items() if answer}
    if said:
        page.heading("What the consortium says")
        page.facts(said, "Answers of people; the software cannot check them.")


def _who(page: Page, facts: Facts) -> None:
    page.heading("Who took part")
    table = facts.by_site.set_index("site")
    rows = []
    for site in facts.sites:
        if site in table.index:
            row = table.loc[site]
            rows.append((site, f"{row['rounds']} of {facts.n_rounds}", _span(row["first"], row["last"])))
        else:
            rows.append((site, "its ledger is at the site", ""))
    page.table(pd.DataFrame(rows, columns=["site", "rounds answered", "messages sent (UTC)"]), "Sites of the run.")
    page.text(
        "Names of sites, features and classes are known to all parties. How many records each site has is not: it travels as "
        "part of a sum."
    )


def _left(page: Page, facts: Facts) -> None:
    page.heading("What left each site")
    page.text(
        "A site writes each message into its own ledger before it is sent: time, kind, size, a digest, sealed or not. Where "
        "the ledger is a file, its lines are chained and checked with the key, so that a change is noticed. Beside these "
        "messages only consent, refusals, public keys and shares of masks travel; no number in them was made of records."
    )
    if len(facts.told) < len(facts.sites):
        page.text(
            f"This page was written where the ledger of {', '.join(facts.told) or 'no site'} is; the others keep their own."
        )
    sites = facts.by_site.assign(size=facts.by_site["bytes"].map(_bytes))
    sealed = sites["messages"] - sites["unsealed"]
    sites["sealed"] = [
        "all" if n == all_ else f"{n} of {all_}" for n, all_ in zip(sealed, sites["messages"], strict=True)
    ]
    page.table(
        sites[["site", "messages", "size", "sealed"]], "By site, from the ledgers.", numbers=["messages", "size"]
    )
    kinds = facts.by_kind.assign(size=facts.by_kind["bytes"].map(_bytes))
    kinds = kinds[["kind", "what", "messages", "size"]].rename(columns={"what": "what is in it"})
    page.table(kinds, "By kind of message, all sites that are listed above.", numbers=["messages", "size"])
    page.text("No message lists values of records; each has changes of weights or sums over a site's records.")


def _readers(page: Page, facts: Facts) -> None:
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


def _key(page: Page, facts: Facts) -> None:
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
        page.text("Who was granted the key is not known here: the key ring was not at hand when this page was written.")
    elif grants.empty:
        page.text("The key ring's trail has no grant: as far as it says, nobody but the key holder has the key.")
    else:
        grants = grants.assign(since=grants["since"].map(_time)).rename(columns={"since": "since (UTC)"})
        page.table(grants, "Who has a grant now, from the trail that the key holder signed.")
        page.text("The trail says what the key holder did, not whether a site has passed the key on.")


def _privacy(page: Page, facts: Facts) -> None:
    page.heading("Differential privacy")
    p = facts.run.privacy
    if not p:
        page.text(
            "It was not used. What the model itself remembers of its records is then bounded by nothing: somebody with the key "
            "may find out whether a certain record was trained on. The audit's membership attack says how well that works."
        )
        return
    noise = {
        "distributed": "each site adds a share; the sum has all of it",
        "local": "each site adds all of it, and trusts nobody",
    }
    rows = {
        "ε that was spent": f"{p['epsilon']:.3g}",
        "ε that was allowed": "no limit" if np.isinf(p["budget"]) else f"{p['budget']:g}",
        "δ": f"{p['delta']:g}",
        "whose data are bounded": f"each {_unit(p)}'s",
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
        f"Whether one {_unit(p)} was there changes the odds of anything that can be concluded from the model by at most a "
        f"factor of e^ε = {np.exp(min(p['epsilon'], 700)):.3g}, except with a probability of about δ. An ε up to 1 is strong, up "
        "to 10 in common use, above that weak. Records that were held out stayed at their sites, and the number of records of all "
        "sites together counts as public."
    )


def _unit(privacy: Mapping[str, Any]) -> str:
    return "patient of a site" if privacy.get("unit") == "donor" else "training record"


def _audit(page: Page, facts: Facts) -> None:
    page.heading("What attacks got")
    if facts.audit is None:
        page.text(
            "No audit was made for this page. infl.tl.audit(run, sites) attacks the run as a coordinator, a thief of the file, "
            "a former member and a model user would, each attack beside the same on an unprotected run."
        )
        return
    page.text(
        "The run was attacked as capable enemies would. Chance is what guessing gets; unprotected is what the same attack gets "
        "from a run of the same data with neither lock nor seal (for keys: what the right key gives). An attack whose control "
        f"fails is {Status.NOT_JUDGED}. " + _audit_in_short(facts)
    )
    table = facts.audit
    page.table(by_finding(table), "Findings of the audit.", numbers=NUMBERS)
    page.points(STATUS[status] for status in STATUS if status in facts.findings)
    if "note" in table:
        notes = {
            f"{words(a)}, {words(m)}": n
            for a, m, n in zip(table["attack"], table["metric"], table["note"], strict=True)
        }
        page.facts(notes, "The same in words.")
    if left_out := table.attrs.get("left_out"):
        page.text(f"Not applicable to this run, and left out: {', '.join(map(words, left_out))}.")
    page.figure(
        _draw(pl.audit, table, size=(9.5, 1.3 + 0.46 * len(table))),
        "What each attack got, between chance (bar) and the same attack on an unprotected run (diamond).",
        alt=f"Chart of the findings in the table above, a row each. {_audit_in_short(facts)}",
    )


def _audit_in_short(facts: Facts) -> str:
    return "It was not attacked for this page: no audit is part of it." if facts.audit is None else verdict(facts.audit)


def _quality(page: Page, facts: Facts) -> None:
    page.heading("How good the model is")
    if facts.quality:
        page.text(
            "Measured at the sites on validation records, which were not trained on but chose the best round; the sites send sums "
            f"only. Kept was round {facts.best_round} of {facts.n_rounds}."
        )
        rows = [(words(name), number(value), metric_words(name)) for name, value in facts.quality.items()]
        page.table(
            pd.DataFrame(rows, columns=["measure", "value", "meaning"]), "All sites together.", numbers=["value"]
        )
    else:
        page.text(
            "Under differential privacy the sites send no measures, which would need noise too: the run itself says nothing of this."
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
        shown[heading] = ["not told" if pd.isna(n) else f"{n:,}" for n in table[column]]
    metrics = [c for c in table if c not in ("site", "n_obs", "n_judged") and table[c].notna().any()]
    headline = _headline(facts)
    for name in sorted(metrics, key=lambda m: m != headline):
        shown[words(name)] = table[name].map(number)
    page.table(
        shown,
        "Each site by itself. A site whose value is far below the others' is not served well.",
        numbers=shown.columns[1:],
    )
    if table["n_judged"].isna().any():
        page.text(
            f"Numbers below {facts.min_count}, and what was measured on so few records, are not told: they could tell of single "
            "people. Where only one site's would be missing, the next smallest is left out with it."
        )


def _cost(page: Page, facts: Facts) -> None:
    if facts.comparison is not None:
        page.heading("What else could have been done")
        page.text(
            "The same data, other ways: all in one place (which is what federation avoids), each site alone, without protection, "
            "with a wrong key or none. Mean ± standard deviation over repeated splits, on records that were held out."
        )
        wide = by_method(facts.comparison, list(dict.fromkeys(facts.comparison["metric"]))[:3])
        page.table(
            wide,
            "Methods compared; the worst site by the first measure. The model card has all measures.",
            numbers=wide.columns[1:],
        )
        page.figure(
            _draw(pl.compare, facts.comparison, size=(7, 4)),
            "Mean and standard deviation of each method.",
            alt="Chart of one measure of the table above, a row for each method.",
        )
    if facts.lock_curve is not None:
        page.heading("What the file is worth without the key")
        curve = facts.lock_curve
        metric = next(c for c in curve if c not in ("strength", "who", "sd"))
        full = curve[curve["strength"] == curve["strength"].max()].set_index("who")[metric]
        said = "; ".join(f"{who}: {number(value)}" for who, value in full.items())
        page.text(f"{words(metric).capitalize()} at full strength of the lock: {said}.")
        page.figure(
            _draw(pl.lock, curve, size=(7, 4)),
            "What the stored model is worth, by who holds which key, over strengths of the lock.",
            alt=f"Chart of {words(metric)} over the strength of the lock. At full strength: {said}.",
        )


def _fit(page: Page, facts: Facts) -> None:
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
        ("seal", s["seal"], SEALS[s["seal"]]),
        ("lock", f"{header.lock}, strength {header.strength:g}", LOCKS.get(header.lock, "")),
        ("seed", s["seed"], "the same seed and data give the same model"),
    ]
    page.table(pd.DataFrame(rows, columns=["setting", "value", "meaning"]), "What the sites agreed on before the run.")
    page.text("Options of the task: " + "; ".join(f"{name} {value}" for name, value in facts.options.items()) + ".")
    page.text(f"Fitted with infl {header.infl_version}.")
    page.text("Where this page was written: " + ", ".join(f"{name} {v}" for name, v in facts.versions.items()) + ".")
    page.figure(
        _draw(pl.rounds, facts.run, size=(7, 4)),
        "Training and validation over the rounds.",
        alt=f"Chart of {facts.n_rounds} rounds; the model of round {facts.best_round} was kept.",
    )


def _limits(page: Page, facts: Facts) -> None:
    page.heading("What this does not protect from")
    points = {
        "group": [
            "A site that sends wrong updates or has wrong labels: updates are sealed, so nobody sees whose it was.",
            "A site that conspires with the coordinator: together they can open the other sites' updates.",
        ],
        "pairwise": [
            "A site that sends wrong updates or has wrong labels: they are sealed, so nobody sees whose it was."
        ],
        "none": [
            "The coordinator: it can read every site's update, and learn from it about the site's records.",
            "A site that sends wrong updates or has wrong labels.",
        ],
    }[facts.settings["seal"]]
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


def _sign(page: Page, facts: Facts) -> None:
    page.heading("To be completed by people")
    if facts.unanswered:
        page.text("The software does not know this; it is part of a decision.")
        page.to_fill_in(facts.unanswered.values())
    page.subheading("Decision")
    page.to_fill_in(["Use of the model as described is", "Conditions", "Name and office", "Date", "Signature"])


def _headline(facts: Facts) -> str:
    name = facts.run.model.header.build_task().headline
    return name if name in facts.quality else next(iter(facts.quality), name)


def _draw(function: Callable[..., Any], what: object, *, size: tuple[float, float]) -> Figure:
    """Draw on a figure that no window or notebook knows of."""
    figure = Figure(figsize=size, layout="constrained")
    function(what, ax=figure.subplots())
    return figure


def _bytes(n: int) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n} B"


def _time(when: object) -> str:
    return str(when)[:16].replace("T", " ")


def _span(first: object, last: object) -> str:
    """Return from when to when, the day once if it is the same."""
    start, end = _time(first), _time(last)
    return start if start == end else f"{start} to {end[11:] if end[:10] == start[:10] else end}"
