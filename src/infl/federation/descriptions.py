"""What each entry of a ledger reveals, in words for a data steward, as sums and messages say it themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from infl.federation.exchanges import TrainingSum, close_sum, count_sum, judge_sum
from infl.federation.messages import Key, Reveal, Trouble

if TYPE_CHECKING:
    import pandas as pd

    from infl.models.task import Task

UNKNOWN = "what is not of this run's task: the version of infl that wrote it can say what it is"


class Described(NamedTuple):
    """Name of a sum, and what it tells."""

    name: str
    says: str


def described(task: Task, panel: Mapping[str, Any]) -> dict[str, Described]:
    """Return what each kind of a run's messages is, by the kind that its ledger gives; steps of one sum have one name.

    Examples
    --------
    >>> import infl
    >>> found = described(infl.models.Spatial(n_domains=3), {"features": ["TP53"]})
    >>> found["axes 2"].name, found["latents"].says
    ('axes', 'number of spots, sums and products of the values that the model gives to them')
    """
    every = (count_sum(task, panel), judge_sum(task, panel), close_sum(), *task.before(panel), *task.after(panel))
    found = {entry: Described(one.name, one.says) for one in every for entry in one.exchanges}
    found[TrainingSum.name] = Described(TrainingSum.name, TrainingSum.says)
    return found | {message.entry: Described(message.entry, message.says) for message in (Key, Reveal, Trouble)}


def with_descriptions(ledger: pd.DataFrame, task: Task, panel: Mapping[str, Any]) -> pd.DataFrame:
    """Return a ledger with the columns ``sum`` and ``says``: the sum that a message is a part of, and what that sum reveals."""
    known = described(task, panel)
    found = [known.get(kind, Described(kind, UNKNOWN)) for kind in ledger["kind"].astype(str)]
    return ledger.assign(sum=[one.name for one in found], says=[one.says for one in found])
