"""The catalogues of the report's languages: ``python tests/catalogue.py`` brings them up to date with the sentences in the code.

Sentences are the texts in calls of ``say``, ``count`` and ``mark``, and names that other parts of the package give to what the page
shows: attacks, metrics, methods, and what each sum tells. New ones get an empty place in each ``infl.po``, those that are gone are
dropped, and each ``infl.mo`` is compiled anew. ``tests/governance/test_language.py`` fails while a translation is missing, or one has
other placeholders.
"""

from __future__ import annotations

import ast
import gettext
import io
import re
import string
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from infl._tables import METHODS, label_of
from infl.attacks import ATTACKS, Attacker, Status
from infl.federation.descriptions import UNKNOWN
from infl.federation.messages import Key, Reveal, Trouble
from infl.governance.facts import METRICS
from infl.governance.language import DOMAIN, LANGUAGES, LOCALE
from infl.governance.what_leaves import OF_EVERY_RUN, OF_PREPROCESSING, what_leaves
from infl.models.registry import TASKS

SOURCE = LOCALE.parents[1]
FILES = [SOURCE / "_html.py", *sorted((SOURCE / "governance").rglob("*.py"))]
CALLS = {"say": 1, "mark": 1, "count": 2}
"""How many of a call's first arguments are sentences."""
HEADER = """\
# {language} of infl's report. Sentences come from the code by `python tests/catalogue.py`; translations are written here."""
METRIC = re.compile(r'metric="([^"]+)"')
COLUMNS = ("attack", "verdict", "by", "measured", "got (95 %)", "chance", "unprotected", "method", "worst site")
FIGURES = ("_audit.py", "_compare.py", "_lock.py", "_rounds.py")
LABEL = re.compile(r'set_[xy]label\("([^"]+)"')
OF_FIGURES = (
    *(
        "unprotected run",
        "value of the metric named at the left",
        "0: chance, 1: unprotected run",
        "right key",
        "wrong key",
    ),
    *(
        "no key",
        "training loss",
        "validation loss",
        "with the key",
        "wrong or no key",
        "without a lock",
        "loss",
        "correlation",
        "epsilon",
    ),
)
Message = str | tuple[str, str]


@cache
def own() -> dict[Message, None]:
    """Return the sentences that the page itself says, in order; a language has all of them."""
    found: dict[Message, None] = {}
    for path in FILES:
        found |= dict.fromkeys(sentences(path.read_text(), path.name))
    return found


def messages() -> dict[Message, None]:
    """Return all sentences, in order: the page's own, then others that it may show, and shows in English where they are not translated."""
    found = own()
    plural = {message[0] for message in found if isinstance(message, tuple)}
    return found | {message: None for message in names() if message not in found and message not in plural}


def sentences(source: str, name: str = "") -> Iterator[Message]:
    """Yield the sentences of a module.

    Raises
    ------
    ValueError
        A sentence is put together in its call, so that no catalogue can have it.
    """
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        called = getattr(call.func, "attr", getattr(call.func, "id", ""))
        parts = call.args[: CALLS.get(called, 0)]
        texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if any(isinstance(part, ast.JoinedStr | ast.BinOp) for part in parts):
            raise ValueError(f"{name}, line {call.lineno}: a sentence is one text, with {{names}} for values")
        if parts and len(texts) == CALLS[called]:
            yield texts[0] if called != "count" else (texts[0], texts[1])


def names() -> list[str]:
    """Return what the page shows of other parts of the package: names of attacks, metrics, methods; what each sum tells."""
    metrics = (
        found for path in sorted((SOURCE / "attacks").rglob("*.py")) for found in METRIC.findall(path.read_text())
    )
    labels = (f"{part}" for path in FIGURES for part in LABEL.findall((SOURCE / "pl" / path).read_text()))
    found = [
        *(*COLUMNS, *OF_FIGURES, *labels, *map(str, Status), *map(str, Attacker), *map(label_of, ATTACKS)),
        *(*map(label_of, METRICS), *METHODS.values(), *TASKS, *metrics, *sums()),
    ]
    return list(dict.fromkeys(found))


def sums() -> Iterator[str]:
    """Yield what each sum of a run tells, and each other message."""
    yield from (message.says for message in (Key, Reveal, Trouble))
    yield UNKNOWN
    for line in what_leaves().partition(OF_EVERY_RUN)[2].partition(OF_PREPROCESSING)[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = next((place for place, cell in enumerate(cells) if cell.startswith("`")), None)
        if name is not None:
            yield cells[name + 1]


def path_of(language: str, kind: str = "po") -> Path:
    """Return the file of a catalogue."""
    return LOCALE / language / "LC_MESSAGES" / f"{DOMAIN}.{kind}"


def read(language: str) -> Catalog:
    """Return the catalogue of a language; an empty one where there is none."""
    path = path_of(language)
    with io.BytesIO(path.read_bytes() if path.exists() else b"") as file:
        return read_po(file, locale=language, domain=DOMAIN)


def updated(language: str) -> Catalog:
    """Return the catalogue of a language with the sentences of the code, in their order."""
    before = read(language)
    catalogue = Catalog(locale=language, domain=DOMAIN, header_comment=HEADER.format(language=language), fuzzy=False)
    catalogue.mime_headers = [(name, value) for name, value in before.mime_headers if name == "Plural-Forms"]
    for message in messages():
        one = message[0] if isinstance(message, tuple) else message
        known = before.get(one)
        same = known is not None and isinstance(known.id, tuple) == isinstance(message, tuple)
        catalogue.add(message, known.string if same and known is not None else None)
    return catalogue


def wrong(catalogue: Catalog) -> list[str]:
    """Return what is wrong in a catalogue, a line for each message."""
    lines = [f"{message!r} is not in it" for message in own() if message not in {known.id for known in catalogue}]
    for message in catalogue:
        if not message.id:
            continue
        ids = message.id if isinstance(message.id, tuple) else (message.id,)
        said = message.string if isinstance(message.string, tuple) else (message.string,)
        if not all(said) and message.id not in own():
            continue
        if not all(said):
            lines.append(f"{ids[0]!r} has no translation")
        elif any(placeholders(text) != placeholders(ids[-1]) for text in said):
            lines.append(f"{ids[0]!r} has other placeholders than its translation")
    return lines


def placeholders(text: str) -> list[str]:
    """Return the names of values in a sentence, sorted; twice where one comes twice."""
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def compiled(catalogue: Catalog) -> bytes:
    """Return a catalogue as programs read it."""
    with io.BytesIO() as file:
        write_mo(file, catalogue)
        return file.getvalue()


def content(file: bytes) -> dict[object, str]:
    """Return what programs read of a compiled catalogue, without its dates."""
    found = vars(gettext.GNUTranslations(io.BytesIO(file)))["_catalog"]
    return {message: said for message, said in found.items() if message}


def write(language: str) -> list[str]:
    """Write both files of a language; return what is still wrong."""
    catalogue = updated(language)
    with io.BytesIO() as file:
        write_po(file, catalogue, width=120, omit_header=False, sort_output=False)
        text = file.getvalue().decode()
    dates = r'^"(POT-Creation-Date|PO-Revision-Date|Last-Translator|Generated-By|Language-Team|Project-Id-Version|Report-Msgid-Bugs-To).*\n'
    path_of(language).parent.mkdir(parents=True, exist_ok=True)
    path_of(language).write_text(re.sub(dates, "", text, flags=re.MULTILINE))
    path_of(language, "mo").write_bytes(compiled(read(language)))
    return wrong(catalogue)


if __name__ == "__main__":
    for language in sys.argv[1:] or LANGUAGES[1:]:
        lines = write(language)
        print(f"{language}: {len(messages())} sentences, {len(lines)} to mend", *lines, sep="\n  ")
