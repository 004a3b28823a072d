"""Leaving observations unassigned that a classifier is too unsure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infl.errors import KeyringError, SettingsError
from infl.models.labelled import check_unassigned, with_unassigned
from infl.sums.confidence import CONFIDENCE, SHAPE, error_above, threshold_of

if TYPE_CHECKING:
    from infl._types import Data
    from infl.keys import Keyring
    from infl.models.locked import LockedModel


@dataclass(frozen=True)
class Rejection:
    """Which observations are left unassigned, in one column of labels.

    Attributes
    ----------
    column
        What the names of its results end with; empty, or ``"_er"`` of several columns.
    classes
        Its classes.
    share
        Wanted share of observations.
    threshold
        Probability below which they are.
    error
        Share of errors among the validation observations that are not.
    """

    column: str
    classes: list[str]
    share: float
    threshold: float
    error: float

    @classmethod
    def of(cls, model: LockedModel, key: Keyring | None, share: float) -> list[Rejection]:
        """Return what a model's counts of validation observations say of a share, for each column of labels.

        Raises
        ------
        KeyringError
            They cannot be opened.
        SettingsError
            There are none.
        """
        h = model.header
        tasks = {f"_{name}": list(classes) for name, classes in h.panel.get("tasks", {}).items()}
        columns = tasks or {"": list(h.panel.get("classes", ()))}
        for classes in columns.values():
            check_unassigned(classes)
        if key is None and h.fingerprint:
            raise KeyringError("reject= needs the counts that are encrypted in the model: pass key=")
        cells = model.private_arrays(key).get(CONFIDENCE)
        if cells is None or not cells.any():
            raise SettingsError(
                f"reject= needs counts of validation observations, which this model ({h.task}) has not: they are of a classifier "
                "fitted with calibrate=True and without privacy=, not changed since; leave reject= out"
            )
        found = []
        for (column, classes), counts in zip(columns.items(), cells.reshape(len(columns), *SHAPE), strict=True):
            if not counts.any():
                raise SettingsError(
                    f"reject= has no validation observation with a label of {column[1:]!r} to calibrate by: leave reject= out"
                )
            threshold = threshold_of(counts, share)
            found.append(cls(column, classes, share, threshold, error_above(counts, threshold)))
        return found

    def write(self, adata: Data, key_added: str) -> None:
        """Replace the labels of unsure observations, and say in ``uns`` what was done."""
        label, probability = (adata.obs[f"{key_added}_{name}{self.column}"] for name in ("prediction", "probability"))
        unsure = with_unassigned(label, probability.to_numpy(), self.classes, self.threshold)
        adata.obs[f"{key_added}_prediction{self.column}"] = unsure
        facts: dict[str, Any] = {"share": self.share, "threshold": self.threshold, "error": self.error}
        if self.column:
            adata.uns[key_added].setdefault("reject", {})[self.column[1:]] = facts
        else:
            adata.uns[key_added]["reject"] = facts
