"""What a computation must not depend on: torch's defaults and its global generator, which belong to the user.

torch's default dtype and its generator are the process's, not a thread's. Those who compute at the same time share one
saved state: the first one in saves it, the last one out restores it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


class Shared:
    """A setting of the process that several threads change for a while.

    Parameters
    ----------
    get, put
        Read it, and set it.

    Examples
    --------
    >>> state = {"value": 2}
    >>> shared = Shared(lambda: state["value"], lambda value: state.update(value=value))
    >>> with shared as before:
    ...     state["value"] = 1
    >>> before, state["value"]
    (2, 2)
    """

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], object]) -> None:
        self._get, self._put = get, put
        self._guard, self._users, self._before = threading.Lock(), 0, None

    def __enter__(self) -> Any:
        """Return what it was before anyone changed it."""
        with self._guard:
            if not self._users:
                self._before = self._get()
            self._users += 1
            return self._before

    def __exit__(self, *_: object) -> None:
        """Restore it when no other use of the change is left."""
        with self._guard:
            self._users -= 1
            if not self._users:
                self._put(self._before)


def _dtype() -> Any:
    import torch

    return torch.get_default_dtype()


def _set_dtype(dtype: Any) -> None:
    import torch

    torch.set_default_dtype(dtype)


_DTYPE = Shared(_dtype, _set_dtype)
_GENERATOR = threading.RLock()


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Compute with the defaults that torch comes with: float32 on the processor, with gradients, not in half precision."""
    if "torch" not in sys.modules:  # nobody can have changed them, and importing it takes a second
        yield
        return
    import torch

    with ExitStack() as stack:
        stack.enter_context(_DTYPE)
        torch.set_default_dtype(torch.float32)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.is_autocast_enabled("cpu"):
            stack.enter_context(torch.autocast("cpu", enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def torch_seed(seed: int | None = None) -> Iterator[None]:
    """Draw from torch's global generator, from `seed` on, as if no one else did; what it was is restored."""
    import torch

    with _GENERATOR, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield
