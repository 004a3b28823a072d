"""Plans for something else than what is due, which a site without checks would answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from infl.attacks._kit.consortium import Consortium, Lies
from infl.federation.messages import END_KIND, REVEAL_KIND, Plan
from infl.federation.programme import MAX_ATTEMPTS

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

Lie = Callable[[Plan], Plan]


class _LiesInPlans(Lies):
    """Lead the run honestly to its second training round; then send the first hospital something else than is due."""

    plans: ClassVar[Mapping[str, Lie]]

    def lies(self, context: AuditContext) -> Iterator[tuple[str, bool]]:
        """Send each plan that is not due, then the one that is."""
        with Consortium(context) as hospitals:
            plan = hospitals.until("train", 2)[hospitals.names[0]]
            for what, lie in self.plans.items():
                yield what, hospitals[hospitals.names[0]].does(lie(plan))
            yield from self.more(hospitals)
            yield "honest", hospitals[hospitals.names[0]].does(plan)

    def more(self, hospitals: Consortium) -> Iterator[tuple[str, bool]]:
        """Lies that take more than one plan."""
        return iter(())


def sized(low: int, high: int, of_all: int) -> Lie:
    """Ask for more words of each kind than are due, or for fewer."""
    more = (low, high, of_all)
    return lambda plan: replace(plan, lanes=tuple(max(n + k, 0) for n, k in zip(plan.lanes, more, strict=True)))


class ReplayedRound(_LiesInPlans):
    """Ask again for what was summed already: two answers over other sites, or other masks, give their difference."""

    name: ClassVar[str] = "replayed_round"
    question: ClassVar[str] = "Does a hospital answer an exchange whose sum it has?"
    tried: ClassVar[str] = "A hospital is asked again for what it sent before."
    plans: ClassVar[Mapping[str, Lie]] = {
        "the exchange before": lambda p: replace(p, seq=p.seq - 1, round=p.round - 1),
        "the round before under the next number": lambda p: replace(p, round=p.round - 1),
        "the exchange before as a further attempt": lambda p: replace(p, seq=p.seq - 1, round=p.round - 1, attempt=1),
        "the first sum again": lambda p: replace(p, seq=0, kind="count", round=0),
        "the masks of the round before": lambda p: replace(
            p, seq=p.seq - 1, round=p.round - 1, kind=REVEAL_KIND + "train"
        ),
    }


class ExtraRounds(_LiesInPlans):
    """Ask for more than was agreed: rounds beyond the last, rounds out of order, sums of other kinds."""

    name: ClassVar[str] = "extra_rounds"
    question: ClassVar[str] = "Does a hospital train more, or otherwise, than was agreed?"
    tried: ClassVar[str] = "A hospital is asked for what is not due."
    plans: ClassVar[Mapping[str, Lie]] = {
        "a round beyond the last": lambda p: replace(p, round=4),
        "a round left out": lambda p: replace(p, seq=p.seq + 1, round=3),
        "a later number": lambda p: replace(p, seq=p.seq + 1),
        "the last judgement before its time": lambda p: replace(p, kind="judge", round=0),
        "a sum of a kind that is not agreed on": lambda p: replace(p, kind="records", round=0),
        "an attempt beyond the bound": lambda p: replace(p, attempt=MAX_ATTEMPTS),
        "another run": lambda p: replace(p, run="0" * 32),
        "another agreement": lambda p: replace(p, agreement="0" * 64),
    }


class ChosenScale(_LiesInPlans):
    """Ask for an update in another form. Plans name no scale, so what is left to choose is how many words come."""

    name: ClassVar[str] = "chosen_scale"
    question: ClassVar[str] = "Can the coordinator choose how finely an update is rounded, or which parts of it come?"
    tried: ClassVar[str] = (
        "A hospital is asked for more words than are due, or for fewer, or for those of another exchange."
    )
    plans: ClassVar[Mapping[str, Lie]] = {
        "a number less": sized(-1, 0, 0),
        "a number more": sized(1, 0, 0),
        "one number alone": lambda p: replace(p, lanes=(1, *p.lanes[1:])),
        "no update": lambda p: replace(p, lanes=(0, *p.lanes[1:])),
        "a sum more": sized(0, 1, 0),
        "metrics among what is opened of some": lambda p: replace(p, lanes=(p.lanes[0], sum(p.lanes[1:]) - 2, 0)),
        "all numbers as sums": lambda p: replace(p, lanes=(0, sum(p.lanes), 0)),
        "the sums of the count": lambda p: replace(p, lanes=(0, 2, 3)),
        "a fourth lane": lambda p: replace(p, lanes=(*p.lanes, 1)),
        "no lane": lambda p: replace(p, lanes=()),
    }


class EarlyEnd(_LiesInPlans):
    """End the run before its end: a file would be written whose weights are still near the public start."""

    name: ClassVar[str] = "early_end"
    question: ClassVar[str] = "Does a hospital write a model before the agreed end?"
    tried: ClassVar[str] = "The coordinator tells a hospital that the run is over, two rounds early."
    plans: ClassVar[Mapping[str, Lie]] = {
        "the end": lambda p: replace(p, kind=END_KIND, round=0, lanes=(0, 2, 0)),
        "the end of the exchange before": lambda p: replace(p, kind=END_KIND, round=0, seq=p.seq - 1, lanes=(0, 2, 0)),
        "the end in a later exchange": lambda p: replace(p, kind=END_KIND, round=0, seq=p.seq + 9, lanes=(0, 2, 0)),
    }

    def more(self, hospitals: Consortium) -> Iterator[tuple[str, bool]]:
        """Look for a file, whatever the answer was."""
        hospital = hospitals[hospitals.names[0]]
        yield "a model file", hospital.finished or hospital.site_folder.has_result(hospitals.agreement)


class Differencing(_LiesInPlans):
    """Have the same update summed over two sets of sites: the sums differ by one hospital's."""

    name: ClassVar[str] = "differencing"
    question: ClassVar[str] = "Can one hospital's update be had as the difference of two sums?"
    tried: ClassVar[str] = "The same round is summed over other sites."
    plans: ClassVar[Mapping[str, Lie]] = {
        "a cohort without a neighbour": lambda p: replace(p, cohort=p.cohort[:-1]),
        "a cohort in another order": lambda p: replace(p, cohort=p.cohort[::-1]),
        "a cohort with a stranger": lambda p: replace(p, cohort=(*p.cohort[:-1], "stranger")),
        "a cohort of one": lambda p: replace(p, cohort=p.cohort[:1]),
    }

    @staticmethod
    def _metrics_of_some(hospitals: Consortium, plan: Plan) -> Iterator[tuple[str, bool]]:
        """Have losses and metrics opened of all hospitals but one, beside their update; the next round would tell that one's."""
        *_, last = hospitals.names
        some, total = hospitals.names[1:], plan.previous[-1]
        if len(some) < hospitals.agreement.min_sites:
            return
        kept = hospitals.sum_of(total, some, of_all=True)
        yield (
            "the metrics of all but one",
            hospitals[last].does(replace(plan, previous=(*plan.previous[:-1], kept))),
        )

    def more(self, hospitals: Consortium) -> Iterator[tuple[str, bool]]:
        """Have a sum of too few opened; with the pairwise seal, have masks taken off twice, over other sites or attempts."""
        *_, last = hospitals.names
        plan = hospitals.plans[last]
        few = hospitals.sum_of(plan.previous[-1], hospitals.names[: hospitals.agreement.min_sites - 1])
        yield "a sum of too few", hospitals[last].does(replace(plan, previous=(*plan.previous[:-1], few)))
        yield from self._metrics_of_some(hospitals, plan)
        if hospitals.agreement.seal != "pairwise":
            return
        name, plan = hospitals.names[0], hospitals.until(REVEAL_KIND + "train", 2)[hospitals.names[0]]
        hospitals[name].does(plan)  # opened, as is right; all that follows is not
        fewer = {site: share for site, share in plan.shares.items() if site != hospitals.names[-1]}
        yield (
            "the masks once more, without a neighbour",
            hospitals[name].does(replace(plan, answered=plan.answered[:-1], shares=fewer)),
        )
        yield "a further attempt after the masks", hospitals[name].does(replace(plan, kind="train", attempt=1))
        yield "the masks of a further attempt", hospitals[name].does(replace(plan, attempt=1))
