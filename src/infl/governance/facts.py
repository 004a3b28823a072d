"""All that page and cards say, gathered once."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infl import __version__
from infl._tables import label_of
from infl.errors import DataError, SettingsError
from infl.governance.language import Words, mark
from infl.pl._style import need_columns

if TYPE_CHECKING:
    from infl.federation.run import FederatedRun

STATEMENTS = {
    "purpose": mark("What is the model for?"),
    "users": mark("Who will use it?"),
    "not_for": mark("What must it not be used for?"),
    "people": mark("Whose data are they, and how were they collected?"),
    "legal_basis": mark("On which consent or legal basis are they used?"),
    "licence": mark("Under which licence may the model be passed on?"),
    "upkeep": mark("Who keeps the model up, and until when?"),
    "contact": mark("Who answers questions?"),
}
"""What only people can say, by the name under which they say it in ``statements=``."""

METRICS = {
    "accuracy": mark("share of records that are classified rightly"),
    "balanced_accuracy": mark("the same, averaged over the classes, so that rare ones count alike"),
    "macro_f1": mark("harmonic mean of precision and sensitivity, averaged over the classes"),
    "auroc": mark("chance that a record of a class is ranked above one of another"),
    "calibration_error": mark("how far stated probabilities are from what happened; 0 is best"),
    "loss": mark("what training makes small; 0 is best for a classifier"),
    "log_loss": mark("penalty for confident wrong predictions; 0 is best"),
}
"""Plain words for metrics of ours; others are named only."""

PACKAGES = (
    *("torch", "numpy", "scipy", "pandas", "anndata", "mudata", "scanpy", "scikit-learn", "cryptography", "pyrage"),
    *("safetensors", "scvi-tools", "opacus", "nvflare", "transformers", "peft"),
)
"""Whose versions are named where they are installed."""

MOST_ENTRIES = 20
"""Longer options are shown by their length."""


@dataclass(frozen=True)
class Facts:
    """A run, the evidence that was gathered about it, and people's statements on it.

    Attributes
    ----------
    run
        The run.
    audit
        What :func:`infl.tl.audit` returned, or None.
    comparison
        What :func:`infl.tl.compare` returned, or None.
    lock_curve
        What :func:`infl.tl.lock_curve` returned, or None.
    site_metrics
        What :func:`infl.tl.site_metrics` returned, or None.
    statements
        Answers to :data:`STATEMENTS`.
    min_count
        Numbers of records below this are not shown, nor what was measured on so few.
    language
        Language of the page: one of ``infl.governance.LANGUAGES``. The files for programs are in English.
    written
        When, in UTC.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    >>> Facts(run).by_kind["kind"].tolist()
    ['count', 'means', 'deviations', 'train', 'judge', 'temperature', 'confidence', 'close']
    """

    run: FederatedRun
    audit: pd.DataFrame | None = None
    comparison: pd.DataFrame | None = None
    lock_curve: pd.DataFrame | None = None
    site_metrics: pd.DataFrame | None = None
    statements: Mapping[str, str] = field(default_factory=dict)
    min_count: int = 10
    language: str = "en"
    written: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))

    def __post_init__(self) -> None:
        if not hasattr(self.run, "settings"):
            raise SettingsError(
                f"a report is of what infl.tl.fit_federated returned, not {type(self.run).__name__}: a model alone does not know what left the sites"
            )
        unknown = [name for name in self.statements if name not in STATEMENTS]
        if unknown:
            raise SettingsError(f"statements: {unknown[0]!r} is not asked for: some of {', '.join(STATEMENTS)}")
        if wrong := [name for name, answer in self.statements.items() if not isinstance(answer, str)]:
            raise SettingsError(f"statements: {wrong[0]!r} is to be answered with a text")
        if isinstance(self.min_count, bool) or not isinstance(self.min_count, int) or self.min_count < 1:
            raise SettingsError(f"min_count={self.min_count!r}: give a whole number of at least 1")
        _ = self.words
        for name, columns in (
            ("audit", ["attack", "against", "metric", "value", "chance", "control", "status"]),
            ("comparison", ["method", "metric", "mean", "sd", "worst_site"]),
            ("lock_curve", ["strength", "who", "sd"]),
            ("site_metrics", ["n_obs", "n_judged"]),
        ):
            table = getattr(self, name)
            if table is not None:
                source = {"comparison": "compare"}.get(name, name)
                need_columns(table, columns, f"{name}= takes what infl.tl.{source} returns")
        if self.audit is not None and self.audit.attrs.get("run", self.settings["run"]) != self.settings["run"]:
            raise DataError("audit= is of another run: attack this one with infl.tl.audit(run, sites)")

    @cached_property
    def words(self) -> Words:
        """What the page says, in its language."""
        return Words(self.language)

    # -- who and how -----------------------------------------------------------------------------------------------
    @property
    def settings(self) -> dict[str, Any]:
        """The run's specification."""
        return self.run.settings

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of all sites."""
        return tuple(self.settings["sites"])

    @property
    def target(self) -> str:
        """What was learned, by its columns; empty where the task has none."""
        target = self.settings["options"].get("target") or ""
        return target if isinstance(target, str) else ", ".join(map(str, target))

    @cached_property
    def options(self) -> dict[str, Any]:
        """The task's options; of a path its last part, of what is long its length."""
        return {name: _told(value) for name, value in self.settings["options"].items()}

    @property
    def n_rounds(self) -> int:
        """Rounds that were trained."""
        return len(self.run.history)

    @property
    def best_round(self) -> int | None:
        """The round whose model was kept."""
        best = self.run.history.index[self.run.history["best"]]
        return int(best[0]) if len(best) else None

    @property
    def n_weights(self) -> int:
        """Number of weights in the model file."""
        return sum(t.numel() for t in self.run.model.stored.values())

    # -- what left -------------------------------------------------------------------------------------------------
    @property
    def with_ledger(self) -> tuple[str, ...]:
        """Sites whose ledger is here: all of them where the run was in one process, else this site."""
        here = set(self.run.ledger["site"])
        return tuple(site for site in self.sites if site in here)

    @property
    def simulated(self) -> bool:
        """Whether all sites were in one process: only then are the ledgers of several in one place."""
        return len(self.with_ledger) == len(self.sites) > 1

    @property
    def all_sealed(self) -> bool:
        """Whether no message that is on record could be read by the coordinator."""
        return bool(self.run.ledger["sealed"].astype(bool).all())

    @cached_property
    def by_site(self) -> pd.DataFrame:
        """Site, rounds answered, messages, bytes, unsealed messages, first and last time; of sites whose ledger is here."""
        ledger = self.run.ledger.assign(open=~self.run.ledger["sealed"].astype(bool))
        groups = ledger.groupby("site")
        table = groups.agg(messages=("bytes", "size"), bytes=("bytes", "sum"), unsealed=("open", "sum"))
        table["rounds"] = ledger[ledger["round"] > 0].groupby("site")["round"].nunique().reindex(table.index).fillna(0)
        table["first"], table["last"] = groups["time"].min(), groups["time"].max()
        columns = ["rounds", "messages", "bytes", "unsealed", "first", "last"]
        table = table.loc[list(self.with_ledger), columns].astype({"rounds": int})
        return table.rename_axis("site").reset_index()

    @cached_property
    def by_kind(self) -> pd.DataFrame:
        """Kind of message, what it carries in plain words, messages and bytes; the steps of a sum are one kind."""
        groups = self.run.ledger.groupby("sum", sort=False)
        table = groups.agg(what=("says", "first"), messages=("bytes", "size"), bytes=("bytes", "sum"))
        return table.rename_axis("kind").reset_index()

    # -- key and privacy -------------------------------------------------------------------------------------------
    @cached_property
    def grants(self) -> pd.DataFrame | None:
        """Who was granted which versions, and since when; None without the key ring, or without lock and seal."""
        if self.run.key is None:
            return None
        trail = self.run.key.trail
        since: dict[str, str] = {}
        for line in trail.lines:
            if line.action == "grant":
                since.setdefault(line.who, line.when)
            elif line.action == "revoke":
                since.pop(line.who, None)
        rows = [(m.name, ", ".join(map(str, m.versions)), since[m.name]) for m in trail.members().values()]
        return pd.DataFrame(rows, columns=["site", "versions", "since"])

    # -- how good --------------------------------------------------------------------------------------------------
    @cached_property
    def quality(self) -> dict[str, float]:
        """Validation metrics of the model that was kept, over all sites together."""
        if self.best_round is None:
            return {}
        row = self.run.history.loc[self.best_round]
        names = [str(c) for c in self.run.history if str(c).startswith("val_")]
        return {name.removeprefix("val_"): float(row[name]) for name in names if np.isfinite(row[name])}

    @cached_property
    def at_sites(self) -> pd.DataFrame | None:
        """Records, judged records and metrics of each site; missing where there are fewer than `min_count`.

        With one number missing a reader who knows the sum would have it, so the next smallest goes too.
        """
        if self.site_metrics is None:
            return None
        table = self.site_metrics.rename_axis("site").reset_index()
        metrics = [c for c in table if c not in ("site", "n_obs", "n_judged")]
        few = self._few(table["n_obs"])
        few_judged = few | self._few(table["n_judged"])
        shown = table.astype({"n_obs": "Int64", "n_judged": "Int64"})
        shown.loc[few, "n_obs"] = pd.NA
        shown.loc[few_judged, "n_judged"] = pd.NA
        shown.loc[few_judged, metrics] = np.nan
        return shown

    def _few(self, counts: pd.Series) -> pd.Series:
        few = counts < self.min_count
        if few.sum() == 1 and len(few) > 1:
            few = few | (counts.index == counts[~few].idxmin())
        return few

    # -- what was tried against it ---------------------------------------------------------------------------------
    @cached_property
    def findings(self) -> dict[str, int]:
        """Number of findings of the audit by status; empty without one."""
        return {} if self.audit is None else {str(k): int(v) for k, v in self.audit["status"].value_counts().items()}

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of infl, Python and the packages that do the work, where the page is written."""
        found = {"infl": __version__, "Python": platform.python_version()}
        for name in PACKAGES:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return found

    @property
    def unanswered(self) -> dict[str, str]:
        """Questions that nobody answered yet, by name."""
        return {name: question for name, question in STATEMENTS.items() if not self.statements.get(name)}


def _told(value: Any) -> Any:
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    if isinstance(value, list | tuple | dict) and len(value) > MOST_ENTRIES:
        return f"{len(value):,} entries"
    return value


def metric_label(name: str) -> str:
    """Return plain words for a metric: its name where there are none."""
    return METRICS.get(name, label_of(name))
