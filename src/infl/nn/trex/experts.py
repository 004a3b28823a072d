r"""The update of one layer by a mixture of rank-one experts.

.. math:: y = W x + g \cdot B \, C(x, s)^\top A x

Every row of :math:`A` with every column of :math:`B` is an expert of rank one: r1 · r2 experts from r1 + r2 vectors. None of
them is ever made: with :math:`u = A x` the sum over experts is :math:`B \, (C^\top u)`.

References
----------
T-REX: mixture-of-rank-one-experts with semantic-aware intuition for multi-task large language model finetuning,
arXiv 2404.08985.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infl.errors import SettingsError
from infl.nn.trex.update import Update, at_least_single

Router = Literal["token", "sequence", "none"]
PRIOR_SCALE = 4.0
"""Weight of the similarities beside the r1 · r2 of the softmax."""
SHARPNESS = 100.0
"""ω and g are ``sigmoid(SHARPNESS · scalar)``: the scalars reach either end within the usual learning rates."""
PARTS = ("A", "B", "router", "omega", "gate")


class RankOneExperts(Update):
    r"""The update :math:`g\,B\,C(x,s)^\top A x` of one linear layer (or of an embedding).

    The routing weights, one for each pair of a row of A and a column of B, are

    .. math:: C = r_1 r_2\,\omega\,\mathrm{softmax}(R x) + 4\,(1 - \omega)\,s

    with the similarities *s* of the whole input to r1 · r2 centroids (:mod:`infl.nn.trex.semantic_prior`).

    Parameters
    ----------
    in_features, out_features
        Sizes of the layer.
    r1, r2
        Rows of A and columns of B.
    prior
        Whether there is an *s*. Without it ω is 1 and is left out.
    router
        ``"token"`` as published; ``"sequence"``, one routing for all of an input, from its mean; ``"none"``, uniform:
        what is left of C is then fixed by the prior, and the update can be merged into the layer.
    top_k
        Keep the k largest weights of the softmax, rescaled to a sum of 1 (None: all, as published).
    router_init
        ``"random"``, or ``"zeros"`` as published. With zeros and no prior all columns of B get the same gradient at every step:
        the r1 · r2 experts stay one.
    alpha
        None: the published scale. Else the update is scaled to weigh, at the first step, as one of LoRA with rank r1 · r2
        and this ``lora_alpha`` (see Notes).
    level
        For `alpha`: how large the routing weights are beside uniform ones at the first step, the root mean square of
        1/2 + 2 s over training inputs, :meth:`infl.nn.trex.semantic_prior.SemanticPrior.level` (None: s is counted as zero).
    dropout
        On the input of A.
    balance
        Weight of the balance loss r1 r2 Σ fₑ p̄ₑ (1 when all experts are used alike), with the experts' mean softmax p̄
        and their share f of the choices. It is added to the gradient where the layer is computed, so that no training loop
        has to know of it.
    frozen
        Which of ``"A", "B", "router", "omega", "gate"`` are not trained.
    lookup
        The layer is an embedding: inputs are row numbers.

    Attributes
    ----------
    resting
        Which parts get no gradient for now, though they are trained in turn.

    Notes
    -----
    LoRA's update (α / r) B A is r experts of weight α / r, a routing matrix of Frobenius norm α / √r. Here the norm
    is g √(r1 r2) · `level` at the start, with uniform routing and g = 1/2; the level is 1 without a prior, and
    (ω + 4 (1 − ω) s) with ω = 1/2 and one. The factor between the two is what `alpha` brings in. The size of a first gradient step is in proportion to that norm in both methods.

    Examples
    --------
    >>> import torch
    >>> experts = RankOneExperts(16, 10, r1=2, r2=3)
    >>> x, s = torch.randn(5, 7, 16), torch.rand(5, 6)
    >>> experts(x, s).shape, int(experts(x, s).count_nonzero())
    (torch.Size([5, 7, 10]), 0)
    """

    omega: nn.Parameter | None
    router: nn.Parameter | None
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        r1: int = 4,
        r2: int = 8,
        prior: bool = True,
        router: Router = "token",
        top_k: int | None = None,
        router_init: Literal["random", "zeros"] = "random",
        alpha: float | None = None,
        level: float | None = None,
        dropout: float = 0.0,
        balance: float = 0.0,
        frozen: Collection[str] = (),
        lookup: bool = False,
    ) -> None:
        super().__init__(r1 * r2, frozen=frozen, lookup=lookup)
        check(r1=r1, r2=r2, router=router, top_k=top_k, router_init=router_init, frozen=frozen)
        self.in_features, self.out_features, self.r1, self.r2 = in_features, out_features, r1, r2
        self.routing, self.top_k, self.router_init = router, top_k, router_init
        self.balance = balance
        first_norm = 0.5 * (1.0 if not prior else level or 0.5) * math.sqrt(r1 * r2)
        self.scaling = 1.0 if alpha is None else alpha / math.sqrt(r1 * r2) / first_norm
        self.A = nn.Parameter(torch.empty(r1, in_features))
        self.B = nn.Parameter(torch.empty(out_features, r2))
        self.router = None if router == "none" else nn.Parameter(torch.empty(r1 * r2, in_features))
        self.omega = nn.Parameter(torch.empty(())) if prior else None
        self.gate = nn.Parameter(torch.empty(()))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        # Which row and which column an expert has. Products with them are much faster than sums over a few of its numbers.
        rows, columns = torch.eye(r1).repeat_interleave(r2, 0), torch.eye(r2).repeat(1, r1)
        self.register_buffer("rows", rows, persistent=False)  # (r1 · r2, r1)
        self.register_buffer("columns", columns.contiguous(), persistent=False)  # (r2, r1 · r2)
        self.reset_parameters()
        self.freeze()

    @property
    def n_experts(self) -> int:
        """Number of experts: r1 · r2."""
        return self.r1 * self.r2

    def reset_parameters(self) -> None:
        """A as in a linear layer; B zero, so that the update is zero; ω and g one half."""
        for weight in (self.A, self.router):
            if weight is None:
                continue
            if weight is self.router and self.router_init == "zeros":
                nn.init.zeros_(weight)
            else:
                self._draw(weight)
        nn.init.zeros_(self.B)
        nn.init.zeros_(self.gate)
        if self.omega is not None:
            nn.init.zeros_(self.omega)

    def forward(self, x: Tensor, prior: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the update for `x`.

        Parameters
        ----------
        x
            (n, …, in_features), or row numbers (n, …) for an embedding. Two dimensions are fine; sequences that
            were laid out one after the other, (n · length, in_features), too.
        prior
            Similarities (n, r1 · r2), one row for each input.
        mask
            Which positions (n, length) are not padding; for routing by sequence and for the balance loss.
        """
        if not self.lookup:
            x = self.dropout(x.to(self.A.dtype))
        n, loss = self.n_experts, None
        a = self._now("A")
        if self.router is None:
            u, c = self._project(a, x), self.A.new_full((n,), 1 / n)
        else:
            # Two products: one would keep the joined weights of every layer until the backward pass.
            u, logits = self._project(a, x), self._project(self._now("router"), x)
            c, loss = self._choose(logits, mask)  # C / (r1 r2), from here on: (n, …, r1 · r2)
        if self.omega is not None:
            s, shape = self._by_input(prior, u) * (PRIOR_SCALE / n), (*u.shape[:-1], n)
            c = torch.lerp(s, c.expand(shape).reshape(len(s), -1, n), self._sigmoid(self._now("omega"))).view(shape)
        mixed = F.linear(F.linear(u, self.rows.to(u)) * c, self.columns.to(u))  # Cᵀ u: (n, …, r2)
        mixed = mixed * (self._sigmoid(self._now("gate")) * (n * self.scaling))
        update = F.linear(mixed, self._now("B"))
        return update if loss is None else _WithLoss.apply(update, loss)

    def probabilities(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the softmax of the router (n, …, r1 · r2), with all but the `top_k` largest at zero."""
        if self.router is None:
            raise SettingsError("router='none' has no softmax to look at")
        return self._choose(self._project(self.router, x if self.lookup else x.to(self.A.dtype)), mask)[0]

    @torch.no_grad()
    def delta_weight(self, prior: Tensor | None = None) -> Tensor:
        """Return the update as a matrix (out_features, in_features), where routing does not depend on the input.

        Parameters
        ----------
        prior
            The similarities (r1 · r2,) to merge for.

        Raises
        ------
        SettingsError
            There is a router, or the prior is missing or not one row.
        """
        if self.router is not None:
            raise SettingsError(
                f"routing by {self.routing} depends on the input and cannot be merged: only router='none' can"
            )
        omega = self._omega()
        c = torch.ones(self.r1, self.r2, dtype=self.A.dtype, device=self.A.device) * omega
        if self.omega is not None:
            c = c + PRIOR_SCALE * (1 - omega) * self._of_one(prior).view(self.r1, self.r2)
        return self.scaling * self._sigmoid(self.gate) * self.B @ c.T @ self.A

    # -- parts -----------------------------------------------------------------------------------------------------
    def _sigmoid(self, scalar: Tensor) -> Tensor:
        return torch.sigmoid(SHARPNESS * scalar.to(at_least_single(scalar.dtype))).to(self.A.dtype)

    def _omega(self) -> Tensor:
        return torch.ones_like(self.gate) if self.omega is None else self._sigmoid(self.omega)

    def _choose(self, logits: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return routing weights (n, …, r1 · r2) that add up to 1, and the balance loss while training."""
        if mask is not None and mask.shape != logits.shape[:-1]:
            mask = None  # of other positions than these, such as the ones before them in a cache
        if self.routing == "sequence" and logits.ndim > 2:
            logits, mask = (
                _mean(logits, mask),
                None,
            )  # the router is linear: the mean of its outputs is that of its inputs
        p = chosen = torch.softmax(logits, -1, dtype=at_least_single(logits.dtype))
        if self.top_k is not None:
            best = p.topk(self.top_k, -1)
            chosen = torch.zeros_like(p).scatter(-1, best.indices, best.values / best.values.sum(-1, keepdim=True))
        loss = None
        if self.balance and self.training and torch.is_grad_enabled():
            rows = p.flatten(0, -2) if mask is None else p[mask.bool()]  # (tokens, r1 · r2)
            used = chosen.flatten(0, -2) if mask is None else chosen[mask.bool()]
            share = rows.mean(0) if self.top_k is None else (used > 0).float().mean(0) / self.top_k
            loss = self.balance * self.n_experts * (share * rows.mean(0)).sum()
        return chosen.to(self.A.dtype), loss

    def kinds(self) -> str:
        """Return how many experts there are."""
        return f"{self.r1} × {self.r2} experts"

    def extra_repr(self) -> str:
        """Sizes and routing, for ``repr``."""
        kept = "" if self.top_k is None else f", top_k={self.top_k}"
        prior = self.omega is not None
        return f"{self.in_features}, {self.out_features}, r1={self.r1}, r2={self.r2}, router={self.routing!r}{kept}, prior={prior}"


def check(*, r1: int, r2: int, router: str, top_k: int | None, router_init: str, frozen: Collection[str]) -> None:
    """Refuse options that cannot work.

    Raises
    ------
    SettingsError
        Which one, and what it may be.
    """
    if r1 < 1 or r2 < 1:
        raise SettingsError(f"r1={r1}, r2={r2}: an adapter needs at least one vector on either side")
    if router not in ("token", "sequence", "none"):
        raise SettingsError(f"router={router!r}: one of 'token', 'sequence', 'none'")
    if router_init not in ("random", "zeros"):
        raise SettingsError(f"router_init={router_init!r}: 'random' or 'zeros'")
    if top_k is not None and not (1 <= top_k <= r1 * r2 and router != "none"):
        raise SettingsError(f"top_k={top_k}: from 1 to r1 · r2 = {r1 * r2}, with a router")
    if unknown := set(frozen) - set(PARTS):
        raise SettingsError(f"frozen={sorted(unknown)}: some of {', '.join(map(repr, PARTS))}")


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over all but the first and last dimension, which are kept with size 1: (n, …, k) → (n, 1, …, k)."""
    middle = tuple(range(1, x.ndim - 1))
    if mask is None:
        return x.mean(middle, keepdim=True)
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(middle, keepdim=True) / weight.sum(middle, keepdim=True).clamp_min(1)


class _WithLoss(torch.autograd.Function):
    """Let `output` through, and give `loss` the gradient that it would have as a term of the total loss."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(loss)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (loss,) = ctx.saved_tensors
        return gradients[0], torch.ones_like(loss)
