"""Leaving observations unassigned that a classifier is too unsure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infl.errors import KeyringError, SettingsError
from infl.models.labelled import check_unassigned, with_unassigned
from infl.sums.confidence import CONFIDENCE, error_above, threshold_of

if TYPE_CHECKING:
    from infl._types import Data
    from infl.keys import Keyring
    from infl.models.locked import LockedModel


@dataclass(frozen=True)
class Rejection:
    """Which observations are left unassigned.

    Attributes
    ----------
    share
        Wanted share of them.
    threshold
        Probability below which they are.
    error
        Share of errors among the validation observations that are not.
    """

    share: float
    threshold: float
    error: float

    @classmethod
    def of(cls, model: LockedModel, key: Keyring | None, share: float) -> Rejection:
        """Return what a model's counts of validation observations say of a share.

        Raises
        ------
        KeyringError
            They cannot be opened.
        SettingsError
            There are none.
        """
        h = model.header
        check_unassigned(h.panel.get("classes", ()))
        if key is None and h.fingerprint:
            raise KeyringError("reject= needs the counts that are encrypted in the model: pass key=")
        cells = model.private_arrays(key).get(CONFIDENCE)
        if cells is None or not cells.any():
            raise SettingsError(
                f"reject= needs counts of validation observations, which this model ({h.task}) has not: they are of a classifier "
                "fitted with calibrate=True and without privacy=, not changed since; leave reject= out"
            )
        threshold = threshold_of(cells, share)
        return cls(share, threshold, error_above(cells, threshold))

    def write(self, adata: Data, classes: list[str], key_added: str) -> None:
        """Replace the labels of unsure observations, and say in ``uns`` what was done."""
        label, probability = (adata.obs[f"{key_added}_{name}"] for name in ("prediction", "probability"))
        adata.obs[f"{key_added}_prediction"] = with_unassigned(label, probability.to_numpy(), classes, self.threshold)
        facts: dict[str, Any] = {"share": self.share, "threshold": self.threshold, "error": self.error}
        adata.uns[key_added]["reject"] = facts
