"""What each parameter of a public function may be, and the door at which that is checked.

:data:`PARAMETERS` declares the parameters that public functions share; a task declares its own options in
:attr:`infl.models.Task.parameters`. What numpy made comes in as plain Python values, whatever is wrong as one line.
Longer than other files: it is one class for each kind of parameter, and the one door that they are checked at.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np

from infl._device import refuse_cupy
from infl._isolation import torch_defaults
from infl._lazy import read_tables
from infl._settings import rules_in_force
from infl._unruled import unruled
from infl.errors import DataError, InflError, SettingsError

P = ParamSpec("P")
R = TypeVar("R")


class _Refused(Exception):
    """The value is not of the kind."""


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """What a parameter may be.

    Parameters
    ----------
    none
        None is allowed, too.
    says
        What to give, in words (default: made from the kind).
    """

    none: bool = False
    says: str = ""

    @property
    @abstractmethod
    def wants(self) -> str:
        """What to give, in words."""

    @abstractmethod
    def take(self, value: Any) -> Any:
        """Return the value as plain Python, or raise."""

    @property
    def error(self) -> type[InflError]:
        """Kind of the error."""
        return SettingsError

    def read(self, name: str, value: Any, where: str = "") -> Any:
        """Return the value as plain Python.

        Raises
        ------
        InflError
            It is not of the kind; the line says what to give.

        Examples
        --------
        >>> Whole(1).read("rounds", np.int64(3))
        3
        >>> Whole(1).read("rounds", 0)
        Traceback (most recent call last):
        infl.errors.SettingsError: rounds=0: give a whole number of at least 1
        """
        if value is None and self.none:
            return None
        try:
            return self.take(plain(value))
        except _Refused:
            wants = self.says or self.wants
            raise self.error(f"{where}{name}={shown(value)}: give {wants}{', or None' * self.none}") from None


def plain(value: Any) -> Any:
    """Return a scalar of numpy or torch as plain Python; a rate of float32 by the decimal number that it shows.

    Examples
    --------
    >>> plain(np.int64(3)), plain(np.float32(0.01)), plain(np.array(True)), plain("a")
    (3, 0.01, True, 'a')
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value[()] if isinstance(value, np.ndarray) else value
        return float(str(value)) if isinstance(value, np.floating) else getattr(value, "item", lambda: value)()
    return value


def shown(value: Any) -> str:
    """Return a value for a line: short ones as they are typed, others by their type."""
    if value is None or isinstance(value, str | int | float | list | tuple | dict | np.generic | os.PathLike):
        text = " ".join(repr(value).split())
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"<{type(value).__name__}>"


def _is_number(value: Any, types: Any) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number."""

    low: int | None = None
    high: int | None = None

    @property
    def wants(self) -> str:
        low = "" if self.low is None else f" of at least {self.low}"
        return f"a whole number{low}" + ("" if self.high is None else f", at most {self.high}")

    def take(self, value: Any) -> int:
        if not _is_number(value, int):
            raise _Refused
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise _Refused
        return int(value)


@dataclass(frozen=True)
class Jobs(Kind):
    """How many processes; negative as joblib counts them."""

    @property
    def wants(self) -> str:
        return "a whole number of at least 1, or -1 for one per core"

    def take(self, value: Any) -> int:
        if not _is_number(value, int) or value == 0:
            raise _Refused
        return int(value)


@dataclass(frozen=True)
class Real(Kind):
    """A number between two bounds, which belong to it unless they are `open`: ``"low"``, ``"high"`` or ``"both"``.

    It is finite, unless it may be `infinite`.
    """

    low: float = -math.inf
    high: float = math.inf
    open: str = ""
    infinite: bool = False

    @property
    def wants(self) -> str:
        above, below = self.open in ("low", "both"), self.open in ("high", "both")
        if self.high == math.inf:
            return (
                "a number" if self.low == -math.inf else f"a number {'above' if above else 'of at least'} {self.low:g}"
            )
        return f"a number {'above' if above else 'from'} {self.low:g} {'to below' if below else 'up to'} {self.high:g}"

    def take(self, value: Any) -> float:
        if not _is_number(value, int | float) or not self.low <= value <= self.high:
            raise _Refused
        if math.isinf(value) and not self.infinite:
            raise _Refused
        if (value == self.low and self.open in ("low", "both")) or (
            value == self.high and self.open in ("high", "both")
        ):
            raise _Refused
        return value  # a whole number stays one: it is written to files as it was given


@dataclass(frozen=True)
class Flag(Kind):
    """True or False; nothing else counts as one of them."""

    @property
    def wants(self) -> str:
        return "True or False"

    def take(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise _Refused
        return value


@dataclass(frozen=True)
class Choice(Kind):
    """One of some names."""

    names: tuple[str, ...] = ()

    @property
    def wants(self) -> str:
        return f"one of {', '.join(map(repr, self.names))}"

    def take(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.names:
            raise _Refused
        return str.__str__(value)


@dataclass(frozen=True)
class Text(Kind):
    """A name, or a text that may be `empty`, or the path of a file with `path`."""

    empty: bool = False
    path: bool = False

    @property
    def wants(self) -> str:
        return "a path" if self.path else "a text" if self.empty else "a name, as text"

    def take(self, value: Any) -> str:
        if self.path and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not (value or self.empty):
            raise _Refused
        return str.__str__(value)


@dataclass(frozen=True)
class Device(Text):
    """A device by its name, or as torch has it; whether it is here, :func:`infl._device.device_named` finds out."""

    @property
    def wants(self) -> str:
        return "'auto', 'cpu', 'cuda', or one of several such as 'cuda:1'"

    def take(self, value: Any) -> str:
        return super().take(str(value) if type(value).__module__ == "torch" else value)


@dataclass(frozen=True)
class Key(Kind):
    """A name under which results are written into an object, that h5ad and zarr files can hold."""

    @property
    def wants(self) -> str:
        return "a name, as text, without '/' or '\\', that files can hold"

    def take(self, value: Any) -> str:
        wrong = not isinstance(value, str) or value.strip() in ("", ".", "..") or not value.isprintable()
        if wrong or "/" in value or "\\" in value:
            raise _Refused
        return str.__str__(value)


@dataclass(frozen=True)
class Names(Kind):
    """One name or several different ones, as a tuple."""

    empty: bool = False

    @property
    def wants(self) -> str:
        return "names, as text, each of them once"

    def take(self, value: Any) -> tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        if not isinstance(names, Iterable) or isinstance(names, Mapping | bytes):
            raise _Refused
        names = tuple(names)
        if not (names or self.empty) or not all(isinstance(name, str) and (name or self.empty) for name in names):
            raise _Refused
        if len(set(names)) < len(names):
            raise _Refused
        return tuple(str.__str__(name) for name in names)


@dataclass(frozen=True)
class Several(Kind):
    """Several values of a kind, as a list; with `count`, one whole number says how many, from 0 on."""

    kind: Kind
    count: bool = False

    @property
    def wants(self) -> str:
        return f"{'how many, or ' * self.count}at least one value, each {self.kind.wants}"

    def take(self, value: Any) -> list[Any]:
        if self.count and _is_number(value, int) and value >= 1:
            return list(range(value))
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | set):
            raise _Refused  # a set has no order
        values = [self.kind.take(plain(one)) for one in value]
        if not values or len(set(values)) < len(values):
            raise _Refused
        return values


@dataclass(frozen=True)
class Options(Kind):
    """Settings by name."""

    @property
    def wants(self) -> str:
        return "a dict of settings by name"

    def take(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise _Refused
        return {name: plain(one) for name, one in value.items()}


class Renamed(Options):
    """New names by name; text that stands for no value is none."""

    def take(self, value: Any) -> dict[str, Any]:
        names = super().take(value)
        if any(not isinstance(new, str) or new.strip() in NO_VALUE for new in names.values()):
            raise _Refused
        return names


@dataclass(frozen=True)
class Having(Kind):
    """An object with some methods, where its class cannot be imported here."""

    methods: tuple[str, ...] = ()
    of_data: bool = False

    @property
    def wants(self) -> str:
        return "an object of infl"

    @property
    def error(self) -> type[InflError]:
        return DataError if self.of_data else SettingsError

    def take(self, value: Any) -> Any:
        if isinstance(value, type) or not all(hasattr(value, method) for method in self.methods):
            raise _Refused
        return value


class OneOrSeveral(Having):
    """An object, or several by name."""

    def take(self, value: Any) -> Any:
        return value if isinstance(value, Mapping) else super().take(value)


NO_VALUE = ("", "nan", "NaN", "<NA>", "NaT")
"""Text that stands for no value: white space apart, what pandas makes of a missing one with ``.astype(str)``."""
SEALS = ("group", "pairwise", "none")
LOCKS = ("field", "published", "none")
SEED = Whole(0, 2**32 - 1)
"""What numpy, scikit-learn and torch all take."""
DATA = Having(("obs_names", "obs"), of_data=True, says="an AnnData or MuData; read a file with anndata.read_h5ad(path)")
SEVERAL_DATA = OneOrSeveral(DATA.methods, of_data=True, says=f"{DATA.says}, or several by name")

SITE_NAME = Text(says="a name, as text, for each site")
COLUMN = Text(empty=True, says="the name of one obs column")
OTHER_COLUMN = Text(none=True, says="the name of one obs column")
COLUMNS = Names(empty=True, says="names of obs columns, each of them once")
LAYER = Text(none=True, says="the name of a layer")
MODALITY = Text(none=True, says="the name of a modality")
SHARE = Real(0, 1, open="high")
CUTOFF = Real(infinite=True)
AXES = Having(("set_xlabel", "get_figure"), none=True, says="axes of matplotlib, e.g. of plt.subplots()")
FEATURES = Choice(("intersection", "union"))
NEW_NAMES = Renamed(none=True, says="a dict of names by name")

PARAMETERS: Mapping[str, Kind] = {
    "aggregation": Text(says="the name of an aggregation rule, e.g. 'fedavg'"),
    "aggregation_options": Options(none=True),
    "adata": DATA,
    "ax": AXES,
    "bits": Whole(4, 16, none=True),
    "checkpoint": Text(path=True, none=True, says="the path of a folder"),
    "copy": Flag(),
    "device": Device(),
    "inplace": Flag(),
    "epochs": Whole(1),
    "holdout": Choice(("observations", "site")),
    "key": Having(("subkey", "fingerprint"), none=True, says="a key ring, e.g. infl.keys.Keyring.load(path)"),
    "key_added": Key(),
    "key_seed": SEED,
    "local_epochs": Whole(1),
    "lock": Choice(LOCKS, none=True),
    "metric": Text(none=True, says="the name of a metric"),
    "methods": Names(none=True, says="names of methods, each of them once"),
    "min_sites": Whole(1, none=True),
    "n_jobs": Jobs(),
    "n_keys": Whole(1),
    "no_key": Real(0, 1),
    "participation": Real(0, 1, open="low"),
    "patience": Whole(0),
    "privacy": Having(("resolve", "site_noise"), none=True, says="infl.privacy.DP(epsilon=…, delta=…)"),
    "progress": Flag(none=True),
    "resume": Flag(),
    "return_fig": Flag(),
    "rounds": Whole(1),
    "seal": Choice(SEALS),
    "seed": SEED,
    "seeds": Several(
        SEED, count=True, says="how many (at least 1), or at least one whole number from 0, each of them once"
    ),
    "show": Flag(none=True),
    "site_key": OTHER_COLUMN,
    "strength": Real(0, 1),
    "strengths": Several(Real(0, 1)),
    "test_share": Real(0, 1, open="both"),
    "validation_only": Flag(),
    "verify": Flag(),
}
"""What the parameters that public functions share may be, by name."""


def read_all(kinds: Mapping[str, Kind], values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return values as plain Python, those of a declared kind checked."""
    return {name: kinds[name].read(name, v, where) if name in kinds else v for name, v in values.items()}


def door(**own: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check a public function's arguments before it does anything, and have it compute under torch's own defaults.

    Parameters
    ----------
    **own
        Kinds of parameters that are not in :data:`PARAMETERS`, or are others here.

    Examples
    --------
    >>> @door(share=Real(0, 1))
    ... def first(share, seed=0):
    ...     return share, seed
    >>> first(np.float32(0.1), seed=np.int8(2))
    (0.1, 2)
    >>> first(2)
    Traceback (most recent call last):
    infl.errors.SettingsError: share=2: give a number from 0 up to 1
    """

    def guarded(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        kinds = {name: own.get(name) or PARAMETERS.get(name) for name in signature.parameters}
        declared = {name: kind for name, kind in kinds.items() if kind is not None}

        of_data = [name for name, kind in kinds.items() if name == "sites" or getattr(kind, "of_data", False)]
        without_rules = "sites" in signature.parameters and not getattr(function, "ruled", False)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if without_rules and rules_in_force() is not None:
                raise SettingsError(_refusal(function.__name__, {}))
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as wrong:
                raise TypeError(f"{function.__name__}() {wrong}") from None
            bound.apply_defaults()
            for name in of_data:
                refuse_cupy(bound.arguments[name])
                read_tables(bound.arguments[name])
            bound.arguments.update(read_all(declared, bound.arguments))
            if rules_in_force() is not None and unruled(function.__name__, bound.arguments) is not None:
                raise SettingsError(_refusal(function.__name__, bound.arguments))
            with torch_defaults():
                return function(*bound.args, **bound.kwargs)

        call.parameters = declared  # type: ignore[attr-defined]
        return call

    return guarded


def _refusal(function: str, given: Mapping[str, Any]) -> str:
    """Return the line for what rules of disclosure do not bind."""
    found = unruled(function, given)
    what, since, instead = (
        (function, "", "leave it out") if found is None else (found[0], f", since {found[1].why}", found[1].instead)
    )
    return (
        f"{what} is not yet under disclosure rules{since}: {instead}, or run it where infl.settings.disclosure is None"
    )
