"""Checking class labels across sites."""

import re
import warnings
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations

import pandas as pd
from anndata import AnnData
from mudata import MuData

from infl.errors import DataError, InflWarning, SettingsError
from infl.pp._columns import obs_column, shortlist

_ALIKE = 0.9  # share of characters in common above which two labels look like one misspelt


def agree_on_classes(sites: Mapping[str, AnnData | MuData], target: str, renamed: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes of all sites as text, sorted, after checking each site's labels.

    Labels in `renamed` are called otherwise. Warns of classes that one site alone has, of sites that have one class alone,
    and of labels of different sites that look like one class.
    """
    counts = {site: _class_counts(adata, target, site, renamed) for site, adata in sites.items()}
    at: dict[str, list[str]] = {}
    for site, count in counts.items():
        for label in count.index:
            at.setdefault(label, []).append(site)
    warn_of_one_class({site: list(count.index) for site, count in counts.items()}, target, stacklevel=5)

    for first, second in near_misses(at):
        common, rare = sorted((first, second), key=lambda label: -len(at[label]))
        warnings.warn(
            f"labels {first!r} ({at[first][0]}) and {second!r} ({at[second][0]}) in {target!r} look like one class; if "
            f"they are, spell them alike at all sites: infl.pp.harmonise(…, labels={{{rare!r}: {common!r}}})",
            InflWarning,
            stacklevel=4,
        )
    lonely = [f"{label} ({at[label][0]})" for label in sorted(at) if len(at[label]) == 1]
    if lonely and len(sites) > 1:
        warnings.warn(
            f"one site alone has these classes of {target!r}: {shortlist(lonely)}; the other sites cannot validate them",
            InflWarning,
            stacklevel=4,
        )
    return tuple(sorted(at))


def warn_of_one_class(labels: Mapping[str, Sequence[str]], target: str, *, stacklevel: int) -> None:
    """Warn of sites all of whose observations are of one class; `labels` are those that each site has."""
    alike = [f"{site} ({of_site[0]})" for site, of_site in labels.items() if len(of_site) == 1]
    if alike:
        warnings.warn(
            f"one class only of {target!r} at {shortlist(alike, shown=6)}: where class and site coincide, a model may learn "
            "the site in its place; look at infl.tl.compare(…, holdout='site'), and let sites differ by coordinate=16 "
            "(model 'classifier')",
            InflWarning,
            stacklevel=stacklevel,
        )


def near_misses(sites_of: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """Pairs of labels that may be one class spelt in two ways: alike, and never used side by side at a site."""
    pairs = combinations(sorted(sites_of), 2)
    return [(a, b) for a, b in pairs if not set(sites_of[a]) & set(sites_of[b]) and _alike(a, b)]


def _alike(a: str, b: str) -> bool:
    a, b = (re.sub(r"[^\w+]+|_+", " ", label.casefold()).strip() for label in (a, b))
    if a == b:
        return True
    if re.findall(r"\d+", a) != re.findall(r"\d+", b):
        return False  # "class 1" and "class 10" differ by intention
    fewer, more = sorted((set(a.split()), set(b.split())), key=len)
    said_in_fewer_words = fewer <= more and any(len(word) > 3 for word in fewer)
    return said_in_fewer_words or SequenceMatcher(None, a, b).ratio() >= _ALIKE


def relabelled(labels: pd.Series, renamed: Mapping[str, str]) -> pd.Series:
    """Labels as text, with their new names."""
    return labels.astype(str).replace(dict(renamed)) if renamed else labels.astype(str)


def check_renamed(sites: Mapping[str, AnnData | MuData], target: str | None, renamed: Mapping[str, str]) -> None:
    """Refuse new names for labels that no site has."""
    if target is None:
        raise SettingsError("labels renames classes, so it needs target=, the column of obs that has them")
    known = {label for adata in sites.values() if target in adata.obs for label in adata.obs[target].astype(str)}
    for label in renamed:
        if label not in known:
            raise DataError(
                f"labels renames {label!r}, which no site has in {target!r}; there are {shortlist(sorted(known), shown=6)}"
            )


def _class_counts(adata: AnnData | MuData, target: str, site: str, renamed: Mapping[str, str]) -> pd.Series:
    labels = obs_column(adata, target, where=site, role="target")
    n_values = labels.nunique()
    is_number = pd.api.types.is_numeric_dtype(labels.dtype) and not pd.api.types.is_bool_dtype(labels.dtype)
    if is_number and (pd.api.types.is_float_dtype(labels.dtype) or n_values > max(2, len(labels) // 2)):
        raise DataError(
            f"target {target!r} is numeric at {site} ({n_values} values) where classes are due; name a column of labels, "
            "or make classes of it with pandas.cut or .astype(str)"
        )
    counts = relabelled(labels, renamed).value_counts()
    return counts[counts > 0]
