"""What a figure is evidence of: which data it may come from, over what it varies, and what is concluded from it (docs/evidence.md).

Data sets are for development, on which settings may be chosen, or for confirmation: those are read once for each change of a
method, and every reading is written into ``benchmarks/confirmations.json``.

An interval is over *units* (patients, studies, targets, sections), of which new ones would be drawn if the study were repeated.
Seeds are noise inside a unit: more of them do not make more units.

References
----------
Nadeau, Bengio, Inference for the generalization error, Machine Learning 2003. Hesterberg, What teachers should know about the
bootstrap, The American Statistician 2015 (percentiles for few units). Schuirmann, A comparison of the two one-sided tests
procedure, Journal of Pharmacokinetics and Biopharmaceutics 1987. Saravanan, Berman, Sober, Application of the hierarchical
bootstrap to multi-level data in neuroscience, 2020.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from scipy import stats

import infl
from panels import use_data_folder

ROOT = Path(__file__).resolve().parents[1]
CONFIRMATIONS = ROOT / "benchmarks" / "confirmations.json"
CONFIDENCE = 0.95
FEWEST_UNITS = 6
"""Fewer cannot be resampled: the tails of so few units lie outside of them."""

Kind = Literal["development", "confirmation"]


@dataclass(frozen=True)
class DataSet:
    """A data set that benchmarks judge on.

    Attributes
    ----------
    file
        In the folder of data.
    kind
        What may be done with it.
    unit
        What would be drawn anew if the study were repeated.
    """

    file: str
    kind: Kind
    unit: str


DATA_SETS = MappingProxyType(
    {
        "khan": DataSet("srbct_khan.h5ad", "development", "patient"),
        "breast rna": DataSet("breast_tcga.h5mu", "development", "patient"),
        "breast mirna": DataSet("breast_tcga.h5mu", "development", "patient"),
        "breast protein": DataSet("breast_tcga.h5mu", "development", "patient"),
        "stemcells": DataSet("stemcells_four_studies.h5ad", "development", "study"),
        "papalexi": DataSet("papalexi_crispr.h5ad", "development", "perturbation target"),
        "her2st sections": DataSet("her2st_labelled_sections.h5ad", "development", "patient"),
        "her2st two more": DataSet("her2st_labelled_two_more.h5ad", "confirmation", "patient"),
        "her2st histology": DataSet("her2st_histology_sections.h5ad", "development", "section"),
        "spamosaic": DataSet("spamosaic_sim", "development", "section"),
        "gbsg2": DataSet("gbsg2.csv", "development", "patient"),
        "rossi": DataSet("rossi.csv", "development", "convict"),
        "lung": DataSet("lung.csv", "development", "patient"),
        "texts": DataSet("", "confirmation", "text task"),  # fetched by text_tasks.py
        "gse7390": DataSet("breast_cancer_GSE7390-metastasis.arff", "development", "patient"),
    }
)


class AlreadyReadError(RuntimeError):
    """A confirmation set was read before with this very method."""


@dataclass(frozen=True)
class Method:
    """What is confirmed.

    Attributes
    ----------
    name
        What people call it.
    files
        Python files that it consists of, from the repository's root.
    settings
        All that was chosen.
    """

    name: str
    files: tuple[str, ...]
    settings: Mapping[str, Any]

    def digest(self, root: Path = ROOT) -> str:
        """Return the SHA-256 of its code, without comments and layout, and of its settings."""
        code = [ast.unparse(ast.parse((root / file).read_text())) for file in self.files]
        text = json.dumps([list(self.files), code, dict(self.settings)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def confirm(name: str, method: Method, *, again: str = "", log: Path = CONFIRMATIONS, root: Path = ROOT) -> DataSet:
    """Write into the log that a confirmation set is read with a method, and return the set.

    Parameters
    ----------
    name
        Of :data:`DATA_SETS`.
    method
        What is judged on it.
    again
        Why it is read once more with the same method, if it is.
    log, root
        The log, and the repository.

    Raises
    ------
    AlreadyReadError
        It was read with this method before.
    ValueError
        It is not a confirmation set.
    """
    found = DATA_SETS[name]
    if found.kind != "confirmation":
        raise ValueError(f"{name} is a development set: nothing is confirmed on it")
    entries = json.loads(log.read_text()) if log.exists() else []
    digest = method.digest(root)
    before = [entry for entry in entries if entry["set"] == name and entry["digest"] == digest]
    if before and not again:
        raise AlreadyReadError(
            f"{name} was read with this {method.name} on {before[-1]['date']} at commit {before[-1]['commit'][:9]}: "
            "say in again= why it has to be read once more"
        )
    entry = {"set": name, "method": method.name, "digest": digest, "settings": dict(method.settings)}
    entry |= {"commit": _commit(root), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    log.write_text(json.dumps([*entries, entry | ({"again": again} if again else {})], indent=1, default=str) + "\n")
    return found


def data_file(name: str, method: Method | None = None, *, again: str = "") -> Path:
    """Return where a data set is; of a confirmation set, the reading is logged first.

    Parameters
    ----------
    name
        Of :data:`DATA_SETS`.
    method, again
        As for :func:`confirm`; a development set needs neither.
    """
    use_data_folder()
    if DATA_SETS[name].kind == "confirmation":
        if method is None:
            raise ValueError(f"{name} is a confirmation set: say which method is judged on it")
        confirm(name, method, again=again)
    return Path(infl.settings.data_dir) / DATA_SETS[name].file


def _commit(root: Path) -> str:
    """Return the commit, with ``+`` if files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


@dataclass(frozen=True)
class Estimate:
    """A mean, or a mean of differences, with what it is uncertain over.

    Attributes
    ----------
    value, low, high
        With its 95 % interval.
    error
        Standard error.
    df
        Degrees of freedom of the error.
    unit
        What `n_units` counts.
    how
        By what the interval was found.
    """

    value: float
    low: float
    high: float
    error: float
    df: float
    unit: str
    n_units: int
    how: str

    def __str__(self) -> str:
        """As a text shows it."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] ({self.n_units} {self.unit}s, {self.how})"

    def row(self) -> dict[str, Any]:
        """Return what a row of a table keeps of it."""
        own = asdict(self)
        del own["value"]
        return own | {"interval": [own.pop("low"), own.pop("high")]}


def _by_t(value: float, error: float, df: float, unit: str, n_units: int, how: str) -> Estimate:
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, df) * error)
    return Estimate(float(value), float(value - half), float(value + half), float(error), df, unit, n_units, how)


def over_units(values: np.ndarray | Iterable[float], unit: str) -> Estimate:
    """Return the mean over units with Student's interval; seeds are averaged within each unit first.

    Parameters
    ----------
    values
        One number a unit, or one row a unit and one column a seed. ``(n_units,)`` or ``(n_units, n_seeds)``
    unit
        What a unit is.
    """
    values = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, dtype=float)
    means = values.reshape(len(values), -1).mean(1)
    if len(means) < 2:
        raise ValueError(f"one {unit} has no interval")
    return _by_t(means.mean(), stats.sem(means), len(means) - 1, unit, len(means), "Student's t")


def bootstrap(
    values: np.ndarray,
    unit: str,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    seed: int = 0,
    n: int = 4000,
) -> Estimate:
    """Return a statistic with the interval of a hierarchical bootstrap: units are drawn, then seeds within each drawn unit.

    Percentiles are widened for few units as Student's interval is (Hesterberg 2015).

    Parameters
    ----------
    values
        ``(n_units, n_seeds)``
    unit
        What a unit is.
    statistic
        Of an array of that shape.
    seed, n
        Of the resampling; number of resamples.

    Raises
    ------
    ValueError
        There are fewer than :data:`FEWEST_UNITS` units.
    """
    values = np.asarray(values, dtype=float).reshape(len(values), -1)
    n_units, n_seeds = values.shape
    if n_units < FEWEST_UNITS:
        raise ValueError(f"{n_units} {unit}s are too few to be resampled: over_units")
    rng = np.random.default_rng(seed)
    units = rng.integers(n_units, size=(n, n_units, 1))
    seeds = rng.integers(n_seeds, size=(n, n_units, n_seeds))
    again = np.array([statistic(drawn) for drawn in values[units, seeds]])
    tail = float(stats.norm.cdf(stats.t.ppf((1 - CONFIDENCE) / 2, n_units - 1) * (n_units / (n_units - 1)) ** 0.5))
    low, high = np.quantile(again, [tail, 1 - tail])
    error = float(again.std(ddof=1) * (n_units / (n_units - 1)) ** 0.5)
    value = float(statistic(values))
    return Estimate(value, float(low), float(high), error, n_units - 1, unit, n_units, "hierarchical bootstrap")


def over_resplits(values: np.ndarray | Iterable[float], test_share: float, unit: str = "resplit") -> Estimate:
    """Return the mean over random splits of the same observations, with the correction of Nadeau and Bengio.

    The splits share observations, so their spread understates the error: its variance is (1/n + n_test / n_train) σ², not
    σ² / n.

    Parameters
    ----------
    values
        One number a split, or one row a split and one column a key or seed. ``(n_splits,)`` or ``(n_splits, n_seeds)``
    test_share
        Share of the observations that is held out.
    unit
        What a split is called.
    """
    values = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, dtype=float)
    means = values.reshape(len(values), -1).mean(1)
    return resplits_with(float(means.mean()), float(means.std(ddof=1)), len(means), test_share, unit)


def resplits_with(mean: float, spread: float, n: int, test_share: float, unit: str = "resplit") -> Estimate:
    """Return the estimate of :func:`over_resplits` from the mean and the standard deviation of n splits."""
    error = spread * (1 / n + test_share / (1 - test_share)) ** 0.5
    return _by_t(mean, error, n - 1, unit, n, "Nadeau-Bengio correction")


def paired(ours: np.ndarray, theirs: np.ndarray, unit: str, *, test_share: float | None = None) -> Estimate:
    """Return ours − theirs on the same units, or on the same splits where `test_share` says how much they hold out."""
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if ours.shape != theirs.shape:
        raise ValueError(f"pairs are of the same {unit}s and seeds: {ours.shape} and {theirs.shape}")
    difference = ours - theirs
    return over_units(difference, unit) if test_share is None else over_resplits(difference, test_share, unit)


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of a difference against ± a margin.

    Attributes
    ----------
    margin
        Differences within ± this are of no consequence. Stated before the figures are seen.
    p
        The larger of the two p-values.
    verdict
        ``"equal"`` where p < 0.05, ``"different"`` where the 95 % interval lies outside of the margin, else ``"inconclusive"``.
    """

    margin: float
    p: float
    verdict: Literal["equal", "different", "inconclusive"]


def equivalence(difference: Estimate, margin: float) -> Equivalence:
    """Test whether a difference is within ± `margin` (TOST, at 5 %).

    A difference that could not be shown is not equality: that has to be shown itself.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin}: a number above 0")
    if difference.error == 0:
        return Equivalence(margin, *((0.0, "equal") if abs(difference.value) < margin else (1.0, "different")))
    above = stats.t.sf((difference.value + margin) / difference.error, difference.df)  # of a difference ≤ −margin
    below = stats.t.cdf((difference.value - margin) / difference.error, difference.df)  # of a difference ≥ +margin
    p = float(max(above, below))
    if p < 1 - CONFIDENCE:
        return Equivalence(margin, p, "equal")
    outside = difference.low > margin or difference.high < -margin
    return Equivalence(margin, p, "different" if outside else "inconclusive")


def no_worse(difference: Estimate, margin: float) -> bool:
    """Say whether ours − theirs is above −margin: one of the two tests, at 2.5 %."""
    return difference.low > -margin


def noise_of_seeds(values: np.ndarray) -> float:
    """Return the standard deviation over seeds within a unit, pooled over units: noise of initialisation, nothing else.

    Parameters
    ----------
    values
        ``(n_units, n_seeds)``
    """
    return float(np.sqrt(np.asarray(values, dtype=float).var(axis=1, ddof=1).mean()))
