"""Everything that can be wrong with the data of sites, reported before anything is computed or altered."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from infl._parameters import FEATURES, LAYER, OTHER_COLUMN
from infl.data.columns import layer_names, shortlist
from infl.data.labels import agree_on_classes
from infl.data.panel import Panel
from infl.data.sites import over_sites
from infl.data.spelling import different_kinds, one_spelling
from infl.data.units import units_of, warn_of_units
from infl.data.values import count_non_finite
from infl.errors import DataError

PRESENT_COLUMN = "infl_present"  # column of var: False where the site did not measure a feature of the united panel

UNCLEAR = "unclear"
"""The word for values whose kind is not clear."""

Features = Literal["intersection", "union"]
Called = Mapping[str, Mapping[str, pd.Index]]
"""Names of the features of each site and modality, spelt alike."""


@over_sites(ruled=True, target=OTHER_COLUMN, layer=LAYER, features=FEATURES)
def panel_of(
    sites: Mapping[str, AnnData | MuData] | AnnData | MuData,
    *,
    target: str | None = None,
    layer: str | None = None,
    features: Features = "intersection",
    site_key: str | None = None,
) -> Panel:
    """Check the data of all sites and return what they agree on; alters nothing.

    Parameters
    ----------
    sites
        Objects by site name; all AnnData or all MuData. In memory, views and backed objects, dense and sparse
        matrices, whole and real numbers are all read as they are.
    target
        Column of ``obs`` with class labels.
    layer
        Layer to use instead of ``X``.
    features
        ``"intersection"``: what every site measured; ``"union"``: what any site measured. A feature that
        ``var["infl_present"]`` marks as absent (see :func:`harmonise`) was not measured. Of a MuData, a modality is
        compared among the sites that have it.
    site_key
        Column of ``obs`` with each row's site, where `sites` is one object instead of a dict.

    Returns
    -------
    Features in the order that all sites have, or sorted by name where they differ; classes sorted.

    Raises
    ------
    infl.errors.DataError
        With one line on the first thing that is wrong, where, and what to do.

    Warns
    -----
    infl.errors.InflWarning
        A class is at one site only, a site has one class only, labels of two sites look like one class, or values differ
        in kind.

    Examples
    --------
    >>> import infl
    >>> infl.pp.panel_of(infl.datasets.khan_sites(3), target="tumour_class").classes
    ('class_1', 'class_2', 'class_3', 'class_4')
    """
    panel = examine(sites, target=target, layer=layer, features=features)[0]
    units = units_by_modality(sites, layer)
    for of_modality in units:
        warn_of_units(of_modality)
    return replace(panel, units=known_units(dict(zip(sorted(panel.modalities) or [""], units, strict=True))))


def examine(
    sites: Mapping[str, AnnData | MuData],
    *,
    target: str | None,
    layer: str | None,
    features: Features,
    aliases: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> tuple[Panel, dict[str, pd.Index], Called]:
    """The panel, its features by modality, and what each site's features are called by it; as :func:`panel_of`.

    With `aliases`, an empty dict too, features that are spelt in several ways are one (see :mod:`infl.data.spelling`).
    """
    check_site_names(sites)
    for site, adata in sites.items():
        check_object(adata, site, layer)
    called = _called(sites, aliases)
    names = _agree_on_features(sites, features, called)
    classes = () if target is None else agree_on_classes(sites, target, labels or {})
    for site, adata in sites.items():
        for modality, table in tables(adata).items():
            wanted = called[site][modality].isin(names.get(modality, pd.Index([])))
            check_values(table, layer, _where(site, modality), table.var_names[wanted])

    modalities = tuple(modality for modality in names if modality)
    panel = Panel(
        features=tuple(_full_name(modality, name) for modality in names for name in names[modality]),
        classes=classes,
        target=target,
        n_obs={site: adata.n_obs for site, adata in sites.items()},
        present={site: _present(adata, names, called[site]) for site, adata in sites.items()},
        modalities=modalities,
    )
    return panel, names, called


def units_by_modality(sites: Mapping[str, AnnData | MuData], layer: str | None) -> list[dict[str, str | None]]:
    """Kinds of values of the sites, one dict for each modality."""
    return [
        {
            _where(site, modality): units_of(t[modality], layer)
            for site, adata in sites.items()
            if modality in (t := tables(adata))
        }
        for modality in sorted({name for adata in sites.values() for name in tables(adata)})
    ]


def known_units(units: Mapping[str, Mapping[str, str | None]]) -> tuple[str, ...]:
    """Return the kinds of values that sites have, ``"rna:logarithms"``, from those by modality and site.

    Examples
    --------
    >>> known_units({"": {"a": "raw counts", "b": None}}), known_units({"": {"a": None}})
    (('raw counts',), ('unclear',))
    """
    found = {_full_name(m, kind) for m, kinds in units.items() for kind in kinds.values() if kind is not None}
    return tuple(sorted(found)) or (UNCLEAR,)


def tables(adata: AnnData | MuData, where: str = "the data") -> dict[str, AnnData]:
    """Modalities by name; an AnnData is one without a name.

    Raises
    ------
    DataError
        Observations of a modality were renamed and the MuData was not updated, so that they cannot be found in its obs.
    """
    if isinstance(adata, AnnData):
        return {"": adata}
    for modality, table in adata.mod.items():
        if not (known := table.obs_names.isin(adata.obs_names)).all():
            raise DataError(
                f"modality {modality!r} of {where} has {int((~known).sum())} observations that the MuData's own obs lacks, first "
                f"{table.obs_names[~known][0]!r}: after renaming call its .update(), and fill the columns of its obs again"
            )
    return dict(adata.mod)


def measured(adata: AnnData, called: pd.Index | None = None) -> pd.Index:
    """Names of the features that were measured, in the object's order; `called` where they go by other names."""
    called = adata.var_names if called is None else called
    if PRESENT_COLUMN not in adata.var.columns:
        return called
    return called[adata.var[PRESENT_COLUMN].fillna(False).to_numpy(dtype=bool)]


def _called(sites: Mapping[str, AnnData | MuData], aliases: Mapping[str, str] | None) -> dict[str, dict[str, pd.Index]]:
    own = {site: {name: table.var_names for name, table in tables(adata).items()} for site, adata in sites.items()}
    if aliases is None:
        return own
    for modality in {name for names in own.values() for name in names}:
        spelt = one_spelling({site: names[modality] for site, names in own.items() if modality in names}, aliases)
        for site, index in spelt.items():
            own[site][modality] = index
    return own


def _agree_on_features(
    sites: Mapping[str, AnnData | MuData], features: Features, called: Called
) -> dict[str, pd.Index]:
    """Agreed names of each modality, in the agreed order."""
    orders = [list(tables(adata)) for adata in sites.values()]
    alike = all(order == orders[0] for order in orders)
    modalities = orders[0] if alike else sorted({name for order in orders for name in order})
    agreed = {}
    for modality in modalities:
        at = {
            site: measured(t[modality], called[site][modality])
            for site, adata in sites.items()
            if modality in (t := tables(adata))
        }
        if modality and not any(map(len, at.values())):
            raise DataError(
                f"modality {modality!r} has no measured feature at any site: leave it out, e.g. "
                f"del mdata.mod[{modality!r}]"
            )
        first, *others = at.values()
        if all(first.equals(other) for other in others):
            agreed[modality] = first
            continue
        common = set(first).union(*others) if features == "union" else set(first).intersection(*others)
        if not common:
            raise DataError(_nothing_in_common(at, modality))
        agreed[modality] = pd.Index(sorted(common))
    if not any(len(names) for names in agreed.values()):
        raise DataError("no feature is shared by the sites: they have no features at all")
    return agreed


def _nothing_in_common(at: Mapping[str, pd.Index], modality: str) -> str:
    names = list(at)
    last = next(i for i in range(1, len(names) + 1) if not set.intersection(*(set(at[n]) for n in names[:i]))) - 1
    examples = " and ".join(f"{at[n][0]!r} at {n}" for n in (names[0], names[last]) if len(at[n]))
    what = f"feature of {modality!r}" if modality else "feature"
    return (
        f"no {what} is shared by all {len(at)} sites: {names[last]} has none in common with those before it "
        f"(there are {examples}); {different_kinds(at[names[0]], at[names[last]])}"
    )


def check_site_names(sites: Mapping[str, AnnData | MuData]) -> None:
    """Raise a DataError where there are no sites, or one has no proper name."""
    if not sites:
        raise DataError("sites is empty: give a dict with an AnnData or MuData for each site")
    seen: dict[str, str] = {}
    for name in sites:
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"a site's name must be text, not {name!r}; rename it")
        folded = " ".join(name.split()).casefold()
        if folded in seen:
            raise DataError(
                f"site names {seen[folded]!r} and {name!r} are equal but for case or white space; rename one"
            )
        seen[folded] = name
    objects: dict[int, str] = {}
    for name, adata in sites.items():
        if id(adata) in objects:
            raise DataError(
                f"sites {objects[id(adata)]!r} and {name!r} are the same object; give each site its own data"
            )
        objects[id(adata)] = name
    kinds = {type(adata) for adata in sites.values() if isinstance(adata, AnnData | MuData)}
    if len({issubclass(kind, AnnData) for kind in kinds}) > 1:
        raise DataError("sites mix AnnData and MuData; make them all MuData or all AnnData")


def check_object(adata: AnnData | MuData, site: str, layer: str | None) -> None:
    """Raise a DataError unless an object can be read: of the right type, with observations, unique names and the layer."""
    if not isinstance(adata, AnnData | MuData):
        raise DataError(f"{site} is {type(adata).__name__}; it must be AnnData or MuData")
    if not adata.n_obs:
        raise DataError(f"{site} has no observations: leave it out")
    check_unique(adata.obs_names, "obs_names", site)
    for modality, table in tables(adata, site).items():
        where = _where(site, modality)
        check_unique(table.var_names, "feature names", where)
        if table.n_vars and not isinstance(first := table.var_names[0], str):
            raise DataError(
                f"feature names of {where} are no text, the first is {first!r}: set adata.var_names to the column of var that has them, or "
                "to var_names.astype(str)"
            )
        check_layer(table, layer, where)


def check_layer(table: AnnData, layer: str | None, where: str) -> None:
    """Refuse an object without the layer, or without X where that is read."""
    layers = layer_names(table)
    if layer is not None and layer not in layers:
        has = f"it has {shortlist(layers)}" if layers else "it has no layers"
        raise DataError(f"layer {layer!r} is missing at {where}: {has}")
    if layer is None and table.X is None:
        has = f"; layer= can be {shortlist(layers)}" if layers else ""
        raise DataError(f"{where} has no X{has}")


def check_unique(names: pd.Index, what: str, where: str) -> None:
    """Raise a DataError that counts the names that are there twice."""
    if not names.is_unique:
        twice = names[names.duplicated()].unique().tolist()
        make = "obs_names_make_unique" if what == "obs_names" else "var_names_make_unique"
        raise DataError(f"duplicate {what} at {where}: {shortlist(twice)}; call its {make}()")


def check_columns(table: AnnData, where: str) -> None:
    """Raise a DataError for columns of one name: anndata takes no part of such a table."""
    for slot, frame in (("obs", table.obs), ("var", table.var)):
        if not frame.columns.is_unique:
            twice = frame.columns[frame.columns.duplicated()].unique().tolist()
            raise DataError(
                f"{slot} of {where} has several columns {shortlist(twice)}: rename or drop all but one of each"
            )


def check_values(table: AnnData, layer: str | None, where: str, names: pd.Index, *, masked: bool = False) -> int:
    """NaN and infinite values are an error in the features of the panel, and are ignored in the others.

    With `masked`, NaN is none; returns how many there are.
    """
    check_columns(table, where)
    nan, infinite = count_non_finite(table, layer, where)
    of_panel = table.var_names.isin(names)
    n_nan = int(nan[of_panel].sum())
    nan = np.zeros_like(nan) if masked else nan
    wrong = np.flatnonzero((nan + infinite > 0) & of_panel)
    if len(wrong):
        first = wrong[0]
        raise DataError(
            f"{'NaN' if nan[first] else 'infinite value'} in feature {table.var_names[first]!r} at {where} "
            f"({int((nan + infinite)[wrong].sum())} such values in {len(wrong)} features of {layer or 'X'}); impute them "
            "or leave those features out"
        )
    return n_nan


def _present(adata: AnnData | MuData, names: Mapping[str, pd.Index], called: Mapping[str, pd.Index]) -> np.ndarray:
    has = tables(adata)
    parts = [
        index.isin(measured(has[modality], called[modality])) if modality in has else np.zeros(len(index), dtype=bool)
        for modality, index in names.items()
    ]
    return np.concatenate(parts)


def _where(site: str, modality: str) -> str:
    return f"{site} ({modality})" if modality else site


def _full_name(modality: str, name: str) -> str:
    return f"{modality}:{name}" if modality else str(name)
