"""How commands that stay up are asked to end: by Ctrl-C, by SIGTERM of a service manager, by a terminal that is closed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def asked_to_end(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` at the first signal; the second interrupts, so that what was started is put away, and no other one does.

    Raises
    ------
    KeyboardInterrupt
        At the second signal.
    """
    seen = 0

    def handle(number: int, frame: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            end()
        elif seen == 2:
            raise KeyboardInterrupt

    before = [signal.signal(number, handle) for number in NUMBERS]
    try:
        yield
    finally:
        for number, handler in zip(NUMBERS, before, strict=True):
            signal.signal(number, handler)
