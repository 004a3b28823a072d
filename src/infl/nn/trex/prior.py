"""How the prior of the inputs under way reaches the layers that use it, without a change to anybody's ``forward``.

All adapted layers of a model look into one :class:`PriorSlot`. A hook on the model fills it at the start of each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from infl.errors import SettingsError

Prior = Tensor | Mapping[str, Tensor]
"""Similarities (n, r1 · r2), or one such tensor for each adapter."""
ARGUMENT = "trex_prior"


class PriorSlot:
    """The prior and the attention mask of the pass under way.

    Attributes
    ----------
    held
        What :func:`use_prior` set.
    compute
        What :func:`attach_prior` set.
    """

    def __init__(self) -> None:
        self.held: Prior | None = None
        self.compute: Callable[[Mapping[str, Any]], Prior] | None = None
        self.prior: Prior | None = None
        self.mask: Tensor | None = None

    def receive(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """Forward pre-hook of the model: take the prior out of the arguments, or find it otherwise.

        It stays until the next pass: layers that are computed again in the backward pass need it once more.
        """
        given = kwargs.pop(ARGUMENT, None)
        mask = kwargs.get("attention_mask")
        self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
            self.mask = None  # of the encoder's positions, not of the decoder's
        if given is not None:
            self.prior = given
        elif self.held is not None:
            self.prior = self.held
        elif self.compute is not None:
            self.prior = self.compute(kwargs if not args else {"input_ids": args[0], **kwargs})
        else:
            self.prior = None
        if module.training:
            self._remember_when_computed_again(module)
        return args, kwargs

    def of(self, adapter: str) -> Tensor | None:
        """Return the prior for an adapter."""
        return self.prior.get(adapter) if isinstance(self.prior, Mapping) else self.prior

    def attach(self, function: Callable[[Mapping[str, Any]], Prior] | None) -> None:
        """Compute the prior of a pass that comes without one; None ends that."""
        self.compute = function

    @contextmanager
    def using(self, prior: Prior | None) -> Iterator[None]:
        """Have this prior for a while, in every pass of the model or of a part of it."""
        before, self.held = self.held, prior
        try:
            with self.holding(prior):
                yield
        finally:
            self.held = before

    @contextmanager
    def holding(self, prior: Prior | None, mask: Tensor | None = None) -> Iterator[None]:
        """Have this prior and mask for a while."""
        before = self.prior, self.mask
        self.prior, self.mask = prior, mask
        try:
            yield
        finally:
            self.prior, self.mask = before

    def _remember_when_computed_again(self, model: nn.Module) -> None:
        """Bind the prior to the layers that transformers computes again, where two passes precede their backward passes."""
        for module in model.modules():
            checkpoint = getattr(module, "_gradient_checkpointing_func", None)
            if checkpoint is not None and not isinstance(checkpoint, _Checkpoint):
                module._gradient_checkpointing_func = _Checkpoint(checkpoint, self)  # type: ignore[assignment]


class _Checkpoint:
    """A checkpointing function that computes again with the prior of the first time."""

    def __init__(self, checkpoint: Callable[..., Any], slot: PriorSlot) -> None:
        self.checkpoint, self.slot = checkpoint, slot

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        prior, mask = self.slot.prior, self.slot.mask

        def with_prior(*inputs: Any, **more: Any) -> Any:
            with self.slot.holding(prior, mask):
                return function(*inputs, **more)

        return self.checkpoint(with_prior, *args, **kwargs)


@contextmanager
def use_prior(model: nn.Module, prior: Prior) -> Iterator[None]:
    """Let every pass of `model` in this context use `prior`: for ``generate``, for merging, for models of one task.

    Parameters
    ----------
    model
        What ``peft.get_peft_model`` returned.
    prior
        (n, r1 · r2), or (r1 · r2,) for all inputs; or a mapping from adapters to such tensors.

    Yields
    ------
    None
        The model uses `prior` meanwhile.

    Raises
    ------
    SettingsError
        The model has no rank-one experts.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from infl.nn.trex import RankOneExperts
    >>> with use_prior(nn.Linear(2, 2), torch.ones(32)):
    ...     pass
    Traceback (most recent call last):
    infl.errors.SettingsError: this Linear has no rank-one experts: adapt it with peft.get_peft_model and TrexConfig first
    """
    with find_slot(model).using(prior):
        yield


def attach_prior(model: nn.Module, function: Callable[[Mapping[str, Any]], Prior] | None) -> None:
    """Compute the prior of every batch that comes without one.

    Parameters
    ----------
    model
        What ``peft.get_peft_model`` returned.
    function
        A function of the model's inputs, by name (``{"input_ids": …, "attention_mask": …}``), such as
        :class:`infl.nn.trex.semantic_prior.TokenPrior`; None takes it away.

    Raises
    ------
    SettingsError
        The model has no rank-one experts.

    Examples
    --------
    >>> from torch import nn
    >>> attach_prior(nn.Linear(2, 2), None)
    Traceback (most recent call last):
    infl.errors.SettingsError: this Linear has no rank-one experts: adapt it with peft.get_peft_model and TrexConfig first
    """
    find_slot(model).attach(function)


def find_slot(model: nn.Module) -> PriorSlot:
    """Return the slot of an adapted model."""
    for module in model.modules():
        if isinstance(slot := getattr(module, "prior_slot", None), PriorSlot):
            return slot
    raise SettingsError(
        f"this {type(model).__name__} has no rank-one experts: adapt it with peft.get_peft_model and TrexConfig first"
    )
