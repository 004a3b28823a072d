"""The published INFL mechanism: every linear layer conditioned on one code of secret coordinates.

A key stands for 128 secret points in the square [−1, 1]². A small network maps each point to 16 numbers, and their mean
is the code that scales and shifts the rows of every linear layer, and modulates the layer's output together with the
activation (:class:`infl.nn.film.FiLM`). Without the points the modulation is left out.

It is here so that the paper can be reproduced and compared with, and is never the default. What was measured on real
data, with this mechanism rebuilt from the paper's formulas and attacked:

- A *wrong random key* is not shown to classify worse than the right one: the mean of many points is nearly the same for
  every key. Only the path without a key collapses.
- It is less accurate than the same network without keys, and takes longer to train (``benchmarks/published.py`` measures
  how much; docs/concepts/published.md has the figures).
- From one keyed gradient a patient's whole profile is recovered with correlation 1.0 (a row of ∂W divided by its ∂b),
  with no knowledge of the key.

In the published code the coordinates are a buffer, so they travel to the server with the weights. Here they are given
from outside by :func:`set_coordinates` and are in no ``state_dict``, parameter, buffer, repr or pickle.

References
----------
Zhang et al. 2026, *Key-embedded privacy for decentralized AI in biomedical omics*, arXiv 2603.28334.
"""

from __future__ import annotations

import copy
import math
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from infl._warn import warn
from infl.errors import KeyringError, SettingsError
from infl.nn.film import FILM_CODE_SIZE, FILM_INITIAL_STD, FiLM

N_POINTS = 128
ROW_CODE_SIZE = 8

STRENGTH = MappingProxyType({"classification": 20.0, "perturbation": 5.0, "spatial": 1.0, "multi-omics": 1.0})
"""The published strength k of each task."""
LOCAL_EPOCHS = MappingProxyType({"classification": 50, "perturbation": 2})
"""The published number of local epochs of each task, where the paper has one."""
PUBLISHED_TASK = MappingProxyType(
    {"perturbation": "perturbation", "histology": "spatial", "spatial": "spatial", "mosaic": "multi-omics"}
)
"""Which of the published tasks one of ours is, by name; all others are classification."""


def coordinates(subkey: bytes) -> Tensor:
    """Return the secret points (128, 2) in [−1, 1]² of a 32-byte subkey, from its ChaCha20 stream.

    Parameters
    ----------
    subkey
        Of 32 bytes, from :meth:`infl.keys.Keyring.subkey`.

    Examples
    --------
    >>> points = coordinates(bytes(range(32)))
    >>> points.shape, bool((points.abs() <= 1).all())
    (torch.Size([128, 2]), True)
    """
    if len(subkey) != 32:
        raise KeyringError(f"coordinates need a subkey of 32 bytes and got {len(subkey)}: take it from Keyring.subkey")
    stream = Cipher(ChaCha20(subkey, bytes(16)), mode=None).encryptor()
    words = np.frombuffer(stream.update(bytes(4 * 2 * N_POINTS)), dtype="<u4").reshape(N_POINTS, 2)
    return torch.from_numpy((words / (2**31 - 0.5) - 1).astype(np.float32))


class KeyEncoder(nn.Sequential):
    """Network from points to the code that all layers share: Linear, SiLU, Linear, SiLU, LayerNorm, mean.

    Examples
    --------
    >>> KeyEncoder()(coordinates(bytes(32))).shape
    torch.Size([16])
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(2, FILM_CODE_SIZE),
            nn.SiLU(),
            nn.Linear(FILM_CODE_SIZE, FILM_CODE_SIZE),
            nn.SiLU(),
            nn.LayerNorm(FILM_CODE_SIZE),
        )

    def forward(self, points: Tensor) -> Tensor:
        """Map points (n_points, 2) to the code (16,)."""
        return super().forward(points).mean(dim=0)


class _Key:
    """Where the coordinates are while a module computes: shared by its keyed layers, seen by nothing that saves.

    A plain object, so that torch takes neither the points for a buffer nor the encoder for a part of each layer.
    """

    def __init__(self, encoder: KeyEncoder) -> None:
        self.encoder = encoder
        self.points: Tensor | None = None
        self._code: Tensor | None = None  # of the forward pass under way

    def open(self) -> None:
        """Compute the code once for a whole forward pass."""
        self._code = None if self.points is None else self._encode(self.points)

    def close(self) -> None:
        """Forget the code of the pass, and with it the graph that it hangs on."""
        self._code = None

    def code(self) -> Tensor | None:
        """Return the code (16,), or None without a key."""
        if self.points is None or self._code is not None:
            return self._code
        return self._encode(self.points)  # a layer used outside its root's forward pass

    def _encode(self, points: Tensor) -> Tensor:
        weight = next(self.encoder.parameters())
        return self.encoder(points.to(weight.device, weight.dtype))

    def __getstate__(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "points": None, "_code": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Key:
        # A copy within the process keeps its key; __getstate__ would drop it.
        copied = memo[id(self)] = _Key.__new__(_Key)
        copied.points, copied._code = self.points, None
        copied.encoder = copy.deepcopy(self.encoder, memo)
        return copied

    def __repr__(self) -> str:
        return f"<coordinates {'set' if self.points is not None else 'not set'}>"


class KeyedLinear(nn.Linear):
    """A linear layer whose rows are scaled and shifted by the key's code, with FiLM after it.

    ``W_eff = W (1 + k tanh scale)`` for each output row and ``b_eff = b + k tanh shift``; ``scale`` and ``shift`` are
    a linear function of ``LayerNorm(SiLU(Linear(code)))``, a code of 8 numbers. Weight and bias keep the names and the
    parameter objects of the layer that is wrapped. Without coordinates the layer is the wrapped one.

    Parameters
    ----------
    linear
        The layer to wrap.
    key
        The key shared by the layers of a module (see :func:`apply_published`).
    strength
        Factor k.

    Examples
    --------
    >>> from torch import nn
    >>> module = apply_published(nn.Sequential(nn.Linear(4, 3)), strength=0.5)
    >>> isinstance(module[0], KeyedLinear), module[0].weight.shape
    (True, torch.Size([3, 4]))
    """

    def __init__(self, linear: nn.Linear, key: _Key, strength: float) -> None:
        nn.Module.__init__(self)  # a Linear by type only: modules of others ask for the type before they add covariates
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.strength = float(strength)
        self.weight, self.bias = linear.weight, linear.bias
        modulation = nn.Linear(ROW_CODE_SIZE, 2 * self.out_features)
        nn.init.normal_(modulation.weight, std=FILM_INITIAL_STD)
        nn.init.zeros_(modulation.bias)
        self.rows = nn.Sequential(
            nn.Linear(FILM_CODE_SIZE, ROW_CODE_SIZE), nn.SiLU(), nn.LayerNorm(ROW_CODE_SIZE), modulation
        )
        self.film = FiLM(self.out_features, strength)
        self.key = key
        self.to(linear.weight.device, linear.weight.dtype)
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        code = self.key.code()
        if code is None:
            return F.linear(x, self.weight, self.bias)
        scale, shift = torch.tanh(self.rows(code)).chunk(2)  # (out_features,) each
        shift = self.strength * shift if self.bias is None else self.bias + self.strength * shift
        # (W ⊙ s) x = s ⊙ (W x): the rows' factors on the output, of batch size, not on the weights.
        h = torch.addcmul(shift, F.linear(x, self.weight), 1 + self.strength * scale)
        return self.film(h, code)

    def extra_repr(self) -> str:
        """Sizes and strength, for ``repr``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"strength={self.strength:g}"
        )


def apply_published(module: nn.Module, strength: float) -> nn.Module:
    """Condition every linear layer of a module on one key, in place.

    Layers that were one object stay one, and the names of all weights that the module had stay as they are; the encoder
    is part of the first keyed layer. New weights come from torch's global generator.

    Parameters
    ----------
    module
        Any module with at least one :class:`torch.nn.Linear`.
    strength
        Factor k of the published formulas (:data:`STRENGTH`); with 0 the module computes what it did before.

    Returns
    -------
    The module, or a new one where it is itself a linear layer. It has no coordinates yet.

    Raises
    ------
    SettingsError
        Negative strength, no linear layer, a layer that is not initialised or already parametrised, applied twice.

    Examples
    --------
    >>> from torch import nn
    >>> net = apply_published(nn.Sequential(nn.Linear(30, 8), nn.SiLU(), nn.Linear(8, 4)), STRENGTH["classification"])
    >>> set_coordinates(net, coordinates(bytes(range(32))))
    >>> [name for name in net.state_dict() if "points" in name]
    []
    """
    if not (math.isfinite(strength) and strength >= 0):
        raise SettingsError(f"strength={strength} of the published mechanism: give a finite number from 0 upwards")
    if any(isinstance(part, KeyedLinear) for part in module.modules()):
        raise SettingsError("the published mechanism is already applied to this module: apply it once")
    keyable = _keyable_layers(module)
    if not keyable:
        raise SettingsError(
            f"{type(module).__name__} has no linear layer that is called: nothing to condition on a key"
        )

    weight = keyable[0].weight
    encoder = KeyEncoder().to(weight.device, weight.dtype).train(module.training)
    key = _Key(encoder)
    keyed: dict[nn.Module, KeyedLinear] = {linear: KeyedLinear(linear, key, strength) for linear in keyable}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child in keyed:
                parent._modules[name] = keyed[child]
        # The fused path of transformers in eval mode reads weights and calls no layer.
        if isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0
        elif isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False
    keyed[keyable[0]].encoder = encoder  # not at the root: a Sequential would call it
    root = keyed.get(module, module)
    root.__dict__["_published_key"] = key
    root.register_forward_pre_hook(_open)
    root.register_forward_hook(_close, always_call=True)
    return root


def set_coordinates(module: nn.Module, points: Tensor | None) -> None:
    """Hand the secret points to a module, or take them away.

    They stay with the module and its deep copies until they are taken away, and are dropped when it is pickled or saved.

    Parameters
    ----------
    module
        From :func:`apply_published`, or a module with such parts.
    points
        Shape (n_points, 2), from :func:`coordinates`. None removes the keyed path: plain weights, no FiLM.

    Raises
    ------
    SettingsError
        The module has no keyed layer, or the points have another shape.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> module = apply_published(nn.Sequential(nn.Linear(4, 3)), strength=0.5)
    >>> x = torch.ones(1, 4)
    >>> plain = module(x)
    >>> set_coordinates(module, coordinates(bytes(range(32))))
    >>> torch.equal(module(x), plain)
    False
    >>> set_coordinates(module, None)
    >>> torch.equal(module(x), plain)
    True
    """
    keys = {id(part.key): part.key for part in module.modules() if isinstance(part, KeyedLinear)}
    if not keys:
        raise SettingsError("set_coordinates needs a module with keyed layers: call apply_published on it first")
    if points is not None and (points.ndim != 2 or points.shape[1] != 2 or len(points) == 0):
        raise SettingsError(f"coordinates of shape {tuple(points.shape)}: give points in the plane, (n_points, 2)")
    for key in keys.values():
        key.points = None if points is None else points.detach().clone()


def _keyable_layers(module: nn.Module) -> list[nn.Linear]:
    """Return the linear layers, once each, that the module calls."""
    # Attention reads the weights of its output projection and never calls it.
    uncalled = {part.out_proj for part in module.modules() if isinstance(part, nn.MultiheadAttention)}
    if uncalled:
        warn("the output projections of MultiheadAttention stay as they are: attention does not call them as layers")
    found = []
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear) or part in uncalled:
            continue
        if is_lazy(part.weight):
            raise SettingsError(f"layer '{name}' is not initialised: run the module once on a batch first")
        if part._forward_hooks or part._forward_pre_hooks or type(part).forward is not nn.Linear.forward:
            raise SettingsError(
                f"layer '{name}' is a linear layer with hooks or a forward of its own: remove those first"
            )
        if is_parametrized(part):
            raise SettingsError(f"layer '{name}' is parametrised: apply the published mechanism before that")
        found.append(part)
    return found


def _open(root: nn.Module, args: object) -> None:
    cast(_Key, root._published_key).open()


def _close(root: nn.Module, args: object, output: object) -> None:
    cast(_Key, root._published_key).close()
