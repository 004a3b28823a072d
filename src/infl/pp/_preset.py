"""Defaults that scanpy's presets change (``scanpy.settings.preset``, from scanpy 1.13 on)."""

from typing import Any


def scanpy_default(function: str, parameter: str, otherwise: Any) -> Any:
    """Return the default of a scanpy function under the preset in force; `otherwise` where scanpy has no presets.

    Examples
    --------
    >>> scanpy_default("pca", "no such parameter", 5)
    5
    """
    from scanpy import settings

    of_function = getattr(getattr(settings, "preset", None), function, None)
    return getattr(of_function, parameter, otherwise)
