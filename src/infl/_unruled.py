"""What rules of disclosure do not bind yet, why, and what to take instead: whole functions, and values of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unruled:
    """A function, or some values of one of its arguments (none named: any but None), that no rules bind."""

    why: str
    instead: str
    argument: str = ""
    values: tuple[str, ...] = ()

    def meant(self, given: Mapping[str, Any]) -> bool:
        """Whether a call with these arguments is meant."""
        value = given.get(self.argument)
        return not self.argument or (value in self.values if self.values else value is not None)

    def what(self, function: str, given: Mapping[str, Any]) -> str:
        """Return what is meant, in words."""
        value = f" {given[self.argument]!r}" if self.values else ""
        return f"{function} with {self.argument}{value}" if self.argument else function


_WEIGHTS = "its sums weight records by their totals, and give those back"
UNRULED: Mapping[str, tuple[Unruled, ...]] = {
    "cluster": (
        Unruled(
            "a component may come to be about a few records", "take 'kmeans' or 'ward'", "method", ("gmm", "spheres")
        ),
        Unruled("it sends centroids of small groups", "take 'kmeans' or 'ward'", "method", ("leiden",)),
    ),
    "cox": (
        Unruled(
            "its sums about who is at risk are many about the same patients",
            "compare groups by infl.tl.survival",
        ),
    ),
    "de": (Unruled(_WEIGHTS, "take 'limma' on logarithms", "method", ("voom", "deseq2")),),
    "harmony_integrate": (
        Unruled(
            "a batch may come to be about few records while it is fitted",
            "take combat or remove_batch_effect",
        ),
    ),
    "highly_variable_genes": (
        Unruled(
            "figures of each batch are opened, and a batch may be at few sites",
            "leave batch_key out",
            "batch_key",
        ),
    ),
    "pseudobulk": (
        Unruled(
            "samples of the same names may be of other cells",
            "make samples before the study",
        ),
    ),
    "rank_genes_groups": (
        Unruled(
            "a hundred sums of slopes about the same records would give them back",
            "take 't-test' or 'wilcoxon'",
            "method",
            ("logreg",),
        ),
    ),
}
"""By name of the function."""


def unruled(function: str, given: Mapping[str, Any]) -> tuple[str, Unruled] | None:
    """Return what of a call no rules bind, in words, and why; None where they may bind all of it.

    Examples
    --------
    >>> unruled("cluster", {"method": "gmm"})[0], unruled("cluster", {"method": "ward"})
    ("cluster with method 'gmm'", None)
    """
    found = next((one for one in UNRULED.get(function, ()) if one.meant(given)), None)
    return None if found is None else (found.what(function, given), found)
