"""In which language a page speaks: every sentence goes through one place, and is looked up in a catalogue of gettext.

English is in the code. ``locale/LANGUAGE/LC_MESSAGES/infl.po`` has the sentences of another language, ``infl.mo`` the same as
programs read it. ``python tests/catalogue.py`` brings both up to date.
"""

from __future__ import annotations

import gettext
import re
from functools import cache
from pathlib import Path

from infl._html import English
from infl._parameters import Choice

LOCALE = Path(__file__).parent / "locale"
LANGUAGES = ("en", *sorted(path.name for path in LOCALE.iterdir() if path.is_dir()))
"""Languages that a page can be written in: English, and each that has a folder in ``locale``."""
LANGUAGE = Choice(LANGUAGES)
DOMAIN = "infl"


def mark(message: str) -> str:
    """Return a sentence as it is; so marked, it is in the catalogues, and said later."""
    return message


TEMPLATES = (
    mark("{value} ({low} to {high})"),
    mark("validation {metric}"),
    mark("kept: round {n}"),
    mark("chance ({n})"),
    mark("{metric} (mean ± sd of {n} seeds)"),
    mark("{metric} (mean ± sd of {n} seeds; lower is better)"),
    mark("{attack} · {protection}\n{metric}, against {who}"),
    mark("lock {lock}, seal {seal}"),
    mark("{n} entries"),
    mark("correlation with the patients' profiles, batch of {n}"),
    mark("{metric}, average of {n} locks of the model"),
    mark("balanced accuracy with the {n} features that come first"),
    mark("epsilon, lower bound at 95 % by canaries, {what}"),
)
"""Texts that are put together elsewhere, in figures and tables: their parts are looked up one by one."""


class Words:
    """What a page says, in one language.

    Parameters
    ----------
    language
        One of :data:`LANGUAGES`.

    Raises
    ------
    SettingsError
        There is no such language.

    Examples
    --------
    >>> Words("de").say("What left each site")
    'Was jeden Standort verlassen hat'
    >>> Words("fr").count("{n} message", "{n} messages", 12000)
    '12\u202f000 messages'
    """

    def __init__(self, language: str = "en") -> None:
        self.language = LANGUAGE.read("language", language)
        self._found = _catalogue(self.language)
        self.kept_english = False
        """Whether a text of elsewhere was not in the catalogue, and stayed as it was."""

    def say(self, message: str, **values: object) -> str:
        """Return a sentence with its values."""
        said = self._found.gettext(message) if message else ""
        return said.format(**values) if values else said

    def count(self, one: str, several: str, n: int, **values: object) -> str:
        """Return a sentence about a number, which is its ``{n}``."""
        return self._found.ngettext(one, several, n).format(n=self.whole(n), **values)

    def whole(self, n: int) -> str:
        """Return a whole number; beside English, a comma would be read as that of a decimal."""
        return self.number(f"{n:,}")

    def number(self, shown: str) -> str:
        """Return a number that was written in English, as whoever reads this language would not misread it."""
        return shown if self.language == "en" else re.sub(r"(?<=\d),(?=\d{3})", "\u202f", shown)

    def known(self, text: str) -> str | English:
        """Return what was made elsewhere in English: translated if the catalogue has it, else marked as English.

        What has no letter in it is the same in all languages.

        Examples
        --------
        >>> Words("de").known("wrong key"), Words("de").known("0.970 (0.950 to 0.990)")
        ('falscher Schlüssel', '0.970 (0.950 bis 0.990)')
        """
        found = self._translated(text)
        if found is not None:
            return found
        self.kept_english = True
        return English(text)

    def part(self, text: str) -> str:
        """Return a name translated if the catalogue has it, else as it is: names of people's own are of no language."""
        found = self._translated(text)
        return text if found is None else found

    def _translated(self, text: str) -> str | None:
        if self.language == "en" or not re.search("[^\\W\\d_]", text):
            return self.number(text)
        found = self._found.gettext(text)
        if found != text or text in _same(self.language):
            return found
        for template in TEMPLATES:
            if match := _pattern(template).fullmatch(text):
                return self.say(template, **{name: self.part(value) for name, value in match.groupdict().items()})
        return None


@cache
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.NullTranslations() if language == "en" else gettext.translation(DOMAIN, LOCALE, [language])


@cache
def _same(language: str) -> frozenset[str]:
    """Return the messages that are the same in a language as in English."""
    catalogue = vars(_catalogue(language)).get("_catalog", {})
    return frozenset(message for message, said in catalogue.items() if message == said)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(f"(?P<{part}>.+?)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts)))
