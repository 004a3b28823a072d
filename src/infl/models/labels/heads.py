"""The heads of several columns: which outputs and classes belong to each, and what probabilities outputs are.

An ordered column has an output for each step between levels. The first is the log odds of being above the lowest level; each further
one says by how much the log odds of being above the next level are below those, so that levels never cross.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


@dataclass(frozen=True)
class Head:
    """The head of one column.

    Attributes
    ----------
    target
        The column.
    classes
        Its classes; in their order where they are ordered.
    ordered
        Whether they are.
    outputs, places
        Where its outputs, and its classes among those of all columns, begin and end.
    """

    target: str
    classes: tuple[str, ...]
    ordered: bool
    outputs: slice
    places: slice


def heads_of(panel: Mapping[str, Any]) -> list[Head]:
    """Return the heads of a panel's columns, in order.

    Examples
    --------
    >>> panel = {"tasks": {"er": ["neg", "pos"], "grade": ["1", "2", "3"]}, "ordered": {"grade": '["1", "2", "3"]'}}
    >>> [(head.target, head.ordered, head.outputs, head.places) for head in heads_of(panel)]
    [('er', False, slice(0, 2, None), slice(0, 2, None)), ('grade', True, slice(2, 4, None), slice(2, 5, None))]
    """
    found: list[Head] = []
    at = place = 0
    for target, classes in panel["tasks"].items():
        ordered = target in panel.get("ordered", {}) and len(classes) > 1
        n = len(classes) - ordered
        ends = slice(at, at + n), slice(place, place + len(classes))
        found.append(Head(target, tuple(classes), ordered, *ends))
        at, place = at + n, place + len(classes)
    return found


def log_probabilities(outputs: Tensor, heads: Sequence[Head]) -> list[Tensor]:
    """Return the logarithms of each column's probabilities (n, n_classes).

    Examples
    --------
    >>> three = heads_of({"tasks": {"grade": ["1", "2", "3"]}, "ordered": {"grade": '["1", "2", "3"]'}})
    >>> p = log_probabilities(torch.tensor([[0.0, 0.0]]), three)[0].exp()
    >>> p.round(decimals=2).tolist(), round(float(p.sum()), 4)
    ([[0.5, 0.17000000178813934, 0.33000001311302185]], 1.0)
    """
    found = []
    for head in heads:
        own = outputs[..., head.outputs]
        if not head.ordered:
            found.append(own.log_softmax(-1))
            continue
        # log odds c of being above each level; σ(c₀) − σ(c₁) = σ(c₀) σ(−c₁) (1 − e^(c₁ − c₀)), with c₀ − c₁ = softplus(o)
        first, more = own[..., :1], own[..., 1:]
        above = torch.cat([first, first - softplus(more).cumsum(-1)], -1)
        between = logsigmoid(above[..., :-1]) + logsigmoid(-above[..., 1:]) + logsigmoid(more)
        found.append(torch.cat([logsigmoid(-first), between, logsigmoid(above[..., -1:])], -1))
    return found


def written_order(levels: Sequence[str]) -> str:
    """Return an order as one text, so that sites with another one are seen to differ."""
    return json.dumps(list(levels), ensure_ascii=False)


def read_order(text: str) -> list[str]:
    """Inverse of :func:`written_order`."""
    return [str(level) for level in json.loads(text)]
