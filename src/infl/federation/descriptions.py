"""What each kind of message reveals, in words for a data steward; sums of tasks bring their own descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from infl.federation.messages import CLOSE_KIND, KEYS_KIND, REVEAL_KIND

if TYPE_CHECKING:
    import pandas as pd

    from infl.models.task import Task

ENGINE = {
    "count": "how many training records the site has, as part of a sum",
    "train": "how training at the site changed the model's weights, times its share of the records; training loss; "
    "results on its validation records; all as parts of sums",
    "judge": "results of the last model on the site's validation records, as parts of sums",
    CLOSE_KIND: "nothing of the data: that the last sum opens shows that all sites had the same sums before",
    KEYS_KIND: "a public key that the site made when it started; nothing of the data",
    REVEAL_KIND.strip(): "what takes the masks between pairs of sites off one sum of several sites; nothing of the data",
    "refusal": "that the site does not do what the coordinator asked for, and not why; nothing of the data",
}
"""Of the messages that every run has, whatever its task."""
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
    >>> found["axes 2"].name, found["views"].says
    ('axes', 'number of spots and sums of squares, to bring a spot and its surroundings to one scale')
    """
    sums = (*task.before(panel), *task.after(panel))
    own = {kind: Described(one.name, one.says) for one in sums for kind in one.exchanges}
    return {kind: Described(kind, says) for kind, says in ENGINE.items()} | own


def with_descriptions(ledger: pd.DataFrame, task: Task, panel: Mapping[str, Any]) -> pd.DataFrame:
    """Return a ledger with the columns ``sum`` and ``says``: the sum that a message is a part of, and what that sum reveals."""
    known = described(task, panel)
    found = [known.get(kind, Described(kind, UNKNOWN)) for kind in ledger["kind"].astype(str)]
    return ledger.assign(sum=[one.name for one in found], says=[one.says for one in found])
