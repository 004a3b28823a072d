"""No sequence of questions gets a number that breaks a rule of disclosure; with a rule off, one does, and the judge sees it."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, find, settings
from tests.questions import RULES, Question, ask, broken, check, sequences, without

from infl.privacy import Disclosure


def test_no_sequence_of_questions_breaks_a_rule() -> None:
    checked = check(60, 0)
    assert not checked.broken, checked.last
    assert checked.given > 100 and checked.withheld > 100  # some are opened and some are not


def test_what_is_left_after_one_more_group_was_closed_is_not_of_too_few_either() -> None:
    """Site b has no part in the sum over all; without its two groups, the rest would be that of c and d."""
    halves = (0,) * 9 + (1,) * 4
    labels = ((0,) * 13, (0, 0) + (1,) * 7 + (2,) * 4, halves, halves)
    question = Question(("a", "b", "c", "d"), labels, groups=3, nonzero=True, panel=2)
    released = ask([question], Disclosure(RULES))
    assert broken(released, RULES) == []
    assert any(one.sets for one in released)


def found(rule: str, disclosure: Callable[[], Disclosure]) -> list[Question]:
    return find(
        sequences(),
        lambda questions: rule in broken(ask(questions, disclosure()), RULES),
        settings=settings(
            max_examples=400,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("rule", ["records", "dominance", "sites", "members", "features"])
def test_the_judge_finds_a_break_where_a_rule_is_off(rule: str) -> None:
    assert found(rule, lambda: Disclosure(without(rule)))


def test_the_judge_finds_a_break_where_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infl.privacy.register.judging._split", lambda records, chosen, atom, k: atom)
    assert found("differencing", lambda: Disclosure(RULES))
