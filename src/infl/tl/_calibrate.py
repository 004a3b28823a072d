"""The lock's strength as accuracy: what the model is worth without the key."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._parameters import door
from infl.data.sites import as_sites
from infl.errors import SettingsError
from infl.federation.fitted import read_as_fitted
from infl.models.locked import SALT, LockedModel, lock_model
from infl.sums import WIDE_SCALE, FederatedSum, State, run_sums
from infl.tl._results import needed_key
from infl.tl._use import check_use

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models import Task

N_SEARCHES = 24
"""Searches, each over other strengths; on few validation samples accuracy moves in steps, elsewhere at each strength."""
TOLERANCE = 0.01


@door()
def calibrate_lock(
    model: LockedModel | FederatedRun,
    sites: Mapping[str, Data] | Data,
    *,
    site_key: str | None = None,
    key: Keyring | None = None,
    no_key: float = 0.7,
) -> float:
    """Lock a model again so that it has a wanted accuracy without the key. No training.

    Parameters
    ----------
    model
        A model with ``lock="field"``, or its run; the model is locked again in place. Pass on one version:
        each strength is another lock of the same weights, and the average of many opens them.
    sites, site_key
        As for :func:`infl.tl.fit_federated`, the sites of the fit; their validation parts are judged on, by sealed sums.
    key
        Key ring that opens the model (default: that of the run).
    no_key
        Wanted headline metric (balanced accuracy) of the stored weights, used without the key.

    Returns
    -------
    float
        The strength, from 0 to 1.

    Raises
    ------
    SettingsError
        The model has no field lock, or `no_key` cannot be reached: above the model's own accuracy, or below what the
        full strength leaves.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", progress=False)
    >>> strength = infl.tl.calibrate_lock(run.model, sites, key=run.key, no_key=0.7)
    >>> 0 < strength < 1
    True
    """
    locked, key = needed_key(model, key)
    probe = _Probe(locked, as_sites(sites, site_key), key)
    unlocked = probe.value(probe.locked(0.0))
    if not 0 <= no_key <= unlocked:
        raise SettingsError(
            f"no_key={no_key}: the unlocked model has {probe.metric} {unlocked:.3f} on the validation data; "
            + (
                "give a value from 0 up to that"
                if unlocked > 0
                else "there is nothing to take away, so fit it better first"
            )
        )
    best: tuple[float, float, LockedModel] | None = None
    for number in range(N_SEARCHES):
        low, high = 0.0, 1.0 - number / 1000
        for _ in range(10):
            strength = (low + high) / 2
            candidate = probe.locked(strength)
            value = probe.value(candidate)
            if best is None or abs(value - no_key) < best[0]:
                best = (abs(value - no_key), strength, candidate)
            low, high = (strength, high) if value > no_key else (low, strength)
        assert best is not None
        if best[0] <= TOLERANCE:
            break
    distance, strength, chosen = best  # type: ignore[misc]
    if distance > 0.05:
        raise SettingsError(
            f"no_key={no_key} cannot be reached: the nearest is {probe.value(chosen):.3f} at strength {strength:.2f}; "
            "below chance there is nothing to take away"
        )
    locked.become(chosen)
    return strength


@door()
def lock_curve(
    model: LockedModel | FederatedRun,
    sites: Mapping[str, Data] | Data,
    *,
    site_key: str | None = None,
    key: Keyring | None = None,
    strengths: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    n_keys: int = 5,
    validation_only: bool = True,
) -> pd.DataFrame:
    """Measure a model with the right key, with wrong keys and without one, over strengths of the lock.

    Parameters
    ----------
    model
        A model with ``lock="field"``, or its run; not changed.
    sites, site_key
        As for :func:`infl.tl.fit_federated`; the data to judge on.
    key
        Key ring that opens the model (default: that of the run).
    strengths
        Strengths to measure at.
    n_keys
        Number of random wrong keys, and of locks for the model without a key.
    validation_only
        Judge on the validation parts of the fit (True) or on all observations, when none was trained on.

    Returns
    -------
    DataFrame
        ``strength``, ``who`` ("right key", "wrong key", "no key"), the headline metric (mean) and ``sd``; for
        :func:`infl.pl.lock`. ``attrs["chance"]`` is what a guess gets.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> curve = infl.tl.lock_curve(run.model, sites, key=run.key, strengths=[0.0, 1.0], n_keys=2)
    >>> curve["who"].tolist()
    ['right key', 'wrong key', 'no key', 'right key', 'wrong key', 'no key']
    """
    import pandas as pd

    from infl.keys import Keyring

    model, key = needed_key(model, key)
    probe = _Probe(model, as_sites(sites, site_key), key, validation_only=validation_only)
    rows = []
    for strength in strengths:
        locked = [probe.locked(strength, other_salts=number > 0) for number in range(n_keys)]
        values = {
            "right key": [probe.value(locked[0], key)],
            "wrong key": [probe.value(m, Keyring.create()) for m in locked],
            "no key": [probe.value(m) for m in locked],
        }
        for who, value in values.items():
            rows.append((strength, who, float(np.mean(value)), float(np.std(value, ddof=1)) if len(value) > 1 else 0.0))
    table = pd.DataFrame(rows, columns=["strength", "who", probe.metric, "sd"])
    table.attrs["chance"] = model.header.build_task().chance(model.header.panel) or 0.0
    return table


class _Probe:
    """Judges re-locked versions of one model on the sites' data."""

    def __init__(
        self,
        model: LockedModel,
        sites: Mapping[str, Data],
        key: Keyring | None,
        *,
        validation_only: bool = True,
    ) -> None:
        if model.header.lock != "field":
            raise SettingsError(
                f"only lock='field' has a strength to choose; this model has lock={model.header.lock!r}"
            )
        self.model, self.key, h = model, key, model.header
        self.effective, self.private = model.effective(key), model.private_arrays(key)
        self.task = h.build_task()
        check_use(sites, self.task, h.panel, training=True)
        self.metric = self.task.headline
        self.data = {}
        for keyless in (False, True):
            for name, adata in sites.items():
                data = read_as_fitted(model, adata, name, keyless=keyless)
                index = data.validation if validation_only else np.union1d(data.train, data.validation)
                self.data[name, keyless] = (data, index)

    def locked(self, strength: float, *, other_salts: bool = False) -> LockedModel:
        """Return the model at a strength; under other salts only to be measured, never to be passed on."""
        header, salts = replace(self.model.header, strength=strength), self.model.header.salts
        if other_salts:
            salts = {name: os.urandom(SALT).hex() for name in self.effective}
        return lock_model(header, self.effective, self.private, self.key, salts=salts)

    def value(self, model: LockedModel, key: Keyring | None = None) -> float:
        """Return the headline metric with a key (checked against nothing) or without."""
        right = key is self.key
        own = {name: of for (name, keyless), of in self.data.items() if keyless is not right}
        asked = judged_at(model.header.strength, self.task, model.header.panel, model.module(key, verify=right))
        return self.task.summarise(run_sums([asked], own, self.key))[self.metric]


def judged_at(strength: float, task: Task, panel: Mapping[str, Any], module: nn.Module) -> FederatedSum:
    """Return the sum that judges a model which was locked anew; a site is the data that it read, and which to judge on."""

    def local(own: tuple[Any, np.ndarray], _: State) -> Mapping[str, Any]:
        data, index = own
        return task.evaluate(module, data, index)

    return FederatedSum(
        name=f"strength {strength}",
        shapes=task.metric_shapes(panel),
        local=local,
        combine=lambda total, _: total,
        says="the task's metrics on the validation parts, summed, of the model locked at another strength",
        scale=WIDE_SCALE,
    )
