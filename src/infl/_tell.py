"""Lines for people on standard error, as many as ``infl.settings.verbosity`` asks for; the levels are scanpy's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infl._settings import settings

if TYPE_CHECKING:
    from infl._types import Data

_silent = 0
_said: set[str] | None = None
FIELDS = ("obs", "var", "obsm", "varm", "obsp", "layers", "uns")


def warning(line: str) -> None:
    """Log what a user should act on (verbosity 1, the default)."""
    _say(1, line)


def info(line: str) -> None:
    """Log what begins, and the result (verbosity 2)."""
    _say(2, line)


def hint(line: str) -> None:
    """Log where results are (verbosity 3)."""
    _say(3, line)


def debug(line: str) -> None:
    """Log progress (verbosity 4)."""
    _say(4, line)


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing meanwhile, in any thread: of fits that the user did not ask for."""
    global _silent
    _silent += 1
    try:
        yield
    finally:
        _silent -= 1


@contextmanager
def once() -> Iterator[None]:
    """Log each line once meanwhile: of many fits of the same data."""
    global _said
    before = _said
    _said = set() if before is None else before
    try:
        yield
    finally:
        _said = before


def _say(level: int, line: str) -> None:
    if _said is not None and line in _said:
        return
    if not _silent and int(settings.verbosity) >= level:
        if _said is not None:
            _said.add(line)
        print(f"infl: {line}", file=sys.stderr)


@contextmanager
def added(objects: Mapping[str, Data]) -> Iterator[None]:
    """Log which fields were added to the objects meanwhile; below that verbosity nothing is compared."""
    if int(settings.verbosity) < 3:
        yield
        return
    before = {name: _fields(adata) for name, adata in objects.items()}
    yield
    for name, adata in objects.items():
        new = [field for field in _fields(adata) if field not in before[name]]
        hint(f"{name}: added {', '.join(new)}" if new else f"{name}: written anew, nothing added")


def _fields(adata: Data) -> list[str]:
    """Return the names of what an object holds, as they are typed.

    Examples
    --------
    >>> import infl
    >>> _fields(infl.datasets.khan())
    ["obs['tumour_class']", "obs['published_split']", "uns['source']"]
    """
    modalities = getattr(adata, "mod", {})
    parts = {"": adata} | {f"mod[{name!r}].": modality for name, modality in modalities.items()}
    held = {(prefix, field): getattr(part, field, None) for prefix, part in parts.items() for field in FIELDS}
    return [
        f"{prefix}{field}[{key!r}]"
        for (prefix, field), keys in held.items()
        if keys is not None
        for key in keys
        if key is not None  # X is among anndata 0.13's layers, under None
    ]
