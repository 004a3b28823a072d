"""One name for each feature, where sites spell it in several ways."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd

from infl.data.columns import shortlist
from infl.errors import DataError

_VERSIONED = re.compile(r"(ENS[A-Z]*[GTPE]\d{6,})\.\d+$", re.IGNORECASE)
_ENSEMBL = re.compile(r"ENS([A-Z]*)[GTPE]\d{6,}$", re.IGNORECASE)
_SPECIES = {"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish", "SSC": "pig", "MMU": "macaque"}
_MOSTLY = 0.8  # share of the names of a site that makes them a species'


def one_spelling(names: Mapping[str, pd.Index], aliases: Mapping[str, str]) -> dict[str, pd.Index]:
    """Names of each site's features, alike where only the spelling differs.

    First `aliases` are applied. Names that then are equal but for case, white space at the ends or the version of an
    Ensembl identifier become one: the identifier without its version, else the spelling that most sites use. Names of a
    site that would become equal to each other stay as they are.

    Parameters
    ----------
    names
        By site.
    aliases
        Other names of features, and what to call them.

    Raises
    ------
    infl.errors.DataError
        Aliases make two features of a site one, or the names are those of different species.

    Examples
    --------
    >>> names = {"a": pd.Index(["TP53", "MYC"]), "b": pd.Index(["tp53", "MYC"]), "c": pd.Index(["P53", "MYC"])}
    >>> one_spelling(names, {"P53": "TP53"})["b"].tolist()
    ['TP53', 'MYC']
    """
    known = {_key(name): str(target) for name, target in aliases.items()}
    called = {
        site: pd.Index([str(aliases.get(name, known.get(_key(name), name))) for name in index], dtype=object)
        for site, index in names.items()
    }
    for site, index in called.items():
        if not index.is_unique:
            target = index[index.duplicated()][0]
            both = names[site][index == target].tolist()
            raise DataError(
                f"aliases call {shortlist(both)} at {site} all {target!r}: leave all but one of these features out, or "
                "their aliases"
            )
    first, *others = called.values()
    if all(first.equals(other) for other in others):
        return called
    _check_species(called)
    keys = {site: [_key(name) for name in index] for site, index in called.items()}
    unclear = {key for own in keys.values() for key, times in Counter(own).items() if times > 1}
    spelt: dict[str, Counter[str]] = {}
    for site, index in called.items():
        for key, name in zip(keys[site], index, strict=True):
            if key not in unclear:
                spelt.setdefault(key, Counter())[name] += 1
    chosen = {key: _best(spellings) for key, spellings in spelt.items() if len(spellings) > 1}
    return {
        site: pd.Index([chosen.get(key, name) for key, name in zip(keys[site], index, strict=True)], dtype=object)
        for site, index in called.items()
    }


def spelt_as(wanted: pd.Index, names: pd.Index, aliases: Mapping[str, str], *, where: str) -> pd.Index:
    """Names of features, those that `wanted` has too as they are spelt there; the others stay.

    An alias comes first, then the name itself, then one that differs by case, white space at the ends or the version of an
    Ensembl identifier, then a `wanted` name whose own alias it is: a table serves in both directions.

    Parameters
    ----------
    wanted
        Names to be found, e.g. a model's.
    names
        Of the data.
    aliases
        Other names of features, and what to call them.
    where
        For messages.

    Raises
    ------
    infl.errors.DataError
        Two features of the data are one of `wanted`, or the names are those of different species.

    Examples
    --------
    >>> table = {"ENSG00000136997": "MYC", "P53": "TP53"}
    >>> spelt_as(
    ...     pd.Index(["TP53", "ENSG00000136997"]), pd.Index(["myc", "P53", "XIST"]), table, where="site_4"
    ... ).tolist()
    ['ENSG00000136997', 'TP53', 'XIST']
    """
    names = pd.Index([str(name) for name in names], dtype=object)  # numbers, as anndata takes them
    table = {_key(name): _key(target) for name, target in aliases.items()}
    by_key = _one_each((_key(name), name) for name in wanted)
    by_alias = _one_each((table[_key(name)], name) for name in wanted if _key(name) in table)
    exact, found = set(wanted), {}
    for name in names:
        key = _key(name)
        other = table.get(key, key)
        own = name if name in exact else None
        named = by_key.get(other) if other != key else None
        if target := named or own or by_key.get(key) or by_alias.get(other) or by_alias.get(key):
            found[name] = target
    claims: dict[str, list[str]] = {}
    for name, target in found.items():
        claims.setdefault(target, []).append(name)
    for target, claimants in claims.items():
        if len(claimants) == 1:
            continue
        if target in claimants and not any(_key(name) in table for name in claimants):
            for name in claimants:
                found[name] = name  # the one that is spelt so is meant
            continue
        raise DataError(
            f"{shortlist(claimants)} at {where} are all the model's {target!r}: leave all but one of these features out, or "
            "their aliases"
        )
    if unlike := [name for name, target in found.items() if name != target and _key(name) == _key(target)]:
        _check_species({"the model": pd.Index([found[name] for name in unlike]), where: pd.Index(unlike)})
    return pd.Index([found.get(name, name) for name in names], dtype=object)


def different_kinds(
    first: Iterable[str], second: Iterable[str], how: str = "harmonise(aliases={identifier: symbol, …})"
) -> str:
    """What to do where two sites share no name: other versions or case, or identifiers here and symbols there, are named."""
    first, second = list(first), list(second)
    if {_key(name) for name in first} & {_key(name) for name in second}:
        return "they differ by case or by the version of an Ensembl identifier: infl.pp.harmonise(sites) makes them one"
    kinds = [_share(names, lambda name: bool(_ENSEMBL.match(_plain(name)))) > _MOSTLY for names in (first, second)]
    if kinds[0] == kinds[1]:
        return "use the same kind of names everywhere"
    return f"one has Ensembl identifiers: {how} makes them one"


def _plain(name: str) -> str:
    """Without white space at the ends and Ensembl version."""
    name = str(name).strip()
    return found.group(1) if (found := _VERSIONED.match(name)) else name


def _key(name: str) -> str:
    return _plain(name).casefold()


def _one_each(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names by key, without keys that several names have."""
    found: dict[str, set[str]] = {}
    for key, name in pairs:
        found.setdefault(key, set()).add(name)
    return {key: next(iter(names)) for key, names in found.items() if len(names) == 1}


def _best(spellings: Counter[str]) -> str:
    """The plain form if that is what differs, else what most sites write; the first in order among equals."""
    plain: Counter[str] = Counter()
    for name, times in spellings.items():
        plain[_plain(name)] += times
    return min(plain, key=lambda name: (-plain[name], name))


def _check_species(called: Mapping[str, pd.Index]) -> None:
    """Refuse names of several species, which case or version would make look like one."""
    at: dict[str, str] = {}
    for site, index in called.items():
        if (species := _species(index)) is not None:
            at.setdefault(species, site)
    if len(at) > 1:
        (one, here), (other, there) = list(at.items())[:2]
        raise DataError(
            f"names of {there} are spelt like {other} genes ({called[there][0]!r}), those of {here} like {one} genes "
            f"({called[here][0]!r}): translate them to orthologues with aliases={{name: NAME, …}}, or, if it is one species, "
            "give var_names one case"
        )


def _species(names: pd.Index) -> str | None:
    """Species by Ensembl prefix; by capitals human or mouse (HGNC writes TP53, MGI writes Trp53)."""
    prefixes = Counter(found.group(1).upper() for name in names if (found := _ENSEMBL.match(_plain(name))))
    if prefixes.total() > _MOSTLY * len(names):
        prefix = prefixes.most_common(1)[0][0]
        return _SPECIES.get(prefix, f"ENS{prefix}")
    words = [name for name in names if re.match(r"[A-Za-z]{2}", name)]
    if len(words) <= _MOSTLY * len(names):
        return None
    if _share(words, str.isupper) > _MOSTLY:
        return "human"
    return "mouse" if _share(words, lambda name: name[0].isupper() and name[1:] == name[1:].lower()) > _MOSTLY else None


def _share(names: Iterable[str], test) -> float:
    results = [test(name) for name in names]
    return sum(results) / max(1, len(results))
