"""The report of a run: what it says is so, what it must not say is not in it, and names are names."""

import json
import pickle
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

import infl
from infl.errors import DataError, FileError, SettingsError
from infl.federation.run import FederatedRun
from infl.governance import Facts, data_sheet, model_card, steward_page
from infl.privacy import DP

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "footer", "h1", "h2", "h3", "p", "a"),
    *("ol", "ul", "li", "table", "caption", "thead", "tbody", "tr", "th", "td", "div", "figure", "img", "figcaption"),
    *("dl", "dt", "dd", "strong"),
}
ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "class", "id", "href", "tabindex", "role", "aria-label"),
    *("scope", "alt", "src"),
}


VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Elements with their attributes in order, and the text within each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it is the one that is open."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text with its element."""
        self.texts.append((self._open[-1] if self._open else "", data))

    @property
    def text(self) -> str:
        """All that is read."""
        return " ".join(data for tag, data in self.texts if tag != "style")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def read(run: FederatedRun, folder: Path, **options: object) -> tuple[Reader, dict, dict]:
    """Write a report and return its page, model card and data sheet, read strictly."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    path = infl.governance.report(run, folder / "report.html", **options)  # type: ignore[arg-type]
    card, sheet = (
        json.loads((folder / f"report.{name}.json").read_text(), parse_constant=refuse)
        for name in ("model_card", "data_sheet")
    )
    return Reader(path.read_text()), card, sheet


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


def test_sections_are_those_of_the_papers(usual: Any) -> None:
    card, sheet = model_card(Facts(usual.run)), data_sheet(Facts(usual.run))
    mitchell = "model_details intended_use factors metrics evaluation_data training_data quantitative_analyses"
    assert [*card][2:-1] == [*mitchell.split(), "ethical_considerations", "caveats_and_recommendations"]
    gebru = "motivation composition collection_process preprocessing_cleaning_labeling uses distribution maintenance"
    assert [*sheet][3:-1] == gebru.split()


def test_options_have_no_path_and_no_long_list(usual: Any, tmp_path: Path) -> None:
    options = usual.run.settings["options"] | {"base": "/srv/models/bert", "graph": [["A", "B"]] * 500}
    run = replace(usual.run, settings=usual.run.settings | {"options": options})
    page, card, _ = read(run, tmp_path)
    assert "base bert; graph 500 entries" in page.text and "/srv" not in page.text
    assert card["model_details"]["training_algorithms"]["options"]["base"] == "bert"
    several = replace(run, settings=run.settings | {"options": options | {"target": ["cell_type", "state"]}})
    assert Facts(several).target == "cell_type, state"


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


@pytest.mark.parametrize(("seal", "conspirator"), [("group", "yes, if it has the messages"), ("pairwise", "no")])
def test_the_seal_decides_what_conspirators_read(usual: Any, seal: str, conspirator: str) -> None:
    run = replace(usual.run, settings=usual.run.settings | {"seal": seal})
    page = Reader(steward_page(Facts(run)).html())
    cells = [data for tag, data in page.texts if tag in ("th", "td")]
    assert cells[cells.index("coordinator that conspires with a site") + 1] == conspirator
    assert ("A site that conspires with the coordinator" in page.text) == (seal == "group")
    assert "only sums over 3 sites or more" in page.text


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


def test_a_revoked_site_has_no_grant(usual: Any) -> None:
    ring = infl.keys.Keyring.create()
    for name in ("a", "b", "a2"):
        ring.grant(name, infl.keys.Identity.create().public)
    ring.revoke("b")
    grants = Facts(replace(usual.run, key=ring)).grants
    assert grants is not None
    assert grants["site"].tolist() == ["a", "a2"] and grants["versions"].tolist() == ["1, 2", "1, 2"]
    empty = steward_page(Facts(replace(usual.run, key=infl.keys.Keyring.create())))
    assert "the key ring's trail has no grant" in empty.html().lower()


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
def test_no_key_no_identity_and_no_path_is_in_it(usual: Any, audit, tmp_path: Path) -> None:
    infl.governance.report(usual.run, tmp_path / "report.html", audit=audit)
    ring = usual.key
    assert ring is not None
    secrets = [ring._roots[1], ring._signer, *(ring.subkey(label) for label in infl.keys.SUBKEY_LABELS)]
    members = [member.recipient for member in ring.members.values()]
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for secret in secrets:
            assert secret not in content and secret.hex().encode() not in content
        for recipient in members:
            assert recipient.encode() not in content
        assert str(tmp_path).encode() not in content and str(Path.home()).encode() + b"/" not in content
    assert {p.name for p in tmp_path.iterdir()} == {
        "report.html", "report.model_card.json", "report.data_sheet.json"
    }  # fmt: skip


def test_no_observation_is_in_it(usual: Any, tmp_path: Path) -> None:
    infl.governance.report(usual.run, tmp_path / "report.html")
    together = "".join(file.read_text() for file in tmp_path.iterdir())
    for adata in usual.sites.values():
        assert not [name for name in adata.obs_names if f">{name}<" in together or f'"{name}"' in together]


def metrics(n_obs: list[int], n_judged: list[int]) -> pd.DataFrame:
    index = pd.Index([f"s{i}" for i in range(len(n_obs))], name="site")
    values = np.linspace(0.5, 0.9, len(n_obs))
    return pd.DataFrame({"n_obs": n_obs, "n_judged": n_judged, "accuracy": values}, index=index)


def test_small_numbers_are_not_told_by_hand(usual: Any, tmp_path: Path) -> None:
    table = metrics([100, 7, 50, 20], [20, 1, 10, 12])
    page, card, sheet = read(usual.run, tmp_path, site_metrics=table)
    rows = card["quantitative_analyses"]["by_site"]
    # 7 is below 10 and hides 20 with it; 1 is below 10, and 10 would be the next smallest but 12 is hidden already
    assert [row["n_obs"] for row in rows] == [100, None, 50, None]
    assert [row["n_judged"] for row in rows] == [20, None, None, None]
    assert [row["accuracy"] for row in rows] == [0.5, None, None, None]
    assert [row["n_obs"] for row in sheet["composition"]["records"]] == [100, None, 50, None]
    assert page.text.count("not told") >= 5
    assert card["factors"]["evaluation_factors"] == ["site"]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    st.integers(1, 30),
)
def test_small_numbers_are_not_told(usual: Any, counts: list[tuple[int, int]], least: int) -> None:
    table = metrics(*map(list, zip(*counts, strict=True)))
    shown = Facts(usual.run, site_metrics=table, min_count=least).at_sites
    assert shown is not None
    for name in ("n_obs", "n_judged"):
        told = shown[name].dropna()
        assert (told >= least).all()
        assert told.tolist() == table[name].to_numpy()[shown[name].notna()].tolist()
        hidden = int(shown[name].isna().sum())
        assert hidden != 1 or len(table) == 1  # the sum would tell it
        if (table >= least)[["n_obs", "n_judged"]].all(axis=None):
            assert hidden == 0
    assert (shown["accuracy"].isna() == shown["n_judged"].isna()).all()


# -- names are names ----------------------------------------------------------------------------------------------
def test_names_that_mean_ill_are_text(hostile: Any, audit, comparison, tmp_path: Path) -> None:
    names = list(hostile.sites)
    audit.loc[0, ["attack", "against", "metric", "note"]] = names[1]
    comparison.loc[0, "method"] = names[0]
    said = {"purpose": names[1], "contact": names[2]}
    page, card, _ = read(hostile.run, tmp_path, audit=audit, comparison=comparison, statements=said, min_count=1)
    assert {tag for tag, _ in page.elements} <= TAGS
    assert {name for _, attributes in page.elements for name in attributes} <= ATTRIBUTES
    assert all((a["href"] or "").startswith("#") for a in page.all("a"))
    assert all((img["src"] or "").startswith("data:image/png;base64,") for img in page.all("img"))
    for name in names[:3]:
        assert name in page.text
    assert not set("\u202e\u2066\x00") & set((tmp_path / "report.html").read_text())
    assert "\ufffdlatipsoh\ufffd\ufffd &amp; <b>" in page.text
    assert card["model_details"]["developers"] == names
    assert page.texts[0][1].startswith("One classifier for <i>target")


# -- structure ----------------------------------------------------------------------------------------------------
def test_the_page_is_one_that_a_screen_reader_can_read(usual: Any, audit, comparison, tmp_path: Path) -> None:
    page, _, _ = read(usual.run, tmp_path, audit=audit, comparison=comparison)
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("h1", "header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) > 10
    assert {a.get("scope") for a in page.all("th")} == {"row", "col"}
    assert all(len(img["alt"] or "") > 30 for img in page.all("img")) and len(page.all("img")) == 3
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {(a["href"] or "")[1:] for a in page.all("a")} == set(ids)
    whole = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in whole and "@media print" in whole
    assert "http" not in whole.replace("http-equiv", "")


def test_pictures_leave_nothing_open(usual: Any, audit, tmp_path: Path) -> None:
    before = plt.get_fignums()
    infl.governance.report(usual.run, tmp_path / "report.html", audit=audit)
    assert plt.get_fignums() == before


# -- what the user can mend ---------------------------------------------------------------------------------------
def test_nothing_is_overwritten_and_nothing_is_half_written(usual: Any, tmp_path: Path) -> None:
    card = tmp_path / "report.model_card.json"
    card.write_text("mine")
    with pytest.raises(FileError, match=r"report\.model_card\.json exists: choose another name or pass overwrite=True"):
        infl.governance.report(usual.run, tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == [card.name] and card.read_text() == "mine"
    infl.governance.report(usual.run, tmp_path / "report.html", overwrite=True)
    assert len(list(tmp_path.iterdir())) == 3 and card.read_text() != "mine"
    with pytest.raises(FileError, match=r"ends in \.html"):
        infl.governance.report(usual.run, tmp_path / "report.pdf")
    with pytest.raises(FileError, match="cannot write"):
        infl.governance.report(usual.run, tmp_path / "nowhere" / "report.html")


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


def test_a_site_with_weights_of_its_own_is_judged_with_them(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(
        khan_sites, target="tumour_class", standardise="site", rounds=3, validation=0.4, progress=False
    )
    name = "site_2"
    own = infl.tl.site_metrics(run, {name: khan_sites[name]})
    pd.testing.assert_frame_equal(
        own, infl.tl.site_metrics(run.site_models[name], {name: khan_sites[name]}, key=run.key)
    )
