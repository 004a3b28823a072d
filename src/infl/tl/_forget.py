"""Forgetting records or sites: the run once more without them, from the sums before its first round on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._device import device_named
from infl._parameters import Flag, Names, door
from infl._warn import warn
from infl.data.sites import as_sites
from infl.errors import DataError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.federation.run import FederatedRun
from infl.federation.settings import RunSettings
from infl.tl._forgotten import table_of
from infl.tl._use import check_use, takes_union

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.federation.start import Start
    from infl.keys import Keyring

SEEN = ("highly_variable", "mean")
"""Columns of ``var`` that sums over sites leave there."""


@dataclass(frozen=True)
class Forgotten:
    """Result of :func:`forget`.

    Attributes
    ----------
    run
        The new run, as if the records had never been there.
    table
        One row per comparison of the model before and after: ``what``, ``before``, ``after``, 95 % intervals where there are such
        (``before_low``, …), and ``chance``.
    n_records
        How many records were forgotten, by site.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> done = infl.tl.forget(run, sites, site="site_4", attack=False, progress=False)
    >>> "site_4" in done.run.settings["sites"], done.n_records
    (False, {'site_4': 17})
    """

    run: FederatedRun
    table: pd.DataFrame
    n_records: dict[str, int] = field(default_factory=dict)


@door(attack=Flag(), site=Names(none=True, says="the name of one site, or several, each of them once"))
def forget(
    run: FederatedRun,
    sites: Mapping[str, Data] | Data,
    *,
    site_key: str | None = None,
    site: str | Iterable[str] | None = None,
    records: Iterable[str] | Mapping[str, Iterable[str]] | None = None,
    key: Keyring | None = None,
    prepare: Callable[[dict[str, Data]], Any] | None = None,
    attack: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> Forgotten:
    """Fit a run again without some of its records, so that nothing of the new model depends on them.

    The whole run is repeated with its settings and its seed: the names that sites agree on, the sums before the first round, which
    saw the records as well, and all rounds. A run that began with a model of other sites begins with it again; that is the latest state
    that did not use the records, since the sums before the first round of a run are of all its sites. There is no approximate way.

    Parameters
    ----------
    run
        What :func:`infl.tl.fit_federated` returned. Neither it nor its model is altered: who holds the old file still has the records
        in it.
    sites, site_key
        The data of the run, or those that are left of it. Not altered.
    site
        Name of the site that leaves, or several.
    records
        ``obs_names`` to forget; by site, or names that one site alone has.
    key
        Key ring of the sites (default: that of the run).
    prepare
        What was done to the sites before the fit and saw all records, such as :func:`infl.pp.highly_variable_genes` or
        :func:`infl.pp.scale`: a function that alters a dict of sites. It is called with copies without the records; `sites` are then
        the data before it.
    attack
        Attack both models by :mod:`infl.attacks` as somebody who asks whether the forgotten records trained them. It fits eighteen
        models more; classifiers only, and only where the forgotten records are in `sites`.
    seed
        Of the attack.
    progress
        Show a progress bar.

    Returns
    -------
    Forgotten
        ``.run``, and ``.table`` with the difference between the two models.

    Raises
    ------
    SettingsError
        Fewer than ``min_sites`` of the run are left; nothing or everything is to be forgotten; or the run began with a model that saw the
        site.
    DataError
        These are not the sites of the run, or there are no such records.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> who = sites["site_2"].obs_names[:2]
    >>> done = infl.tl.forget(run, sites, records=who, attack=False, progress=False)
    >>> done.table.set_index("what").loc["records", ["before", "after"]].tolist()
    [83.0, 81.0]
    """
    if not isinstance(run, FederatedRun):
        raise SettingsError(
            f"forget takes what fit_federated returned, not {type(run).__name__}: a model alone has no settings"
        )
    if prepare is not None and not callable(prepare):
        raise SettingsError(f"prepare={prepare!r}: give a function that alters a dict of sites")
    tables = as_sites(sites, site_key)
    gone = _gone(run, tables, site, records)
    left = {name: adata[~gone[name]] if name in gone else adata for name, adata in tables.items()}
    left = {name: adata for name, adata in left.items() if adata.n_obs}
    n_records = {name: int(which.sum()) for name, which in gone.items() if which.any()}
    n_records |= {name: 0 for name in run.settings["sites"] if name not in tables}
    _check_left(run, left, n_records)
    key = key or run.key
    run = replace(run, key=key)
    start = _start_without(run, n_records, key)
    if prepare is not None:
        left = {name: adata.copy() for name, adata in left.items()}
        prepare(left)
    else:
        _warn_of_traces(tables)
    task, settings = run.model.header.build_task(), RunSettings.of(run.settings)
    check_use(left, task, run.model.header.panel, training=True)
    panel = task.agree(left)
    if prepare is None and not takes_union(task):
        _check_features(run, panel)
    key = key if settings.lock != "none" or settings.seal != "none" else None
    agreement = Agreement.new(task, panel, left, key, settings, init="" if start is None else start.digest)
    again = run_in_process(agreement, task, left, key, start=start, progress=progress, device=device_named()).run
    return Forgotten(again, table_of(run, again, tables, left, gone, attack=attack, seed=seed), n_records)


def _gone(
    run: FederatedRun,
    tables: Mapping[str, Data],
    site: str | Iterable[str] | None,
    records: Iterable[str] | Mapping[str, Iterable[str]] | None,
) -> dict[str, np.ndarray]:
    """Return which records of each site are to be forgotten, where any are."""
    members = run.settings["sites"]
    named = [site] if isinstance(site, str) else list(site or ())
    if unknown := [name for name in (*tables, *named) if name not in members]:
        raise DataError(f"{unknown[0]} is not a site of the run, which has {', '.join(members[:8])}")
    if absent := [name for name in members if name not in tables and name not in named]:
        raise DataError(
            f"{absent[0]} of the run is not in sites, and is not to be forgotten: give its data, or site={absent[0]!r}"
        )
    gone = {name: np.full(tables[name].n_obs, name in named) for name in tables}
    for name, wanted in _by_site(tables, records).items():
        found = tables[name].obs_names.isin(wanted)
        if len(unknown := wanted.difference(tables[name].obs_names)):
            raise DataError(f"{name} has no record {str(unknown[0])!r}: give obs_names of the data that were fitted")
        gone[name] |= found
    if not named and not any(which.any() for which in gone.values()):
        raise SettingsError("nothing to forget: give site=, or records= with obs_names")
    return gone


def _by_site(tables: Mapping[str, Data], records: Any) -> dict[str, pd.Index]:
    import pandas as pd

    if records is None:
        return {}
    if isinstance(records, Mapping):
        if unknown := [name for name in records if name not in tables]:
            raise DataError(f"records= names {unknown[0]}, which is not in sites: it has {', '.join(list(tables)[:8])}")
        return {name: pd.Index(list(names), dtype=object) for name, names in records.items()}
    if isinstance(records, str):
        records = [records]
    wanted = pd.Index(list(records), dtype=object)
    found: dict[str, pd.Index] = {name: wanted[wanted.isin(adata.obs_names)] for name, adata in tables.items()}
    for name in wanted:
        having = [site for site, names in found.items() if name in names]
        if len(having) != 1:
            where = f"{' and '.join(having[:2])} have" if having else "no site has"
            raise DataError(f"{where} the record {name!r}: give records={{site: [obs_names]}}")
    return {name: names for name, names in found.items() if len(names)}


def _check_left(run: FederatedRun, left: Mapping[str, Data], n_records: Mapping[str, int]) -> None:
    fewest = run.settings["min_sites"]
    if len(left) < fewest:
        raise SettingsError(
            f"without {', '.join(n for n in n_records if n not in left)} there are {len(left)} sites, and sums of fewer than "
            f"min_sites={fewest} are not opened: retire the model, or agree on a new run"
        )


def _check_features(run: FederatedRun, panel: Mapping[str, Any]) -> None:
    """Refuse data that lack features of the fit: nothing but the records may differ."""
    before = run.model.header.panel.get("features", ())
    if lost := sorted(set(before).difference(panel.get("features", ()))):
        raise DataError(
            f"the data lack {len(lost)} of {len(before)} features of the fit, first {lost[0]!r}: give the data that were fitted, or "
            "what chose the features as prepare="
        )


def _start_without(run: FederatedRun, n_records: Mapping[str, int], key: Keyring | None) -> Start | None:
    """Return the model that the run began with, if it knows none of the sites with forgotten records."""
    if run.origin is None:
        if run.settings.get("init"):
            raise SettingsError(
                "the run began with a model that is not at hand: fit again with init= of it, without the records"
            )
        return None
    h = run.origin.model.header
    if known := [name for name in n_records if name in h.sites]:
        raise SettingsError(
            f"{known[0]} was in the fit of the model {h.digest[:16]} that this run began with: forget it there first, and fit again "
            "with init= of the run that you get"
        )
    return run.origin.open(key if h.fingerprint else None)


def _warn_of_traces(tables: Mapping[str, Data]) -> None:
    for name, adata in tables.items():
        if found := [column for column in SEEN if column in adata.var]:
            warn(
                f"{name} has var[{found[0]!r}], which may have seen the forgotten records: repeat what made it, by prepare="
            )
            return
