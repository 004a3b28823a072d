r"""Rank-one experts in pairs, each with its own row and column, and its own gate.

.. math:: y = W x + \frac{\alpha}{r}\, B \, \bigl(c \odot A x\bigr), \qquad c = 2\,\sigma\bigl(10\,(E s + R A x)\bigr)

Expert k is :math:`b_k a_k^\top`. The update of a token has rank r, as LoRA's has, where a grid of r1 × r2 experts has rank r1
(:mod:`infl.nn.trex.experts`). With :math:`c = 1` it is LoRA. A gate reads what the experts read already, so that it costs
r · (anchors + r) weights beside the r · (inputs + outputs) of A and B.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infl.errors import SettingsError
from infl.nn.trex.update import Update, at_least_single

SHARPNESS = 10.0
"""Of a gate's logits: E and R reach either end within the usual learning rates."""
OPEN = 0.1
"""Root mean square of E at the start, over a row: a logit of 1 for a prior of 1."""
PARTS = ("A", "B", "router", "anchors")


class PairedExperts(Update):
    r"""The update :math:`(\alpha / r)\,B\,(c \odot A x)` of one linear layer (or of an embedding).

    Parameters
    ----------
    in_features, out_features
        Sizes of the layer.
    rank
        Number of experts.
    anchors
        Numbers of the prior *s* of an input (:class:`infl.nn.trex.semantic_prior.TaskPrior`); 0: no prior.
    router
        ``"token"``: R, which begins at zero. ``"none"``: the prior alone gates, and the update can be merged into the layer
        for one prior.
    alpha
        As LoRA's ``lora_alpha``; None: `rank`.
    dropout
        On the input of A.
    frozen
        Which of ``"A", "B", "router", "anchors"`` are not trained.
    lookup
        The layer is an embedding: inputs are row numbers.

    Notes
    -----
    Expert k begins with an open gate for anchor k mod `anchors`, and with gates partly closed for the others. The mean
    over anchors of its logits is zero.

    Examples
    --------
    >>> import torch
    >>> experts = PairedExperts(16, 10, rank=4, anchors=2)
    >>> x, s = torch.randn(5, 7, 16), torch.randn(5, 2)
    >>> experts(x, s).shape, int(experts(x, s).count_nonzero())
    (torch.Size([5, 7, 10]), 0)
    """

    anchors: nn.Parameter | None
    router: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        anchors: int,
        router: Literal["token", "none"] = "token",
        alpha: float | None = None,
        dropout: float = 0.0,
        frozen: Collection[str] = (),
        lookup: bool = False,
    ) -> None:
        super().__init__(anchors, frozen=frozen, lookup=lookup)
        check_pairs(rank, anchors, router, frozen)
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.scaling = 1.0 if alpha is None else alpha / rank
        self.A = nn.Parameter(torch.empty(rank, in_features))
        self.B = nn.Parameter(torch.empty(out_features, rank))
        self.anchors = nn.Parameter(torch.empty(rank, anchors)) if anchors else None
        self.router = nn.Parameter(torch.empty(rank, rank)) if router == "token" else None
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.reset_parameters()
        self.freeze()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A as in a linear layer; B and the router zero; every expert open for one anchor."""
        self._draw(self.A)
        nn.init.zeros_(self.B)
        if self.router is not None:
            nn.init.zeros_(self.router)
        if self.anchors is not None:
            nn.init.zeros_(self.anchors)
            if (n := self.n_priors) > 1:
                mine = F.one_hot(torch.arange(self.rank) % n, n)
                self.anchors.copy_(OPEN * (n * mine - 1) / math.sqrt(n - 1))  # mean 0, root mean square OPEN

    def forward(self, x: Tensor, prior: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the update for `x`.

        Parameters
        ----------
        x
            (n, …, in_features), or row numbers (n, …) for an embedding. Sequences that were laid out one after the
            other, (n · length, in_features), are fine, too.
        prior
            (n, anchors), one row for each input.
        mask
            Not used: a gate looks at one token at a time.
        """
        if not self.lookup:
            x = self.dropout(x.to(self.A.dtype))
        u = self._project(self._now("A"), x)  # (n, …, rank)
        logits = u.new_zeros(()) if self.router is None else F.linear(u, self._now("router"))
        if self.anchors is not None:
            by_input = F.linear(self._by_input(prior, u), self._now("anchors"))  # (inputs, 1, rank)
            logits = (logits.expand_as(u).reshape(len(by_input), -1, self.rank) + by_input).view(u.shape)
        return F.linear(u * (self._gates(logits) * self.scaling), self._now("B"))

    @torch.no_grad()
    def delta_weight(self, prior: Tensor | None = None) -> Tensor:
        """Return the update as a matrix (out_features, in_features), where gates do not depend on the input.

        Parameters
        ----------
        prior
            The prior (anchors,) to merge for.

        Raises
        ------
        SettingsError
            There is a router, or the prior is missing or not one row.
        """
        if self.router is not None:
            raise SettingsError(
                "gates by token depend on the input and cannot be merged: only experts with router='none' can"
            )
        gates = torch.ones_like(self.A[:, 0])
        if self.anchors is not None:
            gates = self._gates(self.anchors @ self._of_one(prior))
        return self.scaling * (self.B * gates) @ self.A

    def _gates(self, logits: Tensor) -> Tensor:
        return 2 * torch.sigmoid(SHARPNESS * logits.to(at_least_single(logits.dtype))).to(self.A.dtype)

    def kinds(self) -> str:
        """Return how many anchors there are."""
        return f"{self.n_priors} anchors"

    def extra_repr(self) -> str:
        """Sizes and gates, for ``repr``."""
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, anchors={self.n_priors}, router={self.router is not None}"


def check_pairs(
    rank: int, anchors: int, router: str, frozen: Collection[str], grid_alone: Mapping[str, Any] | None = None
) -> None:
    """Refuse options that cannot work, and of those for a grid alone, by name, what is not None.

    Raises
    ------
    SettingsError
        Which one, and what it may be.
    """
    if rank < 1 or anchors < 0:
        raise SettingsError(f"rank={rank}, anchors={anchors}: pairs need a rank of at least 1, and 0 anchors or more")
    if router not in ("token", "none"):
        raise SettingsError(f"router={router!r}: gates of pairs are by 'token' or, with the prior alone, 'none'")
    if unknown := set(frozen) - set(PARTS):
        raise SettingsError(f"frozen={sorted(unknown)} is not a part: {', '.join(PARTS)}")
    if named := [name for name, value in (grid_alone or {}).items() if value is not None]:
        raise SettingsError(f"{', '.join(named)}: for the grid of r1 × r2 experts alone, not for pairs (rank={rank})")
