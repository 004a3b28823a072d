"""The report of a run: what it says is so, what it must not say is not in it, and names are names."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.governance.conftest import metrics, read

import infl
from infl.attacks import Status
from infl.errors import DataError, SettingsError
from infl.privacy import DP


# -- what it says -------------------------------------------------------------------------------------------------
def test_all_three_say_what_the_run_knows(usual: Any, audit, comparison, tmp_path: Path) -> None:
    run, key = usual.run, usual.key
    statements = {"purpose": "To sort tumours", "contact": "dpo@example.org"}
    page, card, sheet = read(run, tmp_path, audit=audit, comparison=comparison, statements=statements)
    text = page.text
    assert page.texts[0] == ("title", "One classifier for tumour_class, fitted by 5 sites")
    assert "This was a simulation" in text
    size = run.ledger["bytes"].sum()
    assert f"{len(run.ledger)} messages, {size / 1e6:.1f} MB in all" in text
    for name in (*run.settings["sites"], *run.model.header.panel["classes"], "To sort tumours", "4 of 4"):
        assert name in text
    assert text.count(key.fingerprint()) == 3  # in short, the run's, the model's
    assert key.trail.holder_fingerprint() in text
    kinds = set(run.ledger["kind"])
    assert {data for tag, data in page.texts if tag == "th"} >= kinds
    assert (
        "Attacked in 6 ways; findings: 1 “holds”, 1 “leak”, 1 “not promised”, 1 “not judged”, 1 “inconclusive”, "
        "1 “cannot tell”." in text
    )
    assert "inconclusive: too few trials" in text and "cannot tell: the attack could not show" in text
    assert "not judged: the attack did not work" in text and "shows nothing" not in text
    assert "1 finding of the audit is a leak" in text
    assert "0.000 (−0.100 to 0.100)" in text and "−0.000" not in text  # no negative nothing
    assert "0.970 ± 0.020" in text and "infl, wrong key" in text
    best = run.history[run.history["best"]].iloc[0]
    assert f"balanced accuracy is {best['val_balanced_accuracy']:.3f}" in text

    assert card["model_details"]["version"] == {
        "run": run.settings["run"],
        "sha256": run.model.header.digest,
        "format": run.model.header.format,
    }
    assert card["quantitative_analyses"]["unitary_results"]["balanced_accuracy"] == best["val_balanced_accuracy"]
    messages = card["ethical_considerations"]["messages"]
    assert messages["bytes"] == size and sum(kind["bytes"] for kind in messages["by_kind"]) == size
    assert card["ethical_considerations"]["audit"]["findings"]["leak"] == 1
    assert card["ethical_considerations"]["differential_privacy"] is None
    assert card["intended_use"]["primary_intended_uses"] == sheet["motivation"]["purpose"] == "To sort tumours"
    assert set(card["not_known"]) == set(infl.governance.STATEMENTS) - set(statements)
    assert sheet["composition"]["label_values"] == list(run.model.header.panel["classes"])
    assert sheet["maintenance"]["contact"] == "dpo@example.org"


def test_what_findings_mean_is_explained_in_the_words_of_table_and_legend(usual: Any, audit, tmp_path: Path) -> None:
    page, _, _ = read(usual.run, tmp_path, audit=audit)
    explained = [data.partition(": ")[0] for tag, data in page.texts if tag == "li"]
    words = [str(status) for status in Status]
    assert [word for word in explained if word in words] == words == sorted(audit["status"], key=words.index)
    assert sorted(data for tag, data in page.texts if tag == "td" and data in words) == sorted(words)


def test_what_is_not_protected_cannot_be_missed(hostile: Any, tmp_path: Path) -> None:
    page, card, _ = read(hostile.run, tmp_path)
    alarms = [data for tag, data in page.texts if tag == "strong"]
    assert alarms == ["Attention:"] * 2
    assert f"{len(hostile.run.ledger)} messages were not sealed" in page.text
    assert "The model file is not locked" in page.text
    assert "All of them were sealed" not in page.text
    each = len(hostile.run.ledger) // 4
    assert page.text.count(f"0 of {each}") == 4
    assert "The coordinator: it can read every site's update" in page.text and "only sums over" not in page.text
    assert "There is no key" in page.text
    assert card["ethical_considerations"]["messages"]["all_sealed"] is False
    assert card["model_details"]["protection"]["key_fingerprint"] is None


def test_epsilon_is_told_and_what_it_means(khan_sites: dict[str, AnnData], tmp_path: Path) -> None:
    small = {name: adata[:, :20].copy() for name, adata in khan_sites.items()}
    dp = DP(noise_multiplier=2.0, delta=1e-3, accountant="rdp")
    run = infl.tl.fit_federated(small, target="tumour_class", privacy=dp, rounds=3, width=4, progress=False)
    page, card, _ = read(run, tmp_path)
    epsilon = run.privacy["epsilon"]
    assert f"ε = {epsilon:.2f} at δ = 0.001" in page.text
    assert f"e^ε = {np.exp(epsilon):.3g}" in page.text
    assert "the sites send no measures, which would need noise too" in page.text
    assert "for each training record" in page.text and "counts as public" in page.text
    assert "bounded by ε" in page.text and "not bounded" not in page.text and "no limit" in page.text
    stored = card["ethical_considerations"]["differential_privacy"]
    assert stored["epsilon"] == epsilon and stored["budget"] is None  # no limit is no number in JSON


def test_at_a_site_only_its_own_ledger_is_told(usual: Any, tmp_path: Path) -> None:
    run = usual.run
    mine = replace(run, ledger=run.ledger[run.ledger["site"] == "site_2"], key=None)
    page, card, _ = read(mine, tmp_path)
    assert "This was a simulation" not in page.text
    assert "the ledger of site_2 is; the others keep their own" in page.text
    assert page.text.count("its ledger is at the site") == 4
    assert "Who was granted the key is not known here" in page.text
    assert "Not measured" in page.text
    assert card["ethical_considerations"]["messages"]["ledgers_of"] == ["site_2"]
    assert card["quantitative_analyses"]["by_site"] is None


def test_a_lock_curve_is_shown_when_it_was_measured(usual: Any, tmp_path: Path) -> None:
    heading = "What the file is worth without the key"
    run = pickle.loads(pickle.dumps(replace(usual.run, key=None)))
    assert heading not in read(run, tmp_path)[0].text
    curve = infl.tl.lock_curve(usual.run.model, usual.sites, key=usual.key, strengths=(0.0, 1.0), n_keys=1)
    page, _, _ = read(run, tmp_path, lock_curve=curve, overwrite=True)
    full = curve[curve["strength"] == 1.0].set_index("who")["balanced_accuracy"]
    assert heading in page.text
    assert f"right key: {full['right key']:.3f}; wrong key: {full['wrong key']:.3f}" in page.text


# -- what it must not say -----------------------------------------------------------------------------------------


def test_small_numbers_are_not_told_by_hand(usual: Any, tmp_path: Path) -> None:
    table = metrics([100, 7, 50, 20], [20, 1, 10, 12])
    page, card, sheet = read(usual.run, tmp_path, site_metrics=table)
    rows = card["quantitative_analyses"]["by_site"]
    # 7 is below 10 and hides 20 with it; 1 is below 10, and 10 would be the next smallest but 12 is hidden already
    assert [row["n_obs"] for row in rows] == [100, None, 50, None]
    assert [row["n_judged"] for row in rows] == [20, None, None, None]
    assert [row["accuracy"] for row in rows] == [0.5, None, None, None]
    assert [row["n_obs"] for row in sheet["composition"]["records"]] == [100, None, 50, None]
    assert page.text.count("not reported") >= 5
    assert card["factors"]["evaluation_factors"] == ["site"]


# -- names are names ----------------------------------------------------------------------------------------------


# -- structure ----------------------------------------------------------------------------------------------------


# -- what the user can mend ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"statements": {"porpose": "x"}}, SettingsError, "'porpose' is not asked for: some of purpose, users"),
        ({"statements": {"purpose": 3}}, SettingsError, "'purpose' is to be answered with a text"),
        ({"min_count": 0}, SettingsError, "min_count=0: give a whole number of at least 1"),
        ({"audit": "report.csv"}, DataError, "audit= takes what infl.tl.audit returns, not str"),
        ({"audit": pd.DataFrame({"attack": ["x"]})}, DataError, "audit= takes what infl.tl.audit returns"),
        ({"comparison": pd.DataFrame({"a": [1]})}, DataError, "comparison= takes what infl.tl.compare returns"),
        ({"site_metrics": pd.DataFrame({"a": [1]})}, DataError, "what infl.tl.site_metrics returns"),
        ({"lock_curve": pd.DataFrame({"a": [1]})}, DataError, "what infl.tl.lock_curve returns"),
    ],
)
def test_what_is_wrong_is_one_line(usual: Any, options, error, text: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=text):
        infl.governance.report(usual.run, tmp_path / "report.html", **options)
    assert not list(tmp_path.iterdir())


def test_an_audit_of_another_run_is_refused(usual: Any, tmp_path: Path) -> None:
    table = infl.tl.audit(usual.run, usual.sites, attacks=["wrong_key"], progress=False)
    infl.governance.report(usual.run, tmp_path / "report.html", audit=table)
    other = replace(usual.run, settings=usual.run.settings | {"run": "0" * 32})
    with pytest.raises(DataError, match="audit= is of another run"):
        infl.governance.report(other, tmp_path / "other.html", audit=table)


# -- metrics by site ----------------------------------------------------------------------------------------------
def test_sites_add_up_to_what_the_run_reached(usual: Any) -> None:
    table = infl.tl.site_metrics(usual.run, usual.sites)
    assert table.index.tolist() == list(usual.run.settings["sites"])
    assert table["n_obs"].tolist() == [adata.n_obs for adata in usual.sites.values()]
    together = (table["accuracy"] * table["n_judged"]).sum() / table["n_judged"].sum()
    assert together == pytest.approx(usual.run.history["val_accuracy"][usual.run.history["best"]].iloc[0])
    everything = infl.tl.site_metrics(usual.run.model, usual.sites, key=usual.key, validation_only=False)
    assert everything["n_judged"].tolist() == everything["n_obs"].tolist()
