"""Names of a package that are imported when they are first used, while the garbage collector rests.

Loading torch and anndata makes some hundred thousand objects that stay. The collector would go through all of them again and again on the way and
find nothing: a tenth of the time to a first fit.
"""

from __future__ import annotations

import gc

import lazy_loader

TYPE_CHECKING = False  # without typing: `import infl` loads hardly more than itself
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def attach(package: str, **names: Any) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package; see :func:`lazy_loader.attach`."""
    find, listed, public = lazy_loader.attach(package, **names)

    def get(name: str) -> Any:
        if not gc.isenabled():
            return find(name)
        gc.disable()
        try:
            return find(name)
        finally:
            if not gc.get_freeze_count():  # nobody else has frozen objects, which would thaw
                gc.freeze()
                gc.unfreeze()  # what was loaded is old now, without a look at it
            gc.enable()

    return get, listed, public
