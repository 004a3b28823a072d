"""A site's register: which sets of records can be released beside those that were, by record and for life."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from infl.errors import FederationError, FileError, SettingsError
from infl.privacy import DisclosureRules, membership_auc
from infl.privacy.register import Question, Register

RULES = DisclosureRules(k=3)
MEAN = Question("mean", members=("a", "b", "c"))


def names(n: int, start: int = 0) -> list[str]:
    return [f"record {i}" for i in range(start, start + n)]


def mask(n: int, *ranges: tuple[int, int]) -> np.ndarray:
    found = np.zeros(n, dtype=bool)
    for low, high in ranges:
        found[low:high] = True
    return found


class Site:
    """Asks one set after the other, and releases what may be."""

    def __init__(self, n: int, rules: DisclosureRules = RULES, folder: Path | None = None, persons=None) -> None:
        self.register, self.rules = Register(folder), rules
        self.rows, self.n = self.register.rows(names(n), persons), n

    def ask(self, *ranges: tuple[int, int], question: Question = MEAN) -> str:
        chosen = mask(self.n, *ranges)
        reason = self.register.judge(self.rows, chosen[None], self.rules, question).reasons[0]
        if not reason:
            self.register.release(self.rows, chosen[None], self.rules, question)
        return reason


def test_a_set_of_too_few_is_not_released() -> None:
    site = Site(10)
    assert site.ask((0, 2)) == "records"
    assert site.ask() == "empty"
    assert site.ask((0, 3)) == ""


def test_two_released_sets_differ_by_no_record_or_by_k() -> None:
    site = Site(12)
    assert site.ask((0, 12)) == ""
    assert site.ask((0, 11)) == site.ask((0, 10)) == site.ask((1, 12)) == "differencing"
    assert site.ask((0, 12)) == site.ask((0, 9)) == ""


def test_a_combination_of_three_sets_is_seen_where_no_two_tell_anything() -> None:
    site = Site(20)
    assert site.ask((0, 20)) == site.ask((0, 9)) == ""
    assert site.ask((9, 18)) == "differencing"  # 20 - 9 - 9: two are left
    assert site.ask((9, 17)) == ""


def test_sets_that_overlap_in_one_record_are_refused() -> None:
    site = Site(20)
    assert site.ask((0, 8)) == ""
    assert site.ask((7, 14)) == "differencing"


def test_records_that_were_in_no_set_may_be_few() -> None:
    site = Site(10)
    assert site.ask((0, 9)) == ""  # the tenth is behind no number
    assert site.ask((0, 10)) == "differencing"


def test_records_are_known_again_in_another_data_set_and_by_another_process(tmp_path: Path) -> None:
    site = Site(10, folder=tmp_path)
    assert site.ask((0, 10)) == ""
    again = Register(tmp_path)
    assert (again.head, again.n_released) == (site.register.head, 1)
    rows = again.rows([*names(9), "another"])
    everyone = np.ones((1, 10), dtype=bool)
    assert again.judge(rows, everyone, RULES, MEAN).reasons == ("differencing",)  # one left, one came
    assert again.judge(again.rows(names(10)), everyone, RULES, MEAN).reasons == ("",)
    assert "record 1" not in (tmp_path / "register.jsonl").read_text()


def test_a_set_is_judged_after_those_before_it() -> None:
    site = Site(20)
    site.ask((0, 20))
    groups = np.array([mask(20, (0, 9)), mask(20, (9, 18)), mask(20, (18, 20))])
    assert site.register.judge(site.rows, groups, RULES, MEAN).reasons == ("", "differencing", "records")
    assert site.register.judge(site.rows, groups, RULES, MEAN, order=[1, 0, 2]).reasons == (
        "differencing",
        "",
        "records",
    )


def test_what_was_judged_together_holds_when_only_some_of_it_is_released() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        site = Site(30)
        for _ in range(4):
            sets = rng.random((3, 30)) < rng.choice([0.2, 0.5, 0.9])
            given = site.register.judge(site.rows, sets, RULES, MEAN).given
            for one in sets[given & (rng.random(3) < 0.7)]:
                site.register.release(site.rows, one[None], RULES, MEAN)
        atoms = site.register._records.atom
        assert np.bincount(atoms[atoms > 0], minlength=1)[np.unique(atoms[atoms > 0])].min(initial=3) >= 3


def test_persons_are_counted_where_records_are_cells_of_them() -> None:
    persons = [f"donor {i // 10}" for i in range(40)]
    site = Site(40, persons=persons)
    assert site.ask((0, 20)) == "records"  # twenty cells of two
    assert site.ask((0, 40)) == ""
    assert site.ask((0, 39)) == "differencing"
    assert site.ask((0, 30)) == "differencing"  # ten cells of one are left


def test_the_same_records_with_other_members_would_tell_a_site_apart() -> None:
    site = Site(10)
    assert site.ask((0, 10), question=Question("mean", ("a", "b", "c", "d"))) == ""
    assert site.ask((0, 10), question=Question("mean", ("a", "b", "c"))) == "members"
    assert site.ask((0, 10), question=Question("mean", ("a", "b", "e", "f"))) == ""


def test_features_add_up_over_panels_and_not_within_one() -> None:
    site = Site(10, DisclosureRules(k=3, features_per_record=2))
    first, second = (Question("mean", features=15, panel=panel) for panel in "xy")
    assert site.ask((0, 10), question=first) == site.ask((0, 10), question=first) == ""
    assert site.ask((0, 10), question=second) == "features"
    assert site.ask((0, 5), question=Question("mean", features=11, panel="x")) == "features"


def test_a_model_needs_three_records_for_each_parameter() -> None:
    site = Site(10)
    assert site.ask((0, 10), question=Question("model", parameters=4)) == "parameters"
    assert site.ask((0, 10), question=Question("model", parameters=3)) == ""


def test_who_gave_before_and_cannot_now_is_against_the_others_giving() -> None:
    site = Site(20)
    question = Question("groups", labels=("B cells",))
    assert site.ask((0, 8), question=question) == ""
    few = site.register.judge(site.rows, mask(20, (0, 2))[None], RULES, question)
    assert (few.reasons, few.against.tolist()) == (("records",), [True])
    other = site.register.judge(site.rows, mask(20, (0, 2))[None], RULES, Question("groups", labels=("T cells",)))
    assert other.against.tolist() == [False]


def test_a_changed_register_is_refused(tmp_path: Path) -> None:
    site = Site(10, folder=tmp_path)
    site.ask((0, 10))
    path = tmp_path / "register.jsonl"
    path.write_text(path.read_text().replace('"n": 10', '"n": 9'))
    with pytest.raises(FileError, match="line 2 is damaged"):
        Register(tmp_path)
    (tmp_path / "secret").unlink()
    with pytest.raises(FileError, match="restore it from a backup"):
        Register(tmp_path)


def test_the_sets_of_one_question_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, one_by_one = Site(20, folder=tmp_path), Site(20)
    groups, synced, sync = np.array([mask(20, (0, 9)), mask(20, (9, 20)), mask(20, (0, 9))]), [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), sync(handle)))
    site.register.release(site.rows, groups, RULES, MEAN, order=[0, 1, 2])
    site.register.release(site.rows, groups, RULES, MEAN, order=[])
    assert len(synced) == 1
    for number in range(3):
        one_by_one.register.release(one_by_one.rows, groups, RULES, MEAN, order=[number])
    lines = [json.loads(line) for line in (tmp_path / "register.jsonl").read_text().splitlines()]
    assert ["set" in line for line in lines] == [False, True, True, False]  # records, and each set once
    assert site.register.n_released == Register(tmp_path).n_released == one_by_one.register.n_released == 3
    for found in (site.register, Register(tmp_path)):
        assert (found._records.atom == one_by_one.register._records.atom).all()


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_register_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    site = Site(20, folder=tmp_path)
    before, real, calls = (tmp_path / "register.jsonl").read_bytes(), getattr(os, call), []

    def full(handle: int, *content: memoryview) -> int:
        calls.append(handle)
        if call == "write" and len(calls) == 1:
            return real(handle, content[0][:20])  # half a line
        raise OSError(28, "No space left on device")

    groups = np.array([mask(20, (0, 9)), mask(20, (9, 20))])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(FileError, match="No space left"):
            site.register.release(site.rows, groups, RULES, MEAN)
    assert (tmp_path / "register.jsonl").read_bytes() == before
    assert site.register.n_released == Register(tmp_path).n_released == 0
    site.register.release(site.rows, groups, RULES, MEAN)
    assert site.register.head == Register(tmp_path).head


def test_what_another_study_released_binds_every_set_of_a_question(tmp_path: Path) -> None:
    one, other = Site(30, folder=tmp_path), Site(30, folder=tmp_path)
    groups = np.array([mask(30, (0, 10)), mask(30, (10, 20))])
    assert other.register.judge(other.rows, groups, RULES, MEAN).reasons == ("", "")
    assert one.ask((11, 30)) == ""
    with pytest.raises(FederationError, match="differencing"):  # the second set, of which the first tells nothing
        other.register.release(other.rows, groups, RULES, MEAN)
    assert other.register.n_released == 1


def test_rules_that_cannot_be_are_refused() -> None:
    for wrong in ({"k": 0}, {"dominance": 0}, {"dominance": 1.1}, {"min_holders": 0}, {"features_per_record": 0}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            DisclosureRules(**wrong)  # type: ignore[arg-type]


def test_the_power_of_released_means_is_that_of_the_best_statistic() -> None:
    rng = np.random.default_rng(0)
    for p, n in ((50, 50), (200, 20)):
        inside, outside = [], []
        for _ in range(300):
            x = rng.standard_normal((n, p))
            inside.append(x[0] @ x.mean(axis=0))
            outside.append(rng.standard_normal(p) @ x.mean(axis=0))
        found = np.mean(np.array(inside)[:, None] > np.array(outside))
        assert found == pytest.approx(membership_auc(p, n), abs=0.05)


def test_two_studies_at_once_do_not_release_what_one_after_the_other_would_not(tmp_path: Path) -> None:
    one, other = Site(20, folder=tmp_path), Site(22, folder=tmp_path)  # the second knows two records more
    rows = {id(site): mask(site.n, (0, 20)) for site in (one, other)}
    rows[id(other)] = mask(22, (0, 19))
    for site in (one, other):
        assert site.register.judge(site.rows, rows[id(site)][None], RULES, MEAN).reasons == ("",)
    one.register.release(one.rows, rows[id(one)][None], RULES, MEAN)
    with pytest.raises(FederationError, match="another study has released"):
        other.register.release(other.rows, rows[id(other)][None], RULES, MEAN)
    assert other.register.head == one.register.head == Register(tmp_path).head
    assert one.ask((0, 20)) == "" and other.ask((0, 20)) == "" and other.ask((0, 19)) == "differencing"


def test_a_small_set_bears_two_statistics_and_a_large_one_more() -> None:
    site = Site(30)
    asked = [Question("sum", statistic=f"power {power}") for power in range(12)]
    assert [site.ask((0, 4), question=question) for question in asked[:4]] == ["", "", "statistics", "statistics"]
    assert site.ask((0, 4), question=asked[0]) == ""
    large = [site.ask((10, 30), question=question) for question in asked]
    assert large == [""] * 6 + ["statistics"] * 6
    assert site.ask((0, 30), question=asked[0]) == ""
