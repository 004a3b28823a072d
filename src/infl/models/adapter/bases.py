"""Pretrained transformers that adapters are put on: found by name, never by a path or by code in a model file."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from torch import nn

from infl._settings import settings
from infl.errors import DataError, MissingExtraError, SettingsError

GROUP = "infl.bases"
"""Entry points of functions without arguments that return a transformers model and its tokenizer."""


@dataclass(frozen=True)
class Base:
    """A pretrained model without a head, its tokenizer, and what tells it from others.

    Attributes
    ----------
    digest
        SHA-256 of its weights: an adapter is of use on this model only.
    """

    model: nn.Module
    tokenizer: Any
    digest: str

    @property
    def width(self) -> int:
        """Size of the hidden state."""
        return int(cast(Any, self.model).config.hidden_size)

    def copy(self) -> nn.Module:
        """Return a model of one's own to adapt."""
        return copy.deepcopy(self.model)

    def vocabulary(self, features: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each feature's name; none of a name that the tokenizer does not know.

        Raises
        ------
        DataError
            It knows fewer than half of the names.
        """
        unknown = self.tokenizer.unk_token_id
        encoded = self.tokenizer([f" {name}" for name in features], add_special_tokens=False)["input_ids"]
        tokens = [[] if unknown in ids else list(ids) for ids in encoded]
        lost = [name for name, ids in zip(features, tokens, strict=True) if not ids]
        if len(lost) > len(features) / 2:
            raise DataError(
                f"the base model's tokenizer knows {len(features) - len(lost)} of {len(features)} features, not {lost[0]!r}: "
                "rename var_names to the names that it was trained with"
            )
        return tokens

    @property
    def first(self) -> list[int]:
        """The token that begins a sentence, if there is one."""
        for token in (self.tokenizer.cls_token_id, self.tokenizer.bos_token_id):
            if token is not None:
                return [token]
        return []


def name_of(base: str) -> str:
    """Return the name of a base that its user gives by name or by folder; a folder gets its own name as that of the base.

    Raises
    ------
    SettingsError
        Another folder has that name already.
    """
    folder = Path(base).expanduser()
    if not base or is_known(base) or not (folder / "config.json").is_file():
        return base
    folder = folder.resolve()
    known = settings.bases.setdefault(folder.name, folder)
    if Path(known).expanduser().resolve() != folder:
        raise SettingsError(
            f"base={base!r} would be called {folder.name!r}, which is {known} here: choose a name, and set "
            "infl.settings.bases[name] to the folder"
        )
    return folder.name


def is_known(base: str) -> bool:
    """Whether a name of a base means something here."""
    return base in settings.bases or any(point.name == base for point in entry_points(group=GROUP))


def place_base(name: str, digest: str, folder: str | Path) -> None:
    """Let the name of a base mean a folder here, if the folder has that very base.

    Raises
    ------
    SettingsError
        It has no base or another one, or the name means something else here.
    """
    folder = Path(folder).expanduser().resolve()
    if is_known(name) and Path(settings.bases.get(name, "")).expanduser().resolve() != folder:
        raise SettingsError(
            f"base={str(folder)!r}: {name!r} is known here already, as {settings.bases.get(name, 'a package')}"
        )
    _need_extra()
    found = _load(name, str(folder))
    if found.digest != digest:
        raise SettingsError(f"base={str(folder)!r} is another base model than the one that this adapter was fitted on")
    settings.bases[name] = folder


def load_base(base: str) -> Base:
    """Load the base model that a name means here.

    A name comes with messages and model files. Which folder it means is for those to say whose machine this is, by
    ``infl.settings.bases``, or by an installed package with an entry point of the group ``infl.bases``; a path is not followed.

    Parameters
    ----------
    base
        The name. Its folder has a model and a tokenizer, as ``save_pretrained`` writes them; code in it is not run.

    Returns
    -------
    Base
        The model without a head, its tokenizer and its digest; kept for the next call.

    Raises
    ------
    SettingsError
        There is no such folder or entry point, or it has no model.
    MissingExtraError
        transformers is not installed.

    Examples
    --------
    >>> load_base("nowhere")
    Traceback (most recent call last):
    infl.errors.SettingsError: base='nowhere' is not known here: set infl.settings.bases['nowhere'] to the folder ...
    """
    if not base:
        raise SettingsError("model='adapter' needs base=, the folder of a transformers model with its tokenizer")
    if not is_known(base):
        raise SettingsError(
            f"base={base!r} is not known here: set infl.settings.bases[{base!r}] to the folder of the transformers model (at a "
            "site, [bases] in policy.toml)"
        )
    _need_extra()
    return _load(base, str(settings.bases.get(base, "")))


def _need_extra() -> None:
    if find_spec("transformers") is None or find_spec("peft") is None:
        raise MissingExtraError("adapters need PEFT and transformers: pip install 'infl[trex]'")


@lru_cache(maxsize=4)
def _load(base: str, folder: str) -> Base:
    if folder:
        model, tokenizer = _from_folder(Path(folder).expanduser())
    else:
        (point,) = (point for point in entry_points(group=GROUP) if point.name == base)
        model, tokenizer = point.load()()
    return Base(*_without_unused(model.float().eval(), tokenizer))


def _without_unused(model: nn.Module, tokenizer: Any) -> tuple[nn.Module, Any, str]:
    """Return the part that makes hidden states of a text (of an encoder with a decoder, the encoder), and the whole's digest."""
    digest = digest_of(model)
    inner: Any = model
    if inner.config.is_encoder_decoder:
        inner = inner.get_encoder()
    if getattr(inner, "pooler", None) is not None:
        inner.pooler = None  # what it makes is not used, and an adapter on it would never learn
    return inner, tokenizer, digest


def _from_folder(folder: Path) -> tuple[nn.Module, Any]:
    from transformers import AutoModel, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise SettingsError(f"base={str(folder)!r} is no folder with a transformers model and its tokenizer")
    if "quantization_config" in json.loads((folder / "config.json").read_text()):
        raise SettingsError(
            f"base={str(folder)!r} is quantised: model='adapter' needs weights in 16 or 32 bits (4-bit bases: infl.nn.trex with PEFT)"
        )
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SettingsError(f"base={str(folder)!r} cannot be loaded: {error}") from None
    return model, tokenizer


def digest_of(model: nn.Module) -> str:
    """Return SHA-256 over names and values of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
