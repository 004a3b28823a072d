"""A study of several steps between sites that each hold their own file: same bits as in one process, killed or not."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from tests.deploy.study.rehearsal import Killed, Rehearsal
from tests.deploy.study.test_steps import make_sites
from tests.threads import same

from infl.deploy.study.desk import Desk
from infl.deploy.study.heard import HeardFile
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step
from infl.deploy.study.working import digest_of
from infl.errors import DataError, FederationError, FileError, SealError
from infl.federation.messages import Heard, Said
from infl.federation.wire import decode, encode
from infl.keys import Keyring
from infl.privacy import Disclosure, DisclosureRules

KEY = Keyring.create()
STEPS = [
    Step.read("pp.qc_summary", {"percent_top": [10]}),
    Step.read("pp.normalize_total", {"target_sum": 100}),
    Step.read("pp.log1p", {}),
    Step.read("pp.highly_variable_genes", {"n_top_genes": 20}),
    Step.read("pp.pca", {"n_comps": 4}),
    Step.read("tl.cluster", {"n_clusters": 3, "use_rep": "X_pca", "n_init": 1, "max_iter": 5}),
]
pytestmark = pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")


def make(folder: Path, steps: list[Step] = STEPS, sites: dict[str, AnnData] | None = None) -> Rehearsal:
    sites = sites or make_sites()
    study = Study.new("first", [*sites], steps, KEY.current, KEY.fingerprint())
    return Rehearsal(folder, sites, study, KEY)


def in_process(folder: Path, steps: list[Step] = STEPS) -> dict[str, AnnData]:
    """Return what the functions make of all sites in one process, written and read as a file."""
    sites = make_sites()
    for step in steps:
        step.run(sites)
    for site, adata in sites.items():
        adata.write_h5ad(folder / f"expected_{site}.h5ad")
    return {site: anndata.read_h5ad(folder / f"expected_{site}.h5ad") for site in sites}


def same_as_in_process(rehearsal: Rehearsal, expected: dict[str, AnnData]) -> bool:
    return all(same(rehearsal.result(site), adata) for site, adata in expected.items())


def said_once(rehearsal: Rehearsal) -> bool:
    """Whether at each place each site sent one message, and all were told one thing, over all attempts."""
    return all(len(contents) == 1 for contents in (*rehearsal.sent.values(), *rehearsal.heard.values()))


def test_each_site_has_what_one_process_makes(tmp_path: Path) -> None:
    rehearsal = make(tmp_path)
    before = {site: (tmp_path / f"{site}.h5ad").read_bytes() for site in rehearsal.study.sites}
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    assert same_as_in_process(rehearsal, in_process(tmp_path))
    assert said_once(rehearsal)
    assert all((tmp_path / f"{site}.h5ad").read_bytes() == content for site, content in before.items())
    files = {p.name for p in (tmp_path / "s0").iterdir() if not p.name.startswith("matrix_")}
    assert files == {"journal.json", "site.ledger", "step_0006.h5ad"}
    assert len([*(tmp_path / "desk").iterdir()]) == 1  # what is over is not kept
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)  # once more does nothing
    assert same_as_in_process(rehearsal, in_process(tmp_path))


def test_statistics_are_steps(tmp_path: Path) -> None:
    steps = [
        Step.read("tl.cox", {"time": "months", "event": "chosen", "formula": "~ age"}),
        *STEPS[1:3],
        Step.read("tl.de", {"design": "~ donor + age", "contrast": ["donor", "y", "x"]}),
    ]
    rehearsal = make(tmp_path, steps)
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    expected = in_process(tmp_path, steps)
    for site, adata in expected.items():
        found = rehearsal.result(site)
        assert found.uns["infl_cox"]["table"].equals(adata.uns["infl_cox"]["table"])
        assert found.uns["infl_de"]["table"].equals(adata.uns["infl_de"]["table"])


def test_no_value_or_name_can_be_read_on_the_way(tmp_path: Path) -> None:
    rehearsal = make(tmp_path, STEPS[:1])
    rehearsal.attempt()
    sent = b"".join(content for contents in rehearsal.sent.values() for content in contents)
    total = np.asarray(make_sites()["s0"].X.sum(axis=0)).ravel()
    assert total.astype("<f8").tobytes()[:16] not in sent and b"features" not in sent and b"raw counts" not in sent
    assert (
        hashlib.sha256(b"".join(f"{len(g)}:{g}".encode() for g in make_sites()["s0"].var_names)).hexdigest().encode()
        not in sent
    )


PLACES = [
    ("s0", "says", 0, 0), ("s1", "heard", 0, 0), ("s2", "says", 0, 3), ("desk", "told", 0, 4), ("s0", "heard", 1, 1),
    ("s1", "keeps", 0, 0), ("s1", "kept", 0, 0), ("desk", "told", 1, 0), ("s0", "keeps", 2, 0), ("s2", "heard", 3, 3),
    ("s1", "says", 4, 4), ("desk", "told", 4, 5), ("s0", "kept", 4, 0), ("s2", "says", 5, 0), ("s1", "heard", 5, 4),
    ("s0", "wrote a matrix", 0, 0), ("s1", "wrote a matrix", 1, 0), ("s2", "wrote a matrix", 2, 0),
    ("desk", "told", 5, 7), ("s2", "keeps", 5, 0), ("s0", "kept", 5, 0), ("s1", "says", 6, 0), ("desk", "told", 6, 0),
]  # fmt: skip


@pytest.mark.long
def test_killed_at_twenty_three_places_in_one_study(tmp_path: Path) -> None:
    """All of them one after the other: after each the study goes on where it was, to the same bits, and nothing is opened twice."""
    rehearsal, left = make(tmp_path), [*PLACES]

    def fault(*place: Any) -> None:
        if place in left:
            left.remove(place)
            raise Killed

    for n in count(1):
        ended = rehearsal.attempt(fault)
        assert all(error is None or type(error) is Killed for error in ended.values()), ended
        if not any(ended.values()):
            break
        assert n <= len(PLACES)
    assert not left
    assert same_as_in_process(rehearsal, in_process(tmp_path))
    assert said_once(rehearsal)


def test_sums_that_a_coordinator_lost_with_its_power_are_the_same_again(tmp_path: Path) -> None:
    """Only names wait for the disk: of sums told after them, the disk may have none, or the first, or half of one."""
    rehearsal, left, lost = (
        make(tmp_path),
        [("s1", "heard", 5, 8), ("s2", "heard", 5, 10), ("s0", "heard", 5, 13)],
        [0],
    )

    def fault(*place: Any) -> None:
        if place in left:
            left.remove(place)
            raise Killed

    for size in (0, 1, 17):
        assert Killed in {type(error) for error in rehearsal.attempt(fault).values()}
        path = tmp_path / "desk" / "0005.heard"
        told = HeardFile(path)
        names = [number for number in told.numbers if decode(told.read(number)).names]
        assert max(told.numbers) > max(names) + 1
        start, length = told._at[max(names) + (size > 1)]
        os.truncate(path, start + length + size)
        lost.append(max(told.numbers) - HeardFile(path).numbers[-1])
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    assert not left and min(lost[1:]) > 0
    assert same_as_in_process(rehearsal, in_process(tmp_path))
    assert said_once(rehearsal)


def test_names_are_on_the_disk_before_anybody_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a site has kept, it does not say again."""
    waited, before, add = list[bool](), os.fsync, HeardFile.add
    monkeypatch.setattr(os, "fsync", lambda handle: (waited.append(True), before(handle)))
    seen = []

    def adding(self: HeardFile, number: int, content: bytes, **how: Any) -> None:
        waited.clear()
        add(self, number, content, **how)
        seen.append((bool(decode(content).names), bool(waited)))

    monkeypatch.setattr(HeardFile, "add", adding)
    rehearsal = make(tmp_path, STEPS[:1])
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    assert {names for names, _ in seen} == {True, False}
    assert all(on_disk for names, on_disk in seen if names)


def test_groups_that_differ_by_capitals_are_noted_at_the_sites(tmp_path: Path) -> None:
    sites = make_sites()
    sites["s1"].obs["donor"] = [{"x": "X1", "y": "Y1"}[donor] for donor in sites["s1"].obs["donor"]]
    for site in ("s0", "s2"):
        sites[site].obs["donor"] = [{"x": "x1", "y": "Y1"}[donor] for donor in sites[site].obs["donor"]]
    steps = [
        *STEPS[1:3],
        Step.read("tl.rank_genes_groups", {"groupby": "donor"}),
        Step.read("pp.highly_variable_genes", {"n_top_genes": 20, "batch_key": "donor"}),
        Step.read("tl.fit_federated", {"target": "donor", "rounds": 1, "width": 8}),
    ]
    rehearsal = make(tmp_path, steps, sites)
    assert rehearsal.attempt(admit=lambda fit: 1) == dict.fromkeys(rehearsal.study.sites)
    for site in sites:
        alike = [note for note in rehearsal.notes[site] if "look like one" in note]
        assert [note.partition(":")[0] for note in alike] == [f"study first, step {n}" for n in (3, 4, 5)]
        assert all("'X1' (s1)" in note and "'x1' (s0)" in note and "'donor'" in note for note in alike)


def test_rules_of_disclosure_and_a_step_that_runs_again(tmp_path: Path) -> None:
    """What was released to this study is released again when its step is repeated: the same bytes."""
    rules = DisclosureRules(dominance=1, features_per_record=float("inf"), records_per_parameter=0)
    steps, left = (
        [*STEPS[:4], Step.read("pp.moments", {})],
        [("s1", "heard", 0, 6), ("s0", "says", 3, 9), ("desk", "told", 4, 7)],
    )

    def fault(*place: Any) -> None:
        if place in left:
            left.remove(place)
            raise Killed

    rehearsal = make(tmp_path, steps)
    while left:
        with Disclosure(rules, tmp_path / "registers"):
            ended = rehearsal.attempt(fault)
        assert {type(error) for error in ended.values()} == {Killed}, ended
    with Disclosure(rules, tmp_path / "registers"):
        assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    assert said_once(rehearsal)
    assert rehearsal.result("s0").var["mean"].notna().all()


@pytest.mark.parametrize("restored", [False, True], ids=["control", "a backup"])
def test_a_register_that_went_back_to_a_backup_is_noticed(tmp_path: Path, restored: bool) -> None:
    """Else the site would give sums that the ones it forgot take apart."""
    which = DisclosureRules(dominance=1, features_per_record=float("inf"), records_per_parameter=0)

    def rules(site: str) -> Disclosure:
        return Disclosure(which, tmp_path / "registers")

    def study(name: str, sites: dict[str, AnnData]) -> Rehearsal:
        (tmp_path / name).mkdir()
        step = Step.read("pp.moments", {})
        return Rehearsal(tmp_path / name, sites, Study.new(name, [*sites], [step], KEY.current, KEY.fingerprint()), KEY)

    sites = make_sites()
    few = {site: adata[:20].copy() for site, adata in sites.items()}
    assert not any(study("first", few).attempt(rules=rules).values())
    shutil.copytree(tmp_path / "registers" / "s1", tmp_path / "backup")
    assert not any(study("second", sites).attempt(rules=rules).values())
    assert not any(study("third", few).attempt(rules=rules).values())  # tells of the second one
    if restored:
        shutil.rmtree(tmp_path / "registers" / "s1")
        shutil.copytree(tmp_path / "backup", tmp_path / "registers" / "s1")
    fourth = study("fourth", {site: adata[1:].copy() for site, adata in sites.items()})
    ended = fourth.attempt(rules=rules)
    if restored:
        assert "s1: its register of released sums goes back behind what s0 has seen of it" in str(ended["s1"])
        assert not any(fourth.result(site).var.get("mean") is not None for site in sites)
    else:
        assert not any(ended.values()) and fourth.result("s0").var["mean"].isna().all()


def test_a_step_that_fails_at_one_site_is_kept_nowhere(tmp_path: Path) -> None:
    sites = make_sites()
    sites["s1"].X.data[3] = -1
    rehearsal = make(tmp_path, STEPS[:2], sites)
    ended = rehearsal.attempt()
    assert type(ended["s1"]) is DataError and "negative" in str(ended["s1"])
    assert {type(ended[site]) for site in ("s0", "s2")} == {Killed}
    for site in sites:
        assert set(rehearsal.result(site).obs) >= {"total_counts"}  # the first step is kept
        assert len([*(tmp_path / site).glob("step_*.h5ad")]) == 1
        assert same(rehearsal.result(site).X, sites[site].X)


def test_data_that_change_between_steps_are_refused(tmp_path: Path) -> None:
    rehearsal = make(tmp_path)

    def fault(*place: Any) -> None:
        if place == ("s0", "says", 2, 0):
            raise Killed

    rehearsal.attempt(fault)
    path = tmp_path / "s1.h5ad"
    before = path.read_bytes()
    adata = anndata.read_h5ad(path)
    adata[:-1].copy().write_h5ad(path)
    ended = rehearsal.attempt()
    assert type(ended["s1"]) is DataError and "s1.h5ad has changed since the study began" in str(ended["s1"])
    path.write_bytes(before)  # the same content under another time
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)


def test_data_that_change_while_a_site_waits_for_its_first_step_are_refused(tmp_path: Path) -> None:
    rehearsal = make(tmp_path)
    path, changed = tmp_path / "s1.h5ad", list[int]()

    def fault(*place: Any) -> None:
        if place == ("s1", "heard", 0, 0) and not changed:
            adata = anndata.read_h5ad(path)
            adata[:-1].copy().write_h5ad(path)
            changed.append(1)

    ended = rehearsal.attempt(fault)
    assert (
        changed and type(ended["s1"]) is DataError and "s1.h5ad has changed since the study began" in str(ended["s1"])
    )


def test_a_working_object_that_was_altered_is_refused(tmp_path: Path) -> None:
    rehearsal = make(tmp_path)

    def fault(*place: Any) -> None:
        if place == ("s0", "says", 2, 0):
            raise Killed

    rehearsal.attempt(fault)
    kept = next((tmp_path / "s2").glob("step_*.h5ad"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    ended = rehearsal.attempt()
    assert type(ended["s2"]) is FileError and "not as the last step left it" in str(ended["s2"])


def test_another_message_is_not_sealed_under_the_same_masks(tmp_path: Path) -> None:
    """A site whose data are others, and whose journal was made to say that they are not."""
    rehearsal = make(tmp_path, STEPS[:1])

    def fault(*place: Any) -> None:
        if place == ("s0", "heard", 0, 4):
            raise Killed

    assert type(rehearsal.attempt(fault)["s0"]) is Killed
    path, journal = tmp_path / "s0.h5ad", tmp_path / "s0" / "journal.json"
    before = digest_of(path)
    adata = anndata.read_h5ad(path)
    adata.X.data[0] += 1
    adata.write_h5ad(path)
    journal.write_text(journal.read_text().replace(before, digest_of(path)))
    ended = rehearsal.attempt()
    assert type(ended["s0"]) is SealError and "another message was already sealed" in str(ended["s0"])
    assert said_once(rehearsal)


def test_a_site_that_lost_its_journal_does_not_go_on_under_old_masks(tmp_path: Path) -> None:
    rehearsal = make(tmp_path, STEPS[:1])

    def fault(*place: Any) -> None:
        if place == ("s0", "heard", 0, 4):
            raise Killed

    rehearsal.attempt(fault)
    (tmp_path / "s0" / "journal.json").unlink()
    ended = rehearsal.attempt()
    assert type(ended["s0"]) is FederationError and "passed on other names" in str(ended["s0"])
    assert max(number for (site, _, number), sent in rehearsal.sent.items() if site == "s0" and len(sent) > 1) == 0


LIES: dict[str, tuple[tuple[int, int], Callable[[Heard], Heard]]] = {
    "one for another": ((0, 0), lambda h: replace(h, names={**h.names, "s1": h.names["s0"]})),
    "one is left out": ((0, 0), lambda h: replace(h, names={site: h.names[site] for site in ("s0", "s1")})),
    "another place": ((0, 1), lambda h: replace(h, number=0)),
    "altered names": ((0, 2), lambda h: replace(h, names={**h.names, "s2": bytes(len(h.names["s2"]))})),
    "altered sum": ((0, 4), lambda h: replace(h, words=replace(h.words, high=h.words.high + np.uint64(1)))),
    "shorter sum": ((0, 4), lambda h: replace(h, words=replace(h.words, high=h.words.high[:-1]))),
    "an older sum": ((1, 0), lambda h: replace(h, step=0)),
}


@pytest.mark.parametrize("name", LIES)
def test_of_a_coordinator_that_lies_to_one_site_nobody_keeps_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place, lie = LIES[name]

    class Lying(Desk):
        def hear(self, said: Said) -> list[tuple[str, bytes]]:
            told = super().hear(said)
            if (said.step, said.number) != place:
                return told
            return [(site, encode(lie(decode(content))) if site == "s0" else content) for site, content in told]

    monkeypatch.setattr("tests.deploy.study.rehearsal.Desk", Lying)
    rehearsal = make(tmp_path, STEPS[:2])
    ended = rehearsal.attempt()
    assert isinstance(ended["s0"], FederationError | SealError), ended
    assert not any(error is None for error in ended.values())
    for site in rehearsal.study.sites:
        assert json.loads((tmp_path / site / "journal.json").read_text())["done"] == place[0]
