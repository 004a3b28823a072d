"""Sums over sites of one process: the same packing, marks, seal and addition as between machines, in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.data.consortium import Consortium, members
from infl.errors import DataError, SealError, SettingsError
from infl.privacy.seal import Context, GroupSeal, NoSeal, Packing, add, dequantise
from infl.sums.answers import counted
from infl.sums.closed import note_closed
from infl.sums.disclosure import CLOSED, Judge, Opening, control
from infl.sums.lanes import LEFT_OUT_COUNT, Scale, fitted, split_sums, sums_packing
from infl.sums.shape import COUNT_SCALE, SUM_SCALE, FederatedSum, State

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.sums.shape import Arrays


def run_sums(
    sums: Iterable[FederatedSum],
    sites: Mapping[str, Any],
    key: Keyring | None,
    *,
    state: State | None = None,
    about: str = "",
) -> State:
    """Run a list of sums over sites, one after the other, and return what all sites know afterwards.

    Parameters
    ----------
    sums
        The list.
    sites
        By name, what each sum's ``local`` takes; or what this process holds of it, a :class:`infl.data.consortium.Consortium`.
    key
        Key ring: with it, and three sites or more, what leaves a site is sealed.
    state
        What all sites know before.
    about
        What the sums are for; the seal is bound to it and to the sum's name.

    Returns
    -------
    dict
        What all sites know afterwards, by name.

    Raises
    ------
    DataError
        There is no site, or rules of disclosure close a sum that has no parts.
    SealError
        A sum has values that are not finite, or beyond its scale.
    SettingsError
        Rules of disclosure are in force, and a sum does not say which records stand behind its numbers.

    Examples
    --------
    >>> count = FederatedSum(
    ...     name="count",
    ...     shapes={"n": ()},
    ...     local=lambda x, state: {"n": len(x)},
    ...     combine=lambda total, state: {**state, "n": int(total["n"])},
    ...     says="number of records",
    ... )
    >>> run_sums([count], {"a": [1, 2], "b": [3]}, None)
    {'n': 3}
    """
    _check_sites(sites)
    state = state or {}
    rules = control()
    sums = list(sums)
    judge = None if rules is None else Judge(rules, members(sites), about, sums)

    def answers(parts: Mapping[str, Arrays], purpose: str) -> Arrays:
        packing = sums_packing({name: value.shape for name, value in next(iter(parts.values())).items()}, COUNT_SCALE)
        return _added(parts.items(), sites, packing, purpose, key)

    for one in sums:
        opening = None
        for step, exchange in enumerate(one.exchanges):
            purpose = f"{about}: {exchange}" if about else exchange
            if judge is not None and one.cells is not None and (opening is None or not one.cells.once):
                opening = judge.opening(purpose, one.cells, one.shapes, sites, state, answers)
                judge.disclosure.opened[purpose] = counted(opening.rule)
                note_closed(judge.call, purpose, one, opening)
            shares = ((site, _given(one.local(has, state), site, opening)) for site, has in sites.items())
            total = _added(shares, sites, one.packing, purpose, key)
            state = one.after(total if opening is None else opening.total(total), state, step=step)
            if opening is not None:
                state = {**state, CLOSED: state.get(CLOSED, {}) | opening.rule}
            if one.until is not None and one.until(state):
                break
    return state


def _given(arrays: Mapping[str, Any], site: str, opening: Opening | None) -> Mapping[str, Any]:
    return arrays if opening is None else opening.share(site, arrays)


def sum_over_sites(
    parts: Mapping[str, Mapping[str, Any]],
    purpose: str,
    key: Keyring | None = None,
    *,
    scale: Scale | Mapping[str, Scale] = SUM_SCALE,
) -> Arrays:
    """Add named arrays over sites, sealed when there is a key and there are at least three sites.

    Parameters
    ----------
    parts
        Each site's arrays; alike in names and shapes.
    purpose
        What is summed; the seal is bound to it.
    key
        Key ring.
    scale
        Of all arrays, or by name; :data:`infl.sums.SUM_SCALE` where none is named.

    Returns
    -------
    dict
        The sums, by name, on their scales.

    Raises
    ------
    DataError
        There is no site.
    SealError
        A sum has values that are not finite, or beyond its scale.
    SettingsError
        The sites' arrays differ in names or sizes, or `scale` names another one.

    Examples
    --------
    >>> from infl.sums import FINE_SCALE
    >>> sites = {"a": {"x": [0.1]}, "b": {"x": [0.2]}}
    >>> float(abs(sum_over_sites(sites, "example", scale=FINE_SCALE)["x"] - 0.3)[0]) < 1e-11
    True
    """
    _check_sites(parts)
    if control() is not None:
        raise SettingsError(f"{purpose} is not yet under disclosure rules: leave infl.settings.disclosure out")
    first = next(iter(parts.values()))
    packing = sums_packing({name: np.shape(value) for name, value in first.items()}, scale)
    return _added(parts.items(), parts, packing, purpose, key)


def _check_sites(sites: Mapping[str, Any]) -> None:
    if not sites:
        raise DataError("there is no site to add over: give at least one, by name")


def _added(
    shares: Iterable[tuple[str, Mapping[str, Any]]],
    sites: Mapping[str, Any],
    packing: Packing,
    purpose: str,
    key: Keyring | None,
) -> Arrays:
    """Return the sum of the sites' shares, those of other processes too, with one share in memory at a time."""
    cohort, between = members(sites), sites if isinstance(sites, Consortium) else None
    key = between.key if between is not None and key is None else key
    if between is not None and (key is None or len(cohort) < 3):
        raise SealError("sums between processes are sealed: give key=, and three sites or more")
    sealed = key is not None and len(cohort) >= 3
    seal = GroupSeal(key.subkey("seal"), min_sites=3) if key is not None and sealed else NoSeal(min_sites=1)
    run, number = (os.urandom(16).hex(), 0) if between is None else (between.channel.run, between.channel.number())
    context = Context(run, number, 0, cohort, purpose, packing.digest())
    total, empty = None, np.empty(0, dtype=np.float32)
    for site, arrays in shares:
        _, lane, _ = fitted(empty, arrays, packing, len(cohort), weight=1.0)
        total = add(total, seal.seal(context, site, empty, lane, packing))
    assert total is not None
    if between is not None:
        total = between.channel.add(f"{purpose} {packing.digest()}", total)
    arrays = split_sums(dequantise(seal.unseal(context, cohort, total, packing), packing)[1], packing)
    if n_out := int(arrays.pop(LEFT_OUT_COUNT)):
        raise SealError(
            f"sums for {purpose} are beyond any scale: look for extreme values in the data ({n_out} of {len(cohort)} sites "
            "have some)"
        )
    return arrays
