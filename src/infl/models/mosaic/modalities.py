"""What kinds of values modalities have, and how each is made alike to normal ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from infl.errors import DataError, SettingsError

PROTEINS = {"adt", "adts", "prot", "protein", "proteins", "antibody", "cite"}
ACCESSIBILITY = {"atac", "peaks", "accessibility", "scatac", "dnase"}


def _counts(x: np.ndarray, depth: bool) -> np.ndarray:
    if depth:
        total = x.sum(1, keepdims=True)
        x = x / np.maximum(total, 1) * np.median(total)
    return np.sqrt(x + 3 / 8)


def _clr(x: np.ndarray, depth: bool) -> np.ndarray:
    return np.log1p(x / np.exp(np.log1p(x).mean(0)))


def _tfidf(x: np.ndarray, depth: bool) -> np.ndarray:
    open_ = (x > 0).astype(np.float64)
    share = open_ / np.maximum(open_.sum(1, keepdims=True), 1)
    return np.log1p(1e4 * share * np.log1p(len(x) / np.maximum(open_.sum(0), 1)))


KINDS: dict[str, Callable[[np.ndarray, bool], np.ndarray]] = {
    "counts": _counts,
    "clr": _clr,
    "accessibility": _tfidf,
    "values": lambda x, depth: x,
}
"""How each kind of values (n, p) is made alike to normal ones, before features are standardised.

``"counts"``: the root that makes a Poisson variable's variance constant (Anscombe 1948), of counts a spot scaled to the
section's median total where depth is to be divided out. ``"clr"``: each protein's log-ratio to its geometric mean over spots
(Stoeckius et al. 2017). ``"accessibility"``: term frequency by inverse document frequency of what is open (Stuart et al.
2021); it is predicted as a probability. ``"values"``: as they are."""


def kind_of(modality: str, units: str | None, wanted: str | None) -> str:
    """Return the kind of a modality's values: what was asked for, else by its name and units.

    Raises
    ------
    SettingsError
        There is no such kind.
    DataError
        Counts are due and the values are none.

    Examples
    --------
    >>> (
    ...     kind_of("rna", "raw counts", None),
    ...     kind_of("adt", "raw counts", None),
    ...     kind_of("protein", "scaled values", None),
    ... )
    ('counts', 'clr', 'values')
    """
    if wanted is not None and wanted not in KINDS:
        raise SettingsError(f"kinds={{{modality!r}: {wanted!r}}}: one of {', '.join(map(repr, KINDS))}")
    if wanted is None:
        if units not in ("raw counts", None):
            return "values"
        name = modality.lower()
        return "clr" if name in PROTEINS else "accessibility" if name in ACCESSIBILITY else "counts"
    if wanted in ("counts", "clr", "accessibility") and units not in ("raw counts", None):
        raise DataError(
            f"modality {modality!r} has {units} where kind {wanted!r} needs raw counts: choose layer=, or leave kinds out"
        )
    return wanted


def check_kind(raw: np.ndarray, kind: str, modality: str, where: str) -> None:
    """Refuse values (n, p) that are not of their kind: negative or broken ones among counts.

    Raises
    ------
    DataError
        Which value, and that ``kinds=`` can say otherwise.
    """
    if kind == "values":
        return
    wrong = raw[(raw < 0) | (raw != np.rint(raw))]
    if wrong.size:
        raise DataError(
            f"{where} has {float(wrong.flat[0]):.3g} where kind {kind!r} needs raw counts: choose layer=, or, if they are other "
            f"values at all sites, set kinds={{{modality!r}: 'values'}}"
        )


def as_predicted(raw: np.ndarray, kind: str, *, depth: bool = False) -> np.ndarray:
    """Return measured values (n, p) in the units of predicted ones: transformed, or open or not."""
    return (raw > 0).astype(float) if kind == "accessibility" else KINDS[kind](raw, depth)
