"""Where a model computes: on the processor, or on a CUDA device. It is chosen here, and nowhere else.

A module and its gradients lie on the device, and what leaves it is sealed, locked and kept on the processor. In between the code of a
task computes inside :func:`computing_on`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infl._isolation import Shared
from infl._settings import settings
from infl.errors import DataError, SettingsError

if TYPE_CHECKING:
    import torch

NAMES = re.compile(r"auto|cpu|cuda(:\d+)?")
"""What may be given as ``device=``."""


def device_named(name: str = "auto") -> torch.device:
    """Return the device of a name.

    Parameters
    ----------
    name
        ``"auto"``: what ``infl.settings.device`` says, and where that is ``"auto"`` too, the first CUDA device, if there is one that torch
        can use, else the processor. ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    SettingsError
        There is no such device here; the line says what there is.

    Examples
    --------
    >>> device_named("cpu")
    device(type='cpu')
    >>> device_named("mps")
    Traceback (most recent call last):
    infl.errors.SettingsError: device='mps': Apple's GPUs lack the double precision in which metrics are computed: give 'cpu'
    """
    import torch

    if name == "auto":
        name = settings.device
    if name == "auto":
        return _automatic()
    if name.partition(":")[0] == "mps":
        raise SettingsError(
            f"device={name!r}: Apple's GPUs lack the double precision in which metrics are computed: give 'cpu'"
        )
    if not NAMES.fullmatch(name):
        raise SettingsError(f"device={name!r}: give 'auto', 'cpu', 'cuda', or one of several such as 'cuda:1'")
    device = torch.device(name)
    n = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= n:
        there = f"torch sees {n} CUDA devices, from 'cuda:0' on" if n else "torch sees no CUDA device here"
        raise SettingsError(f"device={name!r}: {there}; give one that there is, or 'cpu'")
    if device.type == "cpu":
        return device
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # with it products are the same each time
    return torch.device("cuda", device.index or 0)


def _automatic() -> torch.device:
    import torch

    return device_named("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Have a task's code compute on a device: in full single precision (no TF32), and by algorithms that repeat themselves.

    What trains again, after it was cut off, has to send the same message.

    Examples
    --------
    >>> import torch
    >>> with computing_on(torch.device("cpu")):
    ...     torch.zeros(1).device
    device(type='cpu')
    """
    if device.type == "cpu":
        yield
        return
    from infl._following import Following

    with _EXACT, Following(device):
        _set_precision((*["ieee"] * len(_parts()), True, False, (True, True)))
        yield


def refuse_cupy(data: Any) -> None:
    """Refuse objects, or several by name, whose arrays lie on a GPU: training brings there what it needs, a batch at a time.

    Raises
    ------
    DataError
        An array is cupy's, as rapids-singlecell has them.
    """
    if "cupy" not in sys.modules:  # nobody can have made one
        return
    for name, one in data.items() if isinstance(data, Mapping) else (("the data", data),):
        for part in (one, *getattr(one, "mod", {}).values()):
            whole = part._adata_ref if getattr(part, "is_view", False) else part  # a view would copy its rows
            arrays = {"X": getattr(whole, "X", None)}
            arrays |= {f"{slot}[{k!r}]": v for slot in ("layers", "obsm") for k, v in getattr(whole, slot, {}).items()}
            for where, array in arrays.items():
                if type(array).__module__.partition(".")[0] in ("cupy", "cupyx"):
                    raise DataError(
                        f"{name}: {where} lies on the GPU ({type(array).__name__} of cupy): call "
                        "rapids_singlecell.get.anndata_to_CPU(adata) first; device= trains on the GPU all the same"
                    )


# -- no TF32 -----------------------------------------------------------------------------------------------------------
def _parts() -> tuple[Any, ...]:
    """Return what has a precision of its own: products, convolutions, and recurrent layers where torch tells them apart."""
    from torch import backends

    cudnn: Any = backends.cudnn
    return (backends.cuda.matmul, cudnn.conv, cudnn.rnn) if hasattr(cudnn, "conv") else (backends.cuda.matmul, cudnn)


def _field(part: Any) -> str:
    return "fp32_precision" if hasattr(part, "fp32_precision") else "allow_tf32"  # the latter before torch 2.9


def _precision() -> tuple[Any, ...]:
    """Return the precisions, and which algorithms may be used."""
    import torch

    found, cudnn = [getattr(part, _field(part)) for part in _parts()], torch.backends.cudnn
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *found, cudnn.deterministic, cudnn.benchmark, strict


def _set_precision(values: Sequence[Any]) -> None:
    import torch

    for part, value in zip(_parts(), values, strict=False):
        old = _field(part) == "allow_tf32" and value == "ieee"
        setattr(part, _field(part), False if old else value)
    cudnn: Any = torch.backends.cudnn
    *_, cudnn.deterministic, cudnn.benchmark, (strict, only_warns) = values
    torch.use_deterministic_algorithms(strict, warn_only=only_warns)


_EXACT = Shared(_precision, _set_precision)
