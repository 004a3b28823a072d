"""What never leaves a site, and from which exchange on it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Own:
    """What a site keeps to itself of the model.

    Attributes
    ----------
    weights
        Local weights, flat.
    control
        Control variate, flat; empty where the rule has none.
    excess
        Sum over rounds of the site's loss above the mean, for a rule that counts by it.
    """

    weights: Tensor
    control: Tensor
    excess: float = 0.0


class SiteState:
    """What a site keeps to itself: now, at the best round, and after the exchange under way.

    What a round leaves counts from the next exchange on, so that a round that is asked for again starts where it did.

    Parameters
    ----------
    own
        At the beginning.

    Attributes
    ----------
    now
        What counts.
    best
        The best round so far, and what was kept then.
    after
        The exchange under way, its round, and what is kept after it.

    Examples
    --------
    >>> state = SiteState(Own(torch.zeros(1), torch.empty(0)))
    >>> state.note(3, 1, Own(torch.ones(1), torch.empty(0)))
    >>> state.settle(3, "train", best_round=0)  # asked for again
    >>> state.now.weights.item()
    0.0
    >>> state.settle(4, "train", best_round=0)
    >>> state.now.weights.item()
    1.0
    """

    def __init__(self, own: Own) -> None:
        self.now = own
        self.best = (0, own)
        self.after: tuple[int, int, Own] | None = None

    def note(self, seq: int, round: int, own: Own) -> None:
        """Keep what a training round leaves."""
        self.after = (seq, round, own)

    def leave_out(self) -> None:
        """Forget what the exchange under way left: it counts as zero."""
        self.after = None

    def settle(self, seq: int, kind: str, *, best_round: int, absent: bool = False) -> None:
        """Let what counts be that of the global model before an exchange.

        Parameters
        ----------
        seq, kind
            The exchange.
        best_round
            Of the global model.
        absent
            The site is not in the sum of the exchange that :attr:`after` is of.
        """
        if absent:
            self.after = None
        if self.after is not None and self.after[0] < seq and self.after[1] <= best_round:
            self.now, self.after = self.after[2], None  # of a site that was away: the best round is that one, or later
        if best_round != self.best[0]:
            self.best = (best_round, self.now)  # what that round was judged with
        if kind not in ("train", "judge") and self.best[0]:
            self.now, self.after = self.best[1], None
        if self.after is not None and self.after[0] < seq:
            self.now, self.after = self.after[2], None

    # -- on disk ---------------------------------------------------------------------------------------------------
    def arrays(self) -> dict[str, np.ndarray]:
        """Return what must be kept, as arrays by name; :meth:`facts` is the rest."""
        kept = {"now": self.now, "best": self.best[1]} | ({} if self.after is None else {"after": self.after[2]})
        named = {f"{when}.{what}": getattr(own, what) for when, own in kept.items() for what in ("weights", "control")}
        return {name: tensor.numpy() for name, tensor in named.items() if len(tensor)}

    def facts(self) -> dict[str, Any]:
        """Return what must be kept, as JSON."""
        after = None if self.after is None else [*self.after[:2], self.after[2].excess]
        return {"excess": self.now.excess, "best": [self.best[0], self.best[1].excess], "after": after}

    def restore(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Inverse of :meth:`arrays` and :meth:`facts`."""

        def own(when: str, excess: float) -> Own:
            weights, control = (
                torch.from_numpy(arrays.get(f"{when}.{what}", np.empty(0, np.float32)))
                for what in ("weights", "control")
            )
            return Own(weights, control, excess)

        self.now, self.best = own("now", facts["excess"]), (facts["best"][0], own("best", facts["best"][1]))
        after = facts["after"]
        self.after = None if after is None else (after[0], after[1], own("after", after[2]))
