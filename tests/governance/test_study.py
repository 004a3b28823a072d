"""The page of a study at a site: steps, consent, what left and what was opened, in each language, as HTML and as Markdown."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.deploy.study.test_worker import STEPS, House
from tests.governance.conftest import Reader
from tests.governance.test_language import english
from typer.testing import CliRunner

from infl.cli.app import app
from infl.deploy.study.consent import SiteStudies
from infl.errors import FileError, SettingsError
from infl.governance.language import LANGUAGES
from infl.governance.study import study_page
from infl.privacy.account import Account

POLICY = 'seals = ["group"]\nsteps = ["*"]\n[disclosure]\nk = 5\nfeatures_per_record = 1000\n'


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = House(tmp_path_factory.mktemp("house"), STEPS[:2], POLICY)
    assert house.attempt().state == "finished"
    return house


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_says_all_in_each_language(house: House, language: str) -> None:
    made = study_page(house.folder("s0"), language=language)
    page = Reader(made.html())
    assert page.all("html") == [{"lang": language}] and "{" not in page.text.replace("{}", "")
    if language != "en":
        assert english(page, language) == set()
    for part in (*house.study.sites, house.study.run, house.study.specification, house.study.fingerprint):
        assert part in page.text
    for step in house.study.steps:
        assert str(step) in page.text
    table = next(line for line in made.lines if "quality of features" in line and line.count("|") > 15)
    assert table.splitlines()[0].count("|") == table.splitlines()[2].count("|")
    assert len(page.all("caption")) == len(page.all("table")) >= 4


def test_what_was_opened_is_what_the_rules_let(house: House) -> None:
    opened_at = {site: SiteStudies(house.folder(site)).result()[1].opened() for site in house.sites}
    assert all(set(opened) == {1, 2} for opened in opened_at.values())
    # the house's sites share one process and with it the rules in force, whose object is one site's
    site, opened = next((site, opened) for site, opened in opened_at.items() if opened[1])
    counts = next(iter(opened[1].values()))
    assert counts[""] > 0 and set(counts) == {"", "sites", "dominance"}
    text = study_page(house.folder(site)).markdown()
    row = re.search(r"\| 1 \| quality of features\S* \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", text)
    assert row and [int(n.replace(",", "")) for n in row.groups()] == [counts[""], counts["sites"], counts["dominance"]]
    assert "| k | 5 |" in text and "features_per_record | 1000 |" in text


def test_consent_is_told_as_it_was_given(house: House, tmp_path: Path) -> None:
    folder, study = house.folder("s1"), house.study
    assert "the policy lists every step" in study_page(folder).markdown()
    policy = folder.home / "policy.toml"
    policy.write_text('seals = ["group"]\nsteps = ["pp.qc_summary"]\n')
    assert "nobody has said yes yet" in study_page(folder).markdown()
    (folder.home / "approved").mkdir()
    (folder.home / "approved" / "expected").write_text(study.digest)
    assert "by naming the study's file" in study_page(folder).markdown()
    folder.approve(study.digest)
    text = study_page(folder).markdown()
    assert "to exactly this study" in text and "a person's yes" in text
    policy.write_text('seals = ["group"]\ndisclosure_rules = false\n')
    assert "its policy has switched them off" in study_page(folder).markdown()


def test_lifetime_epsilon_is_of_the_record_that_spent_most(house: House) -> None:
    folder = house.folder("s2")
    assert "in all runs here | 0 |" in study_page(folder).markdown()
    account: Account = folder.account
    assert account.most_spent() == 0
    for run, names in (("1", ["x", "y"]), ("2", ["y", "z"])):
        account.admit(run, names, noise=2.0, sample_rate=0.2, rounds=10).charge(run.encode())
    assert account.most_spent() == account.spent(["y"]) > account.spent(["x"])
    assert f"in all runs here | {account.spent(['y']):.3g} |" in study_page(folder).markdown()


def test_the_command_writes_what_the_name_asks_for(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infl.cli.site.find_home", lambda home: house.root / "s0")

    def typed(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["study", "report", *map(str, arguments)])

    assert "steps, what was opened" in typed(tmp_path / "r.html", "--language", "de").stdout
    assert '<html lang="de">' in (tmp_path / "r.html").read_text()
    assert typed(tmp_path / "r.md").exit_code == 0 and (tmp_path / "r.md").read_text().startswith(
        "# Study first, at s0"
    )
    assert type(typed(tmp_path / "r.pdf").exception) is FileError
    wrong = typed(tmp_path / "s.html", "--language", "xx").exception
    assert type(wrong) is SettingsError and "give one of" in str(wrong) and not (tmp_path / "s.html").exists()


def test_nothing_of_the_data_is_on_the_page(house: House) -> None:
    text = study_page(house.folder("s0")).html()
    adata = house.sites["s0"]
    assert not [name for name in adata.obs_names if re.search(rf"\b{re.escape(name)}\b", text)]
    assert str(house.root) not in text and str(np.ravel(adata.X)[0]) not in text
