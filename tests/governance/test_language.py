"""The report in other languages: every sentence is translated, what is not is marked as English, and nothing is left to fill in."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from tests import catalogue
from tests.governance.conftest import Reader, read

import infl
from infl import pl
from infl.errors import SettingsError
from infl.governance.language import LANGUAGES, LOCALE, TEMPLATES, Words
from infl.governance.steward.parts import drawn
from infl.privacy import DP

OTHERS = LANGUAGES[1:]


# -- the catalogues ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("language", OTHERS)
def test_every_sentence_is_translated_with_the_same_values(language: str) -> None:
    assert catalogue.wrong(catalogue.read(language)) == []


@pytest.mark.parametrize("language", OTHERS)
def test_programs_read_what_people_wrote(language: str) -> None:
    compiled = catalogue.path_of(language, "mo").read_bytes()
    assert catalogue.content(compiled) == catalogue.content(catalogue.compiled(catalogue.read(language)))


def test_what_is_missing_or_has_other_values_is_found() -> None:
    known = catalogue.read("de")
    known["No record left its site. {messages} did, {size} in all."].string = "Nur {messages}, {groesse}."
    known["Contents"].string = ""
    known["{n} message"].string = ("eine Nachricht", "{n} Nachrichten")
    known["auroc"].string = ""  # of elsewhere: it may stay in English
    del known["In short"]
    assert [line.rpartition("' ")[2] for line in catalogue.wrong(known)] == [
        "is not in it",
        "has no translation",
        *["has other placeholders than its translation"] * 2,
    ]
    assert list(catalogue.sentences('say("a" "b"); x.count("1 x", "{n} x", n); mark("c"); say(d)')) == [
        "ab",
        ("1 x", "{n} x"),
        "c",
    ]
    with pytest.raises(ValueError, match="line 1: a sentence is one text"):
        list(catalogue.sentences('say(f"{n} messages")'))


def test_the_catalogues_are_no_ignored_files() -> None:
    """The wheel has what git does not ignore."""
    if shutil.which("git") is None or not (Path(__file__).parents[2] / ".git").exists():
        pytest.skip("needs git, and a clone")
    files = [catalogue.path_of(language, kind) for language in OTHERS for kind in ("po", "mo")]
    assert subprocess.run(["git", "check-ignore", *files], cwd=LOCALE, capture_output=True).stdout == b""


# -- words ---------------------------------------------------------------------------------------------------------
def test_an_unknown_language_is_one_line(usual: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^language='xx': give one of 'en', 'de', 'fr'$"):
        infl.governance.report(usual.run, tmp_path / "report.html", language="xx")
    assert not list(tmp_path.iterdir())


def test_a_comma_in_a_number_is_not_read_as_a_decimal() -> None:
    assert [Words(language).whole(1234567) for language in ("en", "de")] == ["1,234,567", "1\u202f234\u202f567"]
    assert Words("fr").count("{n} message", "{n} messages", 0) == "0 message"  # as French counts
    assert Words("de").known("12,346 (−1,000 to 0.5)") == "12\u202f346 (−1\u202f000 bis 0.5)"


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_was_put_together_elsewhere_is_taken_apart(template: str) -> None:
    values = dict.fromkeys(catalogue.placeholders(template), "7")
    for language in OTHERS:
        words = Words(language)
        assert words.known(template.format(**values)) == words.say(template, **values)


def test_what_the_catalogue_lacks_is_marked() -> None:
    words = Words("de")
    assert str(words.known("auroc")) == "AUROC" and str(words.known("holds")) == "hält" and not words.kept_english
    assert words.known("Mosaik") == infl._html.English("Mosaik") and words.kept_english
    assert Words("fr").known("classes") == "classes"  # the same in both
    assert Words("en").known("Seven ways.") == "Seven ways."


# -- the page ------------------------------------------------------------------------------------------------------
def english(page: Reader, language: str) -> set[str]:
    """Return the sentences of the catalogue that stand on a page as they are in English."""
    known = vars(Words(language)._found)["_catalog"]
    ours = {
        m if isinstance(m, str) else m[0]
        for m, said in known.items()
        if m and said != (m if isinstance(m, str) else m[0])
    }
    seen = {data.strip() for tag, data in page.texts if tag != "span"}
    return {data for data in seen if data in ours or any(data.endswith(f" {m}") for m in ours if len(m) > 40)}


@pytest.mark.parametrize("language", OTHERS)
def test_a_page_has_no_english_but_what_is_marked(
    usual, hostile, audit, comparison, language: str, tmp_path: Path
) -> None:
    curve = pd.DataFrame({"strength": [0.0, 1.0], "who": ["right key", "wrong key"], "auroc": [0.9, 0.5], "sd": 0.1})
    options = {"audit": audit, "comparison": comparison, "statements": {"purpose": "Forschung"}, "lock_curve": curve}
    options["site_metrics"] = infl.tl.site_metrics(usual.run, usual.sites)
    page, card, _ = read(usual.run, tmp_path, language=language, **options)
    assert page.all("html") == [{"lang": language}]
    assert english(page, language) == set()
    assert [data for tag, data in page.texts if tag == "span"] == list(audit["note"])
    assert {a["lang"] for a in page.all("span")} == {"en"}
    assert (
        Words(language).say(
            "Texts that come from other parts of the software are in English where they have not been translated."
        )
        in page.text
    )
    assert "{" not in page.text
    assert card["not_known"]["contact"] == "Who answers questions?"  # for programs: in English
    plain, _, _ = read(hostile.run, tmp_path, language=language, overwrite=True)
    assert english(plain, language) == set() and plain.all("span") == []
    assert Words(language).say("Attention:") in plain.text


def test_a_private_run_speaks_too(khan_sites, tmp_path: Path) -> None:
    small = {name: adata[:, :20].copy() for name, adata in khan_sites.items()}
    dp = DP(noise_multiplier=2.0, delta=1e-3, accountant="rdp")
    run = infl.tl.fit_federated(small, target="tumour_class", privacy=dp, rounds=1, width=4, progress=False)
    for language in OTHERS:
        page, _, _ = read(run, tmp_path, language=language, overwrite=True)
        assert english(page, language) == set() and "{" not in page.text
        assert f"ε = {run.privacy['epsilon']:.2f}" in page.text


def test_english_is_found_where_there_is_some(usual: Any, tmp_path: Path) -> None:
    page, _, _ = read(usual.run, tmp_path)
    assert {"In short", "Attention:", "What attacks got"} & english(page, "de")
    assert page.all("span") == []


# -- figures -------------------------------------------------------------------------------------------------------
def words_of(figure: Figure) -> list[str]:
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    return [*labels, axes.get_xlabel(), *(text.get_text() for text in axes.get_legend().get_texts())]


@pytest.mark.parametrize("language", OTHERS)
def test_figures_speak_too(audit, comparison, language: str) -> None:
    for function, table in ((pl.audit, audit), (pl.compare, comparison)):
        before, after = (words_of(drawn(function, table, Words(tongue), size=(7, 4))) for tongue in ("en", language))
        assert len(before) == len(after)
        assert [a for a, b in zip(before, after, strict=True) if a == b and re.search("[a-z]{3}", a)] == []
