"""Which sets of records can be released beside those that were, and why others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from infl.privacy.register.records import Records, digest_of, distinct, parted
from infl.privacy.rules import DisclosureRules


@dataclass(frozen=True)
class Question:
    """What is asked about sets of records.

    Attributes
    ----------
    about
        The sum, as all members see it.
    members
        Of the run.
    labels
        What each set is, such as a group's name.
    features, panel
        Of how many features means are released, and the digest of their names.
    parameters
        Of the model that is fitted to the first set; the others are groups in it.
    statistic
        Which sum of which values it is. Sums of other transformations of the same few values together give the values back.
    own
        By set: which of the site's own rules withholds it, "" where none does.
    bins
        In which bins values are counted, "" where none are.
    """

    about: str
    members: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    features: int = 0
    panel: str = ""
    parameters: int = 0
    statistic: str = ""
    own: tuple[str, ...] = ()
    bins: str = ""

    def label(self, number: int) -> str:
        """Return what a set is, to know it again."""
        return self.labels[number] if self.labels else f"{self.about}: {number}"


@dataclass(frozen=True)
class Verdict:
    """What a site answers about each set: one of :data:`infl.privacy.rules.REASONS`, and where others may not go on without it.

    Attributes
    ----------
    reasons
        By set; "" where the site gives.
    against
        By set: the site gave it before and cannot now, so what the others give would be the difference.
    """

    reasons: tuple[str, ...]
    against: np.ndarray

    @property
    def given(self) -> np.ndarray:
        """Which sets the site gives."""
        return np.array([not reason for reason in self.reasons], dtype=bool)


def verdict(
    records: Records,
    rows: np.ndarray,
    sets: np.ndarray,
    rules: DisclosureRules,
    question: Question,
    order: Sequence[int],
) -> Verdict:
    """Return which of several sets of records can be released together, tried in an order; see :meth:`Register.judge`."""
    atom, reasons = records.atom, [""] * len(sets)
    own = records.of_statistic(question.statistic)
    for number in order:
        chosen = rows[sets[number]]
        of_model = question.parameters if number == 0 else 0
        reason, split = _one(records, chosen, atom, rules, replace(question, parameters=of_model))
        if not reason and question.own:
            reason = question.own[number]
            split = atom if reason else split
        if not reason and question.statistic and not _bears(records, chosen, own, rules, question):
            reason, split = "statistics", atom
        if not reason and question.bins and _counted_otherwise(records, chosen, question.bins):
            reason, split = "bins", atom
        reasons[number], atom = reason, split
        own = own if reason else parted(own, chosen)
    # A site that gave these records under any name, and cannot now, would be the rest of a total that others open. Of fewer
    # than k records it never gave a sum.
    labels = np.array([question.label(number) in records.labels for number in range(len(sets))], dtype=bool)
    given = np.array([bool((records.atom[rows[chosen]] > 0).any()) for chosen in sets], dtype=bool)
    given &= np.array([reason not in ("records", "empty") for reason in reasons], dtype=bool)
    refused = np.array([bool(reason) for reason in reasons])
    return Verdict(tuple(reasons), refused & (labels | given))


def _one(
    records: Records, chosen: np.ndarray, atom: np.ndarray, rules: DisclosureRules, question: Question
) -> tuple[str, np.ndarray]:
    """Return why a set is not released, and the atoms if it is."""
    if not len(chosen):
        return "empty", atom
    n = len(distinct(records.person[chosen]))
    if n < rules.k:
        return "records", atom
    if digest_of(chosen) in records.held:
        return "sites", atom
    if n < rules.records_per_parameter * question.parameters:
        return "parameters", atom
    if question.features and _load_with(records, chosen, n, question) > rules.features_per_record:
        return "features", atom
    for members in records.members.get(digest_of(chosen), ()):
        if 0 < len(set(members) ^ set(question.members)) < rules.min_holders:
            return "members", atom
    split = _split(records, chosen, atom, rules.k)
    return ("differencing", atom) if split is None else ("", split)


def _bears(records: Records, chosen: np.ndarray, own: np.ndarray, rules: DisclosureRules, question: Question) -> bool:
    """Whether no record was, or is now, in a small set under more different statistics than the set has room for."""
    atoms = [of for name, of in records.by_statistic.items() if name != question.statistic]
    sizes = []
    for of_one in [*atoms, parted(own, chosen)]:
        n = np.bincount(of_one).astype(float)
        n[0] = np.inf  # in no set
        sizes.append(n[of_one[chosen]])
    fewest_first = np.sort(sizes, axis=0)
    room = np.maximum(2, fewest_first / max(rules.records_per_parameter, 1e-9))
    return bool((np.arange(1, len(sizes) + 1)[:, None] <= room).all())


def _counted_otherwise(records: Records, chosen: np.ndarray, bins: str) -> bool:
    """Whether values of one of these records were counted in other bins."""
    return any(
        of[chosen].any()
        for other, of in records.by_bins.items()
        if not (other.startswith(bins) or bins.startswith(other))
    )


def _split(records: Records, chosen: np.ndarray, atom: np.ndarray, k: int) -> np.ndarray | None:
    """Return the atoms after a set is released; None where one would have fewer than k."""
    inside = np.zeros(len(atom), dtype=bool)
    inside[chosen] = True
    touched = distinct(atom[chosen])
    number = np.full(int(atom.max()) + 1, -1)
    number[touched] = np.arange(len(touched))
    place = number[atom]
    n_in, n_out = (
        records.n_persons(place[side], side, len(touched))
        for side in (np.flatnonzero(inside), np.flatnonzero((place >= 0) & ~inside))
    )
    n_out[touched == 0] = 0  # in no set: behind no number
    cut = (n_out > 0) | (touched == 0)
    if (cut & (n_in < k)).any() or ((n_out > 0) & (n_out < k)).any():
        return None
    split = atom.copy()
    fresh = int(atom.max()) + 1 + np.arange(len(touched))
    split[chosen] = np.where(cut, fresh, touched)[place[chosen]]
    return split


def _load_with(records: Records, chosen: np.ndarray, n: int, question: Question) -> float:
    """Return the most features per record that any of a set's records would have had."""
    load = np.zeros(len(chosen))
    for panel, of_panel in records.load.items():
        if panel != question.panel:
            load += of_panel[chosen]
    known = records.load.get(question.panel)
    return float((load + np.maximum(0 if known is None else known[chosen], question.features / n)).max())
