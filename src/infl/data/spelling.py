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


def different_kinds(first: Iterable[str], second: Iterable[str]) -> str:
    """What to do where two sites share no name: if one has identifiers, the other symbols, that is said."""
    kinds = [_share(names, lambda name: bool(_ENSEMBL.match(_plain(name)))) > _MOSTLY for names in (first, second)]
    if kinds[0] == kinds[1]:
        return "use the same kind of names everywhere"
    return "one has Ensembl identifiers: harmonise(aliases={identifier: symbol, …}) makes them one"


def _plain(name: str) -> str:
    """Without white space at the ends and Ensembl version."""
    name = str(name).strip()
    return found.group(1) if (found := _VERSIONED.match(name)) else name


def _key(name: str) -> str:
    return _plain(name).casefold()


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
