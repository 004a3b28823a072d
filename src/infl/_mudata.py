"""What differs between releases of mudata."""

from __future__ import annotations

from contextlib import AbstractContextManager


def without_pull() -> AbstractContextManager[object]:
    """Have ``MuData`` not pull columns of the modalities into the joint tables, for this block.

    mudata 0.4 pulls nothing unless the user's settings ask for it, and has ``settings``; before it, there was ``set_options``.
    """
    import mudata

    if hasattr(mudata, "set_options"):
        return mudata.set_options(pull_on_update=False)
    return mudata.settings.override(pull_on_update=False)
