"""How imputed features are like measured ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from mudata import MuData

from infl._parameters import DATA, Text
from infl.data.columns import shortlist
from infl.errors import DataError
from infl.pl._style import axes, picture
from infl.pl.colours import BLUE, GREY, ORANGE

_MARKED = ("best", "middle", "worst")


@picture(mdata=DATA, modality=Text(), measured=replace(DATA, none=True), feature=Text(none=True))
def imputation(
    mdata: MuData,
    modality: str,
    *,
    measured: AnnData | None = None,
    feature: str | None = None,
    key_added: str = "infl",
    ax: Axes | None = None,
) -> Axes:
    """Draw predicted against measured values of a modality that ``model="mosaic"`` imputed.

    The first panel has a dot for each feature: Pearson's correlation over spots of what was predicted and what was
    measured. The others have the spots of the best, middle and worst feature. Measured values are transformed as the
    model's are (log-ratios of proteins, roots of counts).

    Parameters
    ----------
    mdata
        Has the modality ``"infl_" + modality``.
    modality
        Which.
    measured
        The same modality as measured (counts), for spots by name; default: ``mdata[modality]``, after a fit with
        ``impute="all"``.
    feature
        Draw the spots of this feature alone.
    key_added
        Prefix of the imputed modality.
    ax
        Where to draw the first panel, or that of `feature`, alone; default: a new figure.

    Returns
    -------
    The axes of the first panel.

    Raises
    ------
    infl.errors.DataError
        There is no such modality or feature, or no spot with both values.

    Examples
    --------
    >>> import infl, mudata, numpy as np, anndata
    >>> rng = np.random.default_rng(0)
    >>> adt = anndata.AnnData(rng.poisson(5.0, (20, 3)).astype("float32"))
    >>> guess = anndata.AnnData(adt.X + 1, uns={"infl_imputed": {"modality": "adt", "kind": "values"}})
    >>> infl.pl.imputation(mudata.MuData({"infl_adt": guess}), "adt", measured=adt).get_ylabel()
    'Pearson correlation'
    """
    predicted, known, names = _both(mdata, modality, measured, key_added)
    r = np.array([_correlation(a, b) for a, b in zip(predicted.T, known.T, strict=True)])
    if feature is not None:
        if feature not in names:
            raise DataError(f"modality {modality!r} has no feature {feature!r}: it has {shortlist(list(names))}")
        i = names.index(feature)
        return _spots(axes(ax, 3.6, 3.4), predicted[:, i], known[:, i], f"{feature}: r = {r[i]:.2f}")
    order = np.argsort(-r, kind="stable")
    if ax is not None:
        return _features(axes(ax, 0, 0), r[order], {})
    chosen = dict(zip(_MARKED, (0, len(r) // 2, len(r) - 1), strict=True))
    _, grid = plt.subplots(1, 4, figsize=(11.5, 3), layout="constrained", width_ratios=[1.3, 1, 1, 1])
    first = _features(axes(grid[0], 0, 0), r[order], chosen)
    for panel, (word, place) in zip(grid[1:], chosen.items(), strict=True):
        i = order[place]
        _spots(axes(panel, 0, 0), predicted[:, i], known[:, i], f"{word}: {names[i]}, r = {r[i]:.2f}")
    return first


def _both(
    mdata: MuData, modality: str, measured: AnnData | None, key_added: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Predicted and measured values (n, p) of the spots and features that have both."""
    from infl.models.mosaic.data import IMPUTED
    from infl.models.mosaic.modalities import as_predicted

    name = f"{key_added}_{modality}"
    mod: Any = getattr(mdata, "mod", {})
    if name not in mod or IMPUTED not in mod[name].uns:
        raise DataError(
            f"there is no imputed modality {name!r} (there are {shortlist(list(mod))}): fit with model='mosaic', and with "
            "impute='all' where it was measured"
        )
    guess, known = mod[name], mod.get(modality) if measured is None else measured
    if known is None:
        raise DataError(f"modality {modality!r} was not measured here: pass measured=, or draw a site that has it")
    spots = guess.obs_names.intersection(known.obs_names)
    features = guess.var_names.intersection(known.var_names)
    if len(spots) < 2 or not len(features):
        raise DataError(
            f"{len(spots)} spots and {len(features)} features of {modality!r} are both imputed and measured"
        )
    facts = guess.uns[IMPUTED]
    values = known[:, features].X
    raw = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=float)
    raw = as_predicted(raw, facts["kind"], depth=bool(facts.get("depth", False)))
    return np.asarray(guess[spots, features].X), raw[known.obs_names.get_indexer(spots)], list(features)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _features(ax: Axes, r: np.ndarray, chosen: dict[str, int]) -> Axes:
    ax.axhline(0, color=GREY, linewidth=1)
    ax.scatter(np.arange(1, len(r) + 1), r, s=14, color=BLUE, linewidths=0)
    places = list(chosen.values())
    ax.scatter(np.array(places, dtype=int) + 1, r[places], s=36, facecolor="none", edgecolor=ORANGE, linewidths=1.5)
    ax.set_xlabel("features, best first")
    ax.set_ylabel("Pearson correlation")
    ax.set_title(f"mean {r.mean():.2f}", fontsize=10)
    ax.set_ylim(min(-0.05, r.min() - 0.05), 1)
    return ax


def _spots(ax: Axes, predicted: np.ndarray, measured: np.ndarray, title: str) -> Axes:
    ax.scatter(measured, predicted, s=6, color=BLUE, alpha=0.35, linewidths=0)
    low, high = (limit(np.r_[predicted, measured]) for limit in (np.min, np.max))
    ax.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=0)
    ax.set_xlabel("measured")
    ax.set_ylabel("predicted")
    ax.set_title(title, fontsize=10)
    return ax
