"""Package-wide settings: the one piece of global state.

Each has an environment variable of the same name in capitals with the prefix ``INFL_``.
"""

import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infl.errors import SettingsError

LEVELS = ("error", "warning", "info", "hint", "debug")
"""Names of the levels of verbosity, from 0, as in scanpy."""


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


def _folders(variable: str) -> dict[str, Path]:
    pairs = (pair.partition("=") for pair in os.environ.get(variable, "").split(os.pathsep) if pair)
    return {name: Path(place).expanduser() for name, _, place in pairs}


@dataclass
class Settings:
    """Where data and pretrained models are, and how much is logged.

    Attributes
    ----------
    data_dir
        Folder with the public data sets of :mod:`infl.datasets`, looked in before anything is downloaded
        (``INFL_DATA_DIR``; default: none).
    data_url
        Mirror of that folder, from which a missing file is fetched and verified (``INFL_DATA_URL``; default: none).
    cache_dir
        Where downloads are kept (``INFL_CACHE_DIR``; default: the operating system's cache folder).
    bases
        What names of pretrained transformers mean here: folders by name (``INFL_BASES="name=folder:name=folder"``). Messages
        and model files bring names alone.
    backbones
        What names of image models mean here: functions that return a torch module, by name.
    tasks
        What names of tasks mean in this process where no installed package says so: classes by name. A task that is given to
        a fit as an object puts its class here; set one yourself to use a model file of a class of your own.
    identity
        Your age identity, which opens the key files made for you (``INFL_IDENTITY``; default:
        ``~/.config/infl/identity.key``).
    progress
        Show progress bars (``INFL_PROGRESS=0`` switches them off; default: when standard error is a terminal).
    device
        Where models compute by default: ``"auto"``, a CUDA device where there is one and else the processor; or ``"cpu"``, ``"cuda"``,
        ``"cuda:1"`` (``INFL_DEVICE``; default: ``"auto"``).
    disclosure
        Rules of disclosure that bind every sum over sites: an :class:`infl.privacy.Disclosure` (default: none).
    verbosity
        How much is logged to standard error, as in scanpy: 0 or ``"error"``, 1 or ``"warning"``, 2 or ``"info"`` (what begins
        and what came out), 3 or ``"hint"`` (where results were written), 4 or ``"debug"`` (each round) (``INFL_VERBOSITY``; default: 1). Errors and Python's warnings are not affected.

    Examples
    --------
    >>> import infl
    >>> infl.settings.progress = False
    >>> infl.settings.verbosity = "warning"
    >>> infl.settings.verbosity
    1
    """

    data_dir: Path | None = field(default_factory=lambda: _folder("INFL_DATA_DIR"))
    data_url: str | None = field(default_factory=lambda: os.environ.get("INFL_DATA_URL") or None)
    cache_dir: Path | None = field(default_factory=lambda: _folder("INFL_CACHE_DIR"))
    bases: dict[str, Path] = field(default_factory=lambda: _folders("INFL_BASES"))
    backbones: dict[str, Callable[..., Any]] = field(default_factory=dict)
    tasks: dict[str, type] = field(default_factory=dict)
    identity: Path | None = field(default_factory=lambda: _folder("INFL_IDENTITY"))
    progress: bool | None = field(
        default_factory=lambda: None if "INFL_PROGRESS" not in os.environ else os.environ["INFL_PROGRESS"] != "0"
    )
    device: str = field(default_factory=lambda: os.environ.get("INFL_DEVICE") or "auto")
    disclosure: Any = None
    verbosity: int | str = field(default_factory=lambda: os.environ.get("INFL_VERBOSITY") or "warning")

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, _level(value) if name == "verbosity" else value)


def _level(value: object) -> int:
    """Return the number of a level of verbosity.

    Examples
    --------
    >>> _level("info"), _level("3"), _level(0)
    (2, 3, 0)
    """
    text = str(value).lower()
    if text in LEVELS:
        return LEVELS.index(text)
    if text.isdecimal() and int(text) < len(LEVELS):
        return int(text)
    raise SettingsError(f"verbosity={value!r}: give 0 to {len(LEVELS) - 1}, or one of {', '.join(map(repr, LEVELS))}")


settings = Settings()

_blocks: list[Any] = []
"""Rules of all ``with`` blocks of this process that have not ended, the newest last."""
_own: ContextVar[tuple[Any, ...]] = ContextVar("_own", default=())
"""Those of this thread."""


def rules_in_force() -> Any:
    """Return the rules of disclosure that bind this thread, None where there are none.

    They are those of the innermost ``with`` block of the thread itself; in a thread that has none, of the newest block of the
    process, so that threads begun inside a block are bound as well; and else those of the settings.
    """
    own = _own.get() or tuple(_blocks)
    return own[-1] if own else settings.disclosure


def bind(rules: Any) -> None:
    """Put rules of disclosure in force, for a block of this thread."""
    _own.set((*_own.get(), rules))
    _blocks.append(rules)


def unbind(rules: Any) -> None:
    """End the innermost block of this thread, which has these rules; blocks of several threads may end in any order."""
    _own.set(_own.get()[:-1])
    del _blocks[max(i for i, block in enumerate(_blocks) if block is rules)]
