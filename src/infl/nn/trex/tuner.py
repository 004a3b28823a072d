"""Rank-one experts as a method of Hugging Face's PEFT. Importing this module registers it.

``peft.get_peft_model``, ``save_pretrained``, ``PeftModel.from_pretrained``, several adapters, ``disable_adapter`` and, where
routing does not depend on the input, merging then work as for PEFT's own methods.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from infl._warn import warn
from infl.errors import MissingExtraError, SettingsError
from infl.nn.trex.experts import RankOneExperts, Router, check
from infl.nn.trex.origin import base_digest, check_base, name_without_folder
from infl.nn.trex.pairs import PairedExperts, check_pairs
from infl.nn.trex.prior import PriorSlot
from infl.nn.trex.traps import find_encoder_layer, is_bypassed, switch_off_fast_path
from infl.nn.trex.update import Update

try:
    from peft import mapping
    from peft.config import PeftConfig
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
    from transformers.pytorch_utils import Conv1D
except ImportError:  # pragma: no cover - the tests need the extra
    raise MissingExtraError("adapters need PEFT and transformers: pip install 'infl[trex]'") from None


class TrexType(enum.StrEnum):
    """PEFT's enumeration of methods is closed; this is ours, which its tables take as well."""

    TREX = "TREX"


@dataclass
class TrexConfig(PeftConfig):
    """Configuration of rank-one experts for ``peft.get_peft_model``.

    Parameters
    ----------
    r1, r2, prior, router, top_k, router_init, alpha, level, dropout, balance, frozen
        As for :class:`infl.nn.trex.RankOneExperts`.
    rank
        None: the published grid of r1 × r2 experts. Else so many experts in pairs, each of its own row and column
        (:class:`infl.nn.trex.PairedExperts`), without regard to `r1`, `r2` and `prior`.
    anchors
        For `rank`: numbers of the prior of an input (0: no prior).
    target_modules
        Names of the layers (``Linear``, GPT-2's ``Conv1D``, ``Embedding``), or a regular expression; ``"all-linear"``, as
        published: all but the output head.
    exclude_modules, layers_to_transform, layers_pattern, modules_to_save
        As everywhere in PEFT.
    base_digest
        Of the base's weights. It is found when a model is adapted, is stored with the adapter, and an adapter that is loaded on
        another base is refused. The file has the base's name, never a folder of the machine that wrote it.

    Examples
    --------
    >>> import peft, torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from infl.nn.trex import TrexConfig
    >>> base = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    >>> model = peft.get_peft_model(base, TrexConfig(r1=2, r2=4, task_type="CAUSAL_LM"))
    >>> batch = {"input_ids": torch.randint(30, (3, 5)), "trex_prior": torch.rand(3, 8)}
    >>> model(**batch).logits.shape
    torch.Size([3, 5, 30])
    """

    r1: int = field(default=4, metadata={"help": "Rows of A."})
    r2: int = field(default=8, metadata={"help": "Columns of B."})
    rank: int | None = field(default=None, metadata={"help": "Experts in pairs (None: the grid of r1 × r2)."})
    anchors: int = field(default=0, metadata={"help": "With rank: numbers of the prior of an input."})
    target_modules: list[str] | set[str] | str | None = field(default="all-linear", metadata={"help": "What to adapt."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "What not to adapt."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Numbers of the layers."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})
    prior: bool = field(default=True, metadata={"help": "Whether inputs come with similarities to centroids."})
    router: Router = field(default="token", metadata={"help": "'token', 'sequence' or 'none'."})
    top_k: int | None = field(default=None, metadata={"help": "Experts kept (None: all)."})
    router_init: Literal["random", "zeros"] = field(default="random", metadata={"help": "'random' or 'zeros'."})
    alpha: float | None = field(default=None, metadata={"help": "Scale as LoRA's alpha (None: as published)."})
    level: float | None = field(default=None, metadata={"help": "Size of the first routing weights, for alpha."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of A."})
    balance: float = field(default=0.0, metadata={"help": "Weight of the balance loss."})
    frozen: list[str] | tuple[str, ...] = field(default=(), metadata={"help": "Parts that are not trained."})
    base_digest: dict[str, str] | None = field(default=None, metadata={"help": "Of the base; found when adapted."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TrexType.TREX
        # of a file; what is found later is no claim: a configuration may be used again
        self._trained_on = self.base_digest
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if self.rank is not None:
            grid_alone = {"top_k": self.top_k, "level": self.level, "balance": self.balance or None}
            check_pairs(self.rank, self.anchors, self.router, self.frozen, grid_alone)
            return
        if self.anchors:
            raise SettingsError(f"anchors={self.anchors} is for pairs: give their number too, rank=")
        check(
            r1=self.r1,
            r2=self.r2,
            router=self.router,
            top_k=self.top_k,
            router_init=self.router_init,
            frozen=self.frozen,
        )
        if self.router == "sequence" and self.task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
            raise SettingsError("router='sequence' would let a causal model see the tokens to come: use router='token'")
        if not self.prior and self.router_init == "zeros" and self.router != "none":
            warn(
                "B and the router start at zero and there is no prior: all experts get the same gradients and stay one expert; "
                "use router_init='random'"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as a file has it."""
        content = super().to_dict()
        return content | {"base_model_name_or_path": name_without_folder(content["base_model_name_or_path"])}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the configuration, and leave out of PEFT's model card, too, where the base lay."""
        super().save_pretrained(save_directory, **kwargs)
        name = self.base_model_name_or_path
        if not name or name_without_folder(name) == name:
            return
        for card in (Path(save_directory) / "README.md", Path(save_directory).parent / "README.md"):
            if card.is_file() and name in (text := card.read_text(encoding="utf-8")):
                card.write_text(text.replace(name, str(name_without_folder(name))), encoding="utf-8")

    def experts(self, in_features: int, out_features: int, *, lookup: bool = False) -> Update:
        """Return fresh experts for a layer of this size."""
        if self.rank is not None:
            return PairedExperts(
                in_features,
                out_features,
                rank=self.rank,
                anchors=self.anchors,
                router="none" if self.router == "none" else "token",
                alpha=self.alpha,
                dropout=self.dropout,
                frozen=self.frozen,
                lookup=lookup,
            )
        return RankOneExperts(
            in_features,
            out_features,
            r1=self.r1,
            r2=self.r2,
            prior=self.prior,
            router=self.router,
            top_k=self.top_k,
            router_init=self.router_init,
            alpha=self.alpha,
            level=self.level,
            dropout=self.dropout,
            balance=self.balance,
            frozen=self.frozen,
            lookup=lookup,
        )


class TrexLinear(nn.Module, BaseTunerLayer):
    """A layer with rank-one experts beside it, one set for each adapter.

    PEFT recognises adapted linear layers by their class's name; an embedding or a ``Conv1D`` is adapted by the same class.
    """

    adapter_layer_names = ("trex_experts",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, slot: PriorSlot) -> None:
        super().__init__()
        self.base_layer, self.prior_slot = base_layer, slot
        self.trex_experts = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._merged_priors: dict[str, Tensor | None] = {}
        base: Any = self.get_base_layer()
        self.lookup = isinstance(base, nn.Embedding)
        self.transposed = self.lookup or isinstance(base, Conv1D)  # its weight is (in, out)
        # A quantised layer keeps its weight packed: its sizes are not those of the layer.
        self.quantised = not base.weight.is_floating_point()
        if isinstance(base, nn.Linear):
            out_features, in_features = base.out_features, base.in_features
        else:
            out_features, in_features = base.weight.T.shape
        self.in_features, self.out_features = int(in_features), int(out_features)

    def update_layer(self, adapter_name: str, config: TrexConfig) -> None:
        """Add an adapter."""
        self.trex_experts[adapter_name] = config.experts(self.in_features, self.out_features, lookup=self.lookup)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output with the updates of all active adapters."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        for name in self.active_adapters:
            if name in self.trex_experts:
                result = result + self.trex_experts[name](x, self.prior_slot.of(name), self.prior_slot.mask)
        return result.to(dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates to the layer's weight; for ``router="none"``, with the prior of :func:`infl.nn.trex.use_prior`."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.trex_experts:
                continue
            prior = self.prior_slot.of(name)
            self._add(name, prior, 1, safe_merge)
            self._merged_priors[name] = prior
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take the updates out of the weight again."""
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            self._add(name, self._merged_priors.pop(name), -1, False)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return an adapter's update, in the shape of the layer's weight."""
        return self._delta(adapter, self.prior_slot.of(adapter))

    def _delta(self, adapter: str, prior: Tensor | None) -> Tensor:
        delta = cast(Update, self.trex_experts[adapter]).delta_weight(prior)
        return delta.T if self.transposed else delta

    def _add(self, adapter: str, prior: Tensor | None, sign: int, safe: bool) -> None:
        if self.quantised:
            raise SettingsError(
                "the base is quantised, and an update cannot be merged into packed weights: merge into the base in 16 or 32 bits"
            )
        weight = cast(nn.Parameter, self.get_base_layer().weight)
        merged = weight.data + sign * self._delta(adapter, prior).to(weight)
        if safe and not torch.isfinite(merged).all():
            raise SettingsError(
                f"merging adapter {adapter!r} would give weights that are not finite; nothing was merged"
            )
        weight.data = merged

    def _freeze_non_trainable_peft_weights(self, adapter_names: Any = None) -> None:
        for experts in self.trex_experts.values():
            cast(Update, experts).freeze()


class TrexModel(BaseTuner):
    """A model whose layers have rank-one experts; made by ``peft.get_peft_model`` from a :class:`TrexConfig`."""

    prefix: str = "trex_"
    tuner_layer_cls = TrexLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's; a target is always named

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        if "prior_slot" not in self.__dict__:
            self._digest = base_digest(model)
        ours = cast(TrexConfig, config)
        if ours._trained_on is not None:
            check_base(ours._trained_on, self._digest)
        ours.base_digest = self._digest
        if "prior_slot" not in self.__dict__:
            self.prior_slot = PriorSlot()
            self._hook = model.register_forward_pre_hook(self.prior_slot.receive, with_kwargs=True)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adapt the layers that the configuration names."""
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except ValueError as error:
            if "not found in the base model" not in str(error):
                raise
            kinds = (nn.Linear, Conv1D, nn.Embedding)
            there = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, kinds)})
            named = getattr(self.peft_config.pop(adapter_name), "target_modules", None)
            raise SettingsError(
                f"target_modules={named!r} match no layer of this {type(model).__name__}: it has {', '.join(there)}"
            ) from None

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
        **optional: Any,
    ) -> None:
        if parameter_name is not None:
            raise SettingsError(f"{parameter_name} of {current_key}: rank-one experts go beside layers, not parameters")
        if is_bypassed(parent, target_name):
            warn(
                f"{current_key} is left out: torch's MultiheadAttention reads the weight of out_proj and never calls the layer, so "
                "an adapter there would do nothing"
            )
            return
        if encoder := find_encoder_layer(self.model, current_key):
            switch_off_fast_path(self.model, encoder)
        if isinstance(target, TrexLinear):
            target.update_layer(adapter_name, peft_config)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not isinstance(base, nn.Linear | Conv1D | nn.Embedding):
            raise SettingsError(
                f"{current_key} is a {type(base).__name__}; rank-one experts go beside Linear, Conv1D and Embedding"
            )
        layer = TrexLinear(target, self.prior_slot)
        layer.set_adapter(self.active_adapters)
        layer.update_layer(adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def generate(self, *args: Any, trex_prior: Any = None, **kwargs: Any) -> Any:
        """Generate with one prior for each prompt, given or computed from the prompt by the attached prior."""
        slot = self.prior_slot
        if trex_prior is None and slot.held is None and slot.compute is not None:
            prompt = kwargs if not args else {"input_ids": args[0], **kwargs}
            trex_prior = slot.compute(prompt)
        with slot.using(slot.held if trex_prior is None else trex_prior):  # an encoder is called past the model's hook
            return self.model.generate(*args, **kwargs)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        super()._unload_and_optionally_merge(*args, **kwargs)
        self._hook.remove()
        return self.model


def _register() -> None:
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[TrexType.TREX] = TrexConfig  # type: ignore[index]
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[TrexType.TREX] = TrexModel  # type: ignore[index]
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[TrexType.TREX] = TrexModel.prefix  # type: ignore[index]


_register()
