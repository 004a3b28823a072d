"""What a label is, and what is none: for all tasks, covariates and columns; and checking class labels across sites."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from natsort import natsorted

from infl._warn import warn
from infl.data.columns import missing_values, obs_column, shortlist
from infl.data.consortium import agreed, agreed_categories
from infl.errors import DataError, SettingsError

_ALIKE = 0.9  # share of characters in common above which two labels look like one misspelt
_MOST_NUMBERS = 100  # distinct numbers that may be classes; more are measurements, or names of observations

TEXT = ("category", "text")
"""Type of labels that come back as categories of text."""


def agree_on_classes(sites: Mapping[str, AnnData | MuData], target: str, renamed: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes of all sites as text, sorted, after checking each site's labels.

    Labels in `renamed` are called otherwise. Warns of classes that one site alone has, of sites that have one class alone,
    and of labels of different sites that look like one class.
    """
    counts = {site: _class_counts(adata, target, site, renamed) for site, adata in sites.items()}
    at = holders({site: count.index for site, count in counts.items()})
    warn_of_one_class({site: list(count.index) for site, count in counts.items()}, target)

    warn_of_near_misses(at, target)
    lonely = [f"{label} ({at[label][0]})" for label in sorted(at) if len(at[label]) == 1]
    if lonely and len(sites) > 1:
        warn(
            f"one site alone has these classes of {target!r}: {shortlist(lonely)}; the other sites cannot validate them"
        )
    return tuple(sorted(at))


def agree_on_levels(
    sites: Mapping[str, AnnData | MuData], column: str, role: str, *, numbers: bool = False
) -> tuple[str, ...]:
    """Return the levels of a column of ``obs`` at all sites as text: in the order of categories that all share, else sorted.

    With `numbers`, any numbers are levels. Between processes, levels of few records are not named, and refused.

    Warns of levels of different sites that look like one.

    Examples
    --------
    >>> import infl
    >>> agree_on_levels(infl.datasets.khan_sites(3), "tumour_class", "groupby")
    ('class_1', 'class_2', 'class_3', 'class_4')
    """
    own, orders = {}, {}
    for site, adata in sites.items():
        values = obs_column(adata, column, where=site, role=role)
        if not numbers:
            check_labels(values, column, site, role=role)
        own[site] = label_text(values)
        if isinstance(values.dtype, pd.CategoricalDtype):
            orders[site] = [_text(category) for category in values.cat.categories]
    found = agreed_categories(sites, f"{role} {column!r}", own)
    at = holders(found)
    warn_of_near_misses(at, column)
    order = _common_order(sites, column, orders, found)
    return tuple(natsorted(at)) if order is None else tuple(level for level in order if level in at)


def holders(names: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return the sites that have each name, given the names that each site has.

    Examples
    --------
    >>> holders({"a": ["x", "y"], "b": ["y"]})
    {'x': ['a'], 'y': ['a', 'b']}
    """
    found: dict[str, list[str]] = {}
    for site, of_site in names.items():
        for name in of_site:
            found.setdefault(name, []).append(site)
    return found


def _common_order(
    sites: Mapping[str, Any], column: str, orders: Mapping[str, list[str]], found: Mapping[str, list[str]]
) -> list[str] | None:
    """Return the order of categories that all sites share, None where they share none.

    A category that no site has a record of never leaves a site, nor a digest of it, which would confirm a guess.
    """
    named = set().union(*found.values())
    said: dict[str, list[str]] = {site: [] for site in sites}
    for site, order in orders.items():
        said[site] = [category for category in order if category in named]
    heard = agreed(sites, f"order of {column!r}", said)
    if not all(heard.values()):
        return None
    first, *others = heard.values()
    if all(order == first for order in others):
        return first
    used = [[category for category in order if category in set(found[site])] for site, order in heard.items()]
    longest = max(used, key=len)
    return longest if all(_in_order(order, longest) for order in used) else None


def warn_of_near_misses(sites_of: Mapping[str, list[str]], column: str, *, numbered: bool = False) -> None:
    """Warn of labels of different sites that look like one; if `numbered`, as batches are, only where all letters and digits are the same."""
    for first, second in near_misses(sites_of):
        if numbered and _plain(first) != _plain(second):
            continue
        common, rare = sorted((first, second), key=lambda label: -len(sites_of[label]))
        warn(
            f"labels {first!r} ({sites_of[first][0]}) and {second!r} ({sites_of[second][0]}) in {column!r} look like one class; if "
            f"they are, spell them alike at all sites: infl.pp.harmonise(…, labels={{{rare!r}: {common!r}}})"
        )


def warn_of_one_class(labels: Mapping[str, Sequence[str]], target: str) -> None:
    """Warn of sites all of whose observations are of one class; `labels` are those that each site has."""
    alike = [f"{site} ({of_site[0]})" for site, of_site in labels.items() if len(of_site) == 1]
    if alike:
        warn(
            f"one class only of {target!r} at {shortlist(alike, shown=6)}: where class and site coincide, a model may learn "
            "the site in its place; look at infl.tl.compare(…, holdout='site'), and let sites differ by coordinate=16 "
            "(model 'classifier')"
        )


def near_misses(sites_of: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """Pairs of labels that may be one class spelt in two ways: alike, and never used side by side at a site."""
    pairs = combinations(sorted(sites_of), 2)
    return [(a, b) for a, b in pairs if not set(sites_of[a]) & set(sites_of[b]) and _alike(a, b)]


def _alike(a: str, b: str) -> bool:
    if (as_number := _number(a)) is not None and as_number == _number(b):
        return True
    a, b = _plain(a), _plain(b)
    if a == b:
        return True
    if re.findall(r"\d+", a) != re.findall(r"\d+", b):
        return False  # "class 1" and "class 10" differ by intention
    fewer, more = sorted((set(a.split()), set(b.split())), key=len)
    said_in_fewer_words = fewer <= more and any(len(word) > 3 for word in fewer)
    return said_in_fewer_words or SequenceMatcher(None, a, b).ratio() >= _ALIKE


def _plain(label: str) -> str:
    """Without capitals and punctuation."""
    return re.sub(r"[^\w+]+|_+", " ", label.casefold()).strip()


def relabelled(labels: pd.Series, renamed: Mapping[str, str]) -> pd.Series:
    """Labels as text, with their new names."""
    text = label_text(labels)
    return text.replace(dict(renamed)) if renamed else text


def check_renamed(sites: Mapping[str, AnnData | MuData], target: str | None, renamed: Mapping[str, str]) -> None:
    """Refuse new names for labels that no site has."""
    if target is None:
        raise SettingsError("labels renames classes, so it needs target=, the column of obs that has them")
    known = {
        label for adata in sites.values() if target in adata.obs for label in label_text(adata.obs[target]).dropna()
    }
    for label in renamed:
        if label not in known:
            raise DataError(
                f"labels renames {label!r}, which no site has in {target!r}; there are {shortlist(sorted(known), shown=6)}"
            )


def label_text(values: pd.Series) -> pd.Series:
    """Return labels as text, NaN where there is none.

    Whole numbers are written alike whatever their type: 1, 1.0 and the category 1.0 are the label "1".

    Examples
    --------
    >>> label_text(pd.Series([1.0, 2.0, None])).tolist(), label_text(pd.Series([True, False])).tolist()
    (['1', '2', nan], ['True', 'False'])
    """
    known = ~missing_values(values)
    text = pd.Series(np.nan, index=values.index, name=values.name, dtype=object)
    if isinstance(values.dtype, pd.CategoricalDtype):
        of = np.array([_text(category) for category in values.cat.categories], dtype=object)
        text[known] = of[values.cat.codes.to_numpy()[known]]
    else:
        plain = values[known].astype(object)
        odd = next((value for value in plain if not isinstance(value, Hashable)), None)
        if odd is not None:
            raise DataError(
                f"{values.name!r} has values that are no labels, such as {odd!r}: name a column of text or numbers"
            )
        text[known] = plain.map({value: _text(value) for value in plain.unique()}).to_numpy(dtype=object)
    return text


def check_labels(values: pd.Series, name: str, where: str, *, role: str = "target", partly: bool = False) -> None:
    """Refuse numbers where classes are due: broken ones, and more different ones than classes can be.

    `partly`: observations may lack a label, so that whole numbers may be stored as broken ones.
    """
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        return
    known = values.dropna()
    broken = pd.api.types.is_float_dtype(values.dtype) and not (partly and (known == known.round()).all())
    n_values = known.nunique()
    if broken or n_values > max(2, min(len(values) // 2, _MOST_NUMBERS)):
        raise DataError(
            f"{role} {name!r} is numeric at {where} ({n_values} values) where classes are due; name a column of labels, "
            "or make classes of it with pandas.cut or .astype(str)"
        )


def class_numbers(labels: pd.Series, classes: Sequence[str], name: str, where: str) -> np.ndarray:
    """Return the number of each label among the model's classes (n,), −1 where there is no label.

    Raises
    ------
    DataError
        A label that is none of the classes.
    """
    text = label_text(labels)
    numbers = pd.Index(list(classes), dtype=object).get_indexer(text).astype(np.int64)
    strange = (numbers < 0) & text.notna().to_numpy()
    if strange.any():
        raise DataError(
            f"{where} has {text[strange].iloc[0]!r} in {name!r}, which is none of the model's classes "
            f"{shortlist(list(classes))}: rename it, or leave those observations out"
        )
    return numbers


def label_type(columns: Iterable[pd.Series]) -> list[str]:
    """Return of what type the labels of all sites are, for :func:`as_labels`: a container, a type, and an order if any.

    Columns of several types make categories of text, as text does.

    Examples
    --------
    >>> label_type([pd.Series([True, False])]), label_type([pd.Series(["a"]), pd.Series([1])])
    (['plain', 'bool'], ['category', 'text'])
    >>> label_type([pd.Series(pd.Categorical(["low"], categories=["low", "high"], ordered=True))])
    ['ordered', 'text', 'low', 'high']
    """
    return common_type(_type_of(column) for column in columns if column.notna().any())


def common_type(found: Iterable[Sequence[str]]) -> list[str]:
    """Return the type that labels of several types have, each as :func:`label_type` gives it.

    Examples
    --------
    >>> common_type([["ordered", "text", "low"], ["ordered", "text", "low", "high"]])
    ['ordered', 'text', 'low', 'high']
    """
    types = [list(of_one) for of_one in found]
    heads = {tuple(type_[:2]) for type_ in types}
    longest = max(types, key=len, default=list(TEXT))
    if len(heads) != 1 or not all(_in_order(type_[2:], longest[2:]) for type_ in types):
        return list(TEXT)
    return longest


def as_labels(codes: np.ndarray, classes: Sequence[str], type_: Sequence[str] = TEXT) -> Any:
    """Return labels of class numbers (n,), −1 where there is none, in the type that the labels of the fit had.

    Examples
    --------
    >>> as_labels(np.array([1, 0]), ["False", "True"], ["plain", "bool"]).tolist()
    [True, False]
    >>> as_labels(np.array([1, -1]), ["3", "4"], ["plain", "int"]).tolist()
    [4, <NA>]
    """
    container, kind, *order = type_ if len(type_) == 2 or type_[0] == "ordered" else TEXT
    if container == "ordered" and set(classes) <= set(order):
        place = np.append([order.index(label) for label in classes], -1)
        return pd.Categorical.from_codes(place[codes], categories=_read(order, kind), ordered=True)
    values = _read(classes, kind)
    if container != "plain":
        return pd.Categorical.from_codes(codes, categories=values)
    found, missing = values[np.maximum(codes, 0)], codes < 0
    return _masked(found, missing)


def _masked(values: np.ndarray, missing: np.ndarray) -> Any:
    """Return values (n,), with missing ones where there are any, which numpy has no type for."""
    if not missing.any():
        return values
    array = pd.array(values, dtype="boolean" if values.dtype == bool else "Int64")
    array[missing] = pd.NA
    return array


def _read(labels: Sequence[str], kind: str) -> np.ndarray:
    """Return labels (n,) of text in their type."""
    if kind == "bool":
        return np.array([label == "True" for label in labels], dtype=bool)
    return (
        np.array(labels, dtype=object) if kind != "int" else np.array([int(label) for label in labels], dtype=np.int64)
    )


def _type_of(column: pd.Series) -> list[str]:
    """Return container, type, and order of one column's labels."""
    categories = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else None
    values = column[~missing_values(column)].astype(object) if categories is None else categories
    inferred = pd.api.types.infer_dtype(values, skipna=True)
    if inferred in ("floating", "mixed-integer-float") and all(float(value).is_integer() for value in values):
        inferred = "integer"
    kind = {"boolean": "bool", "integer": "int"}.get(inferred, "text")
    if categories is None:
        return list(TEXT) if kind == "text" else ["plain", kind]
    if column.cat.ordered:
        return ["ordered", kind, *map(_text, categories)]
    return ["category", kind]


def _in_order(some: Sequence[str], order: Sequence[str]) -> bool:
    """Whether `some` are among `order`, in that order."""
    rest = iter(order)
    return all(label in rest for label in some)


def _text(value: Any) -> str:
    """A label as text; a whole number without a decimal point."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _class_counts(adata: AnnData | MuData, target: str, site: str, renamed: Mapping[str, str]) -> pd.Series:
    labels = obs_column(adata, target, where=site, role="target")
    check_labels(labels, target, site)
    counts = relabelled(labels, renamed).value_counts()
    return counts[counts > 0]
