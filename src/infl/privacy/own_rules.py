"""Rules of disclosure of one's own: which sets of records a site does not release sums of, from what its ``obs`` says of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from infl import _entry_points
from infl.errors import SettingsError
from infl.privacy.rules import DisclosureRules

OwnRule = Callable[[pd.DataFrame, DisclosureRules], bool]
"""From the rows of ``obs`` of a set of records, and the other rules: whether the site withholds a sum over them."""
OWN_RULES: dict[str, OwnRule] = {}
"""Rules of this process by name, in a notebook; a package registers its own by entry point ``infl.disclosure_rules``."""


def own_rule(name: str) -> OwnRule:
    """Return a rule by its name.

    Raises
    ------
    SettingsError
        There is no such rule.

    Examples
    --------
    >>> own_rule("several_wards")
    Traceback (most recent call last):
    infl.errors.SettingsError: own='several_wards' is no rule of disclosure here: put it into infl.privacy.OWN_RULES, or install ...
    """
    if name in OWN_RULES:
        return OWN_RULES[name]
    places = _entry_points.known("infl.disclosure_rules", {})
    if name not in places:
        near = difflib.get_close_matches(name, [*OWN_RULES, *places], 1)
        remedy = f"did you mean {near[0]!r}?" if near else "put it into infl.privacy.OWN_RULES, or install its package"
        raise SettingsError(f"own={name!r} is no rule of disclosure here: {remedy}")
    found: OwnRule = _entry_points.load(name, places[name])
    return found


def withheld(obs: pd.DataFrame, sets: np.ndarray, rules: DisclosureRules) -> tuple[str, ...]:
    """Return which rule of one's own withholds each set of records, (n_sets, n_obs); "" where none does.

    Raises
    ------
    SettingsError
        A rule does not return a truth value.

    Examples
    --------
    >>> OWN_RULES["several_wards"] = lambda obs, rules: obs["ward"].nunique() < 2
    >>> obs = pd.DataFrame({"ward": ["A", "A", "B"]})
    >>> withheld(obs, np.array([[True, True, False], [True, True, True]]), DisclosureRules(own=("several_wards",)))
    ('several_wards', '')
    >>> del OWN_RULES["several_wards"]
    """
    return tuple(_first(obs[chosen], rules) if chosen.any() else "" for chosen in sets) if rules.own else ()


def _first(obs: pd.DataFrame, rules: DisclosureRules) -> str:
    return next((name for name in rules.own if _says(name, obs, rules)), "")


def _says(name: str, obs: pd.DataFrame, rules: DisclosureRules) -> bool:
    found = own_rule(name)(obs, rules)
    if not isinstance(found, bool | np.bool_):
        raise SettingsError(
            f"the rule of disclosure {name!r} returned {type(found).__name__}: return True where a site withholds the sum, else False"
        )
    return bool(found)


def check_own(names: Sequence[str]) -> None:
    """Refuse rules that are not there, before any work."""
    for name in names:
        own_rule(name)
