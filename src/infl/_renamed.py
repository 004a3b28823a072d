"""Old names of public things, and orders of arguments: taken for one more version, with a warning that has the new one."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from infl.errors import SettingsError

P = ParamSpec("P")
R = TypeVar("R")
_IMPORT = "importlib._bootstrap"  # `from package import name` asks whether there is one, and then for it


def renamed(
    module: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """Return a module's ``__getattr__``, under which old names still work.

    Parameters
    ----------
    module
        The module's ``__name__``.
    names
        New names by old ones: of the same module, or ``"infl.module:name"`` of another.
    otherwise
        What finds all other names, for a module that is loaded lazily.

    Examples
    --------
    >>> import warnings
    >>> find = renamed("infl.errors", {"Mistake": "InflError"})
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     print(find("Mistake").__name__, "|", caught[0].message)
    InflError | infl.errors.Mistake is now infl.errors.InflError; the old name goes in the next version
    """

    def find(name: str) -> Any:
        if name in names:
            owner, _, new = names[name].rpartition(":")
            owner = owner or module
            if sys._getframe(1).f_globals.get("__name__") != _IMPORT:
                _warn_of_old(f"{module}.{name}", f"{owner}.{new}", stacklevel=3)
            return getattr(import_module(owner), new)
        if otherwise is not None:
            return otherwise(name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def spelled(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take other spellings of its parameters.

    Parameters
    ----------
    **names
        The parameters by their other spellings.

    Examples
    --------
    >>> @spelled(random_state="seed")
    ... def draw(n, seed=0):
    ...     return n, seed
    >>> draw(2, random_state=5)
    (2, 5)
    """

    def taking(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = names.keys() & kwargs.keys()
            for other in given:
                if names[other] in kwargs:
                    raise SettingsError(f"{names[other]}= and its other spelling {other}= were both given: give one")
                kwargs[names[other]] = kwargs.pop(other)
            try:
                return function(*args, **kwargs)
            except SettingsError as error:  # in the spelling that was given
                for other in given:
                    if str(error).startswith(f"{names[other]}="):
                        raise SettingsError(other + str(error).removeprefix(names[other])) from None
                raise

        return call

    return taking


def model_first(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of (model, sites) take them in the order of before, sites and then model, for one more version.

    Examples
    --------
    >>> @model_first
    ... def measure(model, sites):
    ...     return sorted(sites)
    >>> measure(sites={"a": 1}, model=None)
    ['a']
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        before = len(args) > 1 and not _is_model(args[0]) and _is_model(args[1])
        if before or (len(args) == 1 and "model" in kwargs):
            warnings.warn(
                f"{function.__name__} takes the model before the sites now; the old order goes in the next version",
                DeprecationWarning,
                stacklevel=2,
            )
            args = (args[1], args[0], *args[2:]) if before else (kwargs.pop("model"), *args)
        return function(*args, **kwargs)

    return call


def _is_model(value: Any) -> bool:
    """Whether a value is a model or a run, whose classes cannot be imported here."""
    return hasattr(value, "header") or hasattr(value, "model")


def take_old_methods(cls: type, names: Mapping[str, str]) -> None:
    """Let methods be called, and a subclass or a class mixed into it define them, under old names for one more version.

    Parameters
    ----------
    cls
        A class of the renamed protocol.
    names
        New names by old ones.

    Examples
    --------
    >>> class Theirs:
    ...     def keep(self):
    ...         return 1
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     take_old_methods(Theirs, {"keep": "local_arrays"})
    >>> Theirs().local_arrays()
    1
    """
    for old, new in names.items():
        owner = next((one for one in cls.__mro__ if old in vars(one) or new in vars(one)), object)
        if new in vars(owner):
            if owner is cls and old not in vars(cls):
                setattr(cls, old, _old_method(f"{cls.__name__}.{old}", new, vars(cls)[new]))
        elif old in vars(owner):
            _warn_of_old(f"{cls.__name__}.{old}", new, stacklevel=4)
            setattr(cls, new, vars(owner)[old])


def _old_method(old: str, new: str, method: Any) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        _warn_of_old(old, new, stacklevel=3)
        return method.__get__(self, type(self))(*args, **kwargs)

    call.__doc__ = f"Old name of ``{new}``."
    return call


def _warn_of_old(old: str, new: str, *, stacklevel: int) -> None:
    # an abstract class is made by a frame of its own
    if sys._getframe(stacklevel - 1).f_globals.get("__name__") == "abc":
        stacklevel += 1
    warnings.warn(
        f"{old} is now {new}; the old name goes in the next version", DeprecationWarning, stacklevel=stacklevel
    )
