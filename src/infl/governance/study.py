"""A page about a study at one site: what was agreed on, what each step did and opened, what left the site, and the place to sign."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from infl import __version__
from infl._html import Page
from infl.deploy.study.consent import SiteStudies, asks, step_is_listed
from infl.deploy.study.report import left_in_steps
from infl.governance.facts import STATEMENTS
from infl.governance.language import Words, mark
from infl.governance.steward import texts
from infl.governance.steward.parts import minute, size_of
from infl.privacy.rules import DisclosureRules

if TYPE_CHECKING:
    from infl.deploy.site_folder import SiteFolder

RULES = {
    "k": mark("fewest records, or persons, in a set that is released, and by which two sets differ, for life"),
    "dominance": mark("largest share of one record in a sum of values that are not negative"),
    "min_holders": mark("fewest sites with records behind an opened number, beside the colluders"),
    "colluders": mark("sites that are assumed to pool what they know"),
    "features_per_record": mark("most features whose means are released, per record of the set"),
    "records_per_parameter": mark("fewest records here for each parameter of a model"),
    "donor_key": mark("column with the person that a record is of"),
    "groups": mark("columns whose groups may be asked about"),
    "own": mark("rules of this site's own, which are asked after the others"),
}
"""What each rule of disclosure asks, by its name in policy.toml."""
STUDY = mark(
    "The sites ran the steps below together, each on its own records. What travels between them are sealed sums, and names that "
    "only the sites can read. This page is of one site: what was agreed on, what was opened, and what left it."
)
SUMS = mark(
    "Sums are sealed: the coordinator adds what it cannot read, and all sites see the total. Names are encrypted for the sites. "
    "Each message was written into the ledger before it left; one that was sent again is counted once."
)
NO_RULES = mark("No rules of disclosure bound this site's sums: its policy has switched them off.")
ARE_CLOSED = mark(
    "A number is opened only where enough sites give it, each by its own rules; what is closed comes back as a gap. “Few sites” "
    "are numbers that too few sites gave, “dominance” those of which one record makes up too much. The site's reasons stay here."
)
GROUP_SEAL = mark(
    "A site that conspires with the coordinator: together they can open the other sites' sums, which are under one key."
)
NOTHING_BOUNDS = mark(
    "What opened sums tell of a record beyond the rules of disclosure: without differential privacy no bound on it is proved."
)
PURPOSE = mark("What is the study for?")
WRONG_SUMS = mark("A site that sends wrong numbers: sums are sealed, so nobody sees whose they were.")


def study_page(site_folder: SiteFolder, name: str = "", *, language: str = "en") -> Page:
    """Return the page, to be written as HTML or as Markdown.

    Parameters
    ----------
    site_folder
        Of the site.
    name
        Of the study, or the beginning of its random name; the only one where none is given.
    language
        One of :data:`infl.governance.LANGUAGES`.

    Raises
    ------
    FileError
        There is no such study at the site.
    SettingsError
        There is no such language.
    """
    words = Words(language)
    return _StudyPage(site_folder, name, words).page()


class _StudyPage:
    def __init__(self, site_folder: SiteFolder, name: str, words: Words) -> None:
        self.words, self.site_folder, self.studies = words, site_folder, SiteStudies(site_folder)
        self.study = self.studies.find(name)
        self.site, self.policy = site_folder.settings.name, site_folder.policy
        self.folder = self.studies.folder(self.study)
        self.ledger = site_folder.ledger(self.folder)

    @cached_property
    def journal(self) -> dict[str, Any]:
        """What is kept, and what was opened; nothing where no step has begun."""
        if not (self.folder / "journal.json").exists():
            return {"done": 0, "opened": {}}
        working = self.studies.working(self.study, self.site_folder.settings.data)
        return {"done": working.done, "opened": working.opened()}

    def page(self) -> Page:
        say, study = self.words.say, self.study
        self.sheet = Page(
            say("Study {name}, at {site}", name=study.name, site=self.site),
            lead=say(
                "Report on a study over {n} sites, written {when} by infl {version}. For data stewards, data-access committees "
                "and ethics boards.",
                n=len(study.sites),
                when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                version=__version__,
            ),
            foot=say(
                "Study {run} · specification {digest} · this page has no key and no patient's data in it, and loads nothing from "
                "elsewhere.",
                run=study.run,
                digest=study.specification,
            ),
            language=self.words.language,
            say=say,
        )
        for part in (
            self.in_short,
            self.who,
            self.steps,
            self.left,
            self.opened,
            self.epsilon,
            self.unprotected,
            self.sign,
        ):
            part()
        if self.words.kept_english:
            self.sheet.note(say(texts.KEPT_ENGLISH))
        return self.sheet

    def in_short(self) -> None:
        words, say, study, done = self.words, self.words.say, self.study, self.journal["done"]
        self.sheet.heading(say("In short"))
        self.sheet.text(say(STUDY))
        size = size_of(sum(int(entry["bytes"]) for entry in self.ledger), words)
        messages = words.count("{n} message", "{n} messages", len(self.ledger))
        points = [
            say("No record left its site. {messages} did, {size} in all.", messages=messages, size=size),
            say("{done} of {n} steps are kept.", done=done, n=len(study.steps)),
            say(
                "Sums are under key version {version}, fingerprint {key}.",
                version=study.key_version,
                key=study.fingerprint,
            ),
            say("Rules of disclosure bind this site's sums.") if self.policy.disclosure_rules else say(NO_RULES),
        ]
        self.sheet.points(points)
        if study.description:
            self.sheet.facts(
                {say("description"): study.description}, say("What those who propose the study say of it.")
            )

    def who(self) -> None:
        say, study = self.words.say, self.study
        self.sheet.heading(say("Who takes part, and by whose consent"))
        self.sheet.text(say("Sites: {sites}. All of them take part in every step.", sites=", ".join(study.sites)))
        self.sheet.text(self._consent())

    def _consent(self) -> str:
        say, approved = self.words.say, self.site_folder.home / "approved"
        if not asks(self.policy, self.study):
            return say("At this site the policy lists every step and every column that it reads: nobody is asked.")
        if (approved / self.study.digest).exists():
            when = _time_of(approved / self.study.digest)
            return say("At this site a person said yes on {when} (UTC), to exactly this study.", when=when)
        named = approved / "expected"
        if named.exists() and named.read_text() == self.study.digest:
            return say(
                "At this site a person said yes by naming the study's file when the site was started; taken up on {when} (UTC).",
                when=_time_of(named),
            )
        return say("At this site nobody has said yes yet: nothing of the study runs here.")

    def steps(self) -> None:
        say, kept = self.words.say, self._kept()
        self.sheet.heading(say("What was done"))
        rows = []
        for number, step in enumerate(self.study.steps, 1):
            consent = say("listed in the policy") if step_is_listed(self.policy, step) else say("a person's yes")
            state = kept.get(number, say("yes")) if number <= self.journal["done"] else say("not yet")
            rows.append((number, str(step), consent, state))
        head = [say("step"), say("call"), say("consent"), say("kept (UTC)")]
        self.sheet.table(pd.DataFrame(rows, columns=head), say("Steps of the study, as agreed on."))
        fields = [(n, _fields(step.needs), _fields(step.writes)) for n, step in enumerate(self.study.steps, 1)]
        head = [say("step"), say("reads"), say("writes")]
        self.sheet.table(
            pd.DataFrame(fields, columns=head), say("What each step reads and writes in this site's object.")
        )

    def _kept(self) -> dict[int, str]:
        line = re.compile(rf"(\S+) study {re.escape(self.study.name)}: step (\d+) of \d+ is kept, .*")
        found = filter(None, map(line.fullmatch, self.site_folder.log.events()))
        return {int(match[2]): minute(match[1]) for match in found}

    def left(self) -> None:
        words, say = self.words, self.words.say
        self.sheet.heading(say("What left this site"))
        self.sheet.text(say(SUMS))
        readers = {"sites": say("sites"), "sites, as a sum": say("sites, as a sum")}
        rows = [
            (step, words.known(what), words.whole(n), size_of(size, words), readers[reader])
            for step, what, n, size, reader in left_in_steps(self.ledger)
        ]
        numbers = [say("messages"), say("size")]
        head = [say("step"), say("what"), *numbers, say("read by")]
        self.sheet.table(pd.DataFrame(rows, columns=head), say("By step, from this site's ledger."), numbers=numbers)

    def opened(self) -> None:
        words, say, rules = self.words, self.words.say, self.policy.disclosure
        self.sheet.heading(say("What was opened, by the rules of disclosure"))
        if not self.policy.disclosure_rules:
            self.sheet.text(say(NO_RULES))
            return
        table = [(name, _value(rules, name) or "–", say(text)) for name, text in RULES.items()]
        head = [say("rule"), say("value"), say("meaning")]
        self.sheet.table(pd.DataFrame(table, columns=head), say("Rules of this site, as its policy has them now."))
        self.sheet.text(say(ARE_CLOSED))
        rows = [
            (step, words.known(what), *(words.whole(counts.get(rule, 0)) for rule in ("", "sites", "dominance")))
            for step, sums in self.journal["opened"].items()
            for what, counts in sums.items()
        ]
        if not rows:
            self.sheet.text(say("No step that is kept has opened numbers under these rules."))
            return
        numbers = [say("opened"), say("closed: few sites"), say("closed: dominance")]
        head = [say("step"), say("sum"), *numbers]
        self.sheet.table(pd.DataFrame(rows, columns=head), say("Numbers of each sum, rule by rule."), numbers=numbers)

    def epsilon(self) -> None:
        say, policy, folder = self.words.say, self.policy, self.site_folder.home / "account"
        self.sheet.heading(say("Differential privacy"))
        self.sheet.text(say("Sums of a study are exact: no noise is added to them, and they spend no ε."))
        spent = self.site_folder.account.most_spent() if folder.exists() else 0.0
        limit = f"{policy.lifetime_epsilon:g}" if policy.lifetime_epsilon else say("no limit")
        self.sheet.facts(
            {
                say("largest ε that a record has spent, in all runs here"): f"{spent:.3g}",
                say("largest ε that it may spend in its life"): limit,
                "δ": f"{policy.lifetime_delta:g}",
            },
            say("This site's account over all runs."),
        )

    def unprotected(self) -> None:
        say = self.words.say
        self.sheet.heading(say("What this does not protect from"))
        self.sheet.points(say(text) for text in (GROUP_SEAL, WRONG_SUMS, NOTHING_BOUNDS, *texts.NEVER_PROTECTED[:2]))

    def sign(self) -> None:
        say = self.words.say
        self.sheet.heading(say("To be completed by people"))
        self.sheet.text(say("The software does not know this; it is part of a decision."))
        asked = (STATEMENTS[name] for name in ("people", "legal_basis", "contact"))
        self.sheet.to_fill_in(map(say, (PURPOSE, *asked)))
        self.sheet.subheading(say("Decision"))
        lines = (say("Use of the results as described is"), say("Conditions"), say("Name and office"), say("Date"))
        self.sheet.to_fill_in([*lines, say("Signature")])


def _fields(fields: list[tuple[str, str]]) -> str:
    shown = [f"{slot}[{name!r}]" for slot, name in fields[:4]]
    return ", ".join(shown + ["…"] * (len(fields) > 4)) or "–"


def _value(rules: DisclosureRules, name: str) -> str:
    value = getattr(rules, name)
    return (
        ", ".join(value)
        if isinstance(value, tuple)
        else ""
        if value is None
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _time_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
