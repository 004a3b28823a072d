"""What FLARE's processes need to live for days: ``python -m infl.deploy.flare.process MODULE …`` runs one of them.

FLARE's messages are cycles of objects. Python looks for such among old objects only once these have grown by a quarter, and
torch alone brings a million; until then each round takes a tenth of a megabyte more.
"""

from __future__ import annotations

import ctypes
import gc
import runpy
import sys
import threading
import time

EVERY = 5.0
"""Seconds between two searches for what can be freed."""
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "GRPC_DNS_RESOLVER": "native"}
"""What FLARE's processes get, where whoever starts them has not said otherwise. gRPC's own resolver also asks a name server for names that
stand in ``/etc/hosts``, and waits for it where it cannot be reached, longer than a session does."""
LARGEST_FRAME = 64 << 20
"""Bytes that FLARE sets aside for a frame because of the size in its prefix; FLARE's own limit is 2 GB, its frames have about one MB."""


def keep_memory_flat() -> None:
    """Search for what can be freed every few seconds from now on; what is there now is for good, and is not searched."""
    gc.collect()
    gc.freeze()
    threading.Thread(target=_search, name="infl memory", daemon=True).start()


def _search() -> None:
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    while True:
        time.sleep(EVERY)
        gc.collect()
        if give_back is not None:
            give_back(0)


if __name__ == "__main__":
    del sys.argv[0]
    from nvflare.fuel.f3.drivers import socket_conn

    socket_conn.MAX_FRAME_SIZE = LARGEST_FRAME
    keep_memory_flat()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
