"""How often, of two patients, the one with the higher score has the event first: from pairs, or from counts by score and time."""

from __future__ import annotations

import numpy as np

_AT_ONCE = 1 << 22  # pairs that are looked at together


def ordered_pairs(time: np.ndarray, event: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return numbers of pairs: higher score first, one score, all; who is observed to the time of an event is beyond it, (3,).

    Examples
    --------
    >>> ordered_pairs(np.array([1.0, 2, 2]), np.array([True, True, False]), np.array([5.0, 1, 1])).tolist()
    [2.0, 1.0, 3.0]
    """
    found = np.zeros(3)
    died = np.flatnonzero(event)
    rows = max(1, _AT_ONCE // max(1, len(time)))
    for start in range(0, len(died), rows):
        of = died[start : start + rows, None]
        later = (time > time[of]) | ((time == time[of]) & ~event)
        near = np.isclose(score, score[of], rtol=0, atol=1e-12)
        found += [(later & ~near & (score < score[of])).sum(), (later & near).sum(), later.sum()]
    return found


def concordance_of_pairs(pairs: np.ndarray) -> tuple[float, float, float]:
    """Return the concordance of counted pairs, which is exact, so its bounds are itself.

    Examples
    --------
    >>> concordance_of_pairs(np.array([2.0, 1.0, 4.0]))
    (0.625, 0.625, 0.625)
    """
    share = float((pairs[0] + pairs[1] / 2) / pairs[2]) if pairs[2] else float("nan")
    return share, share, share


def concordance_of(cells: np.ndarray) -> tuple[float, float, float]:
    """Return the concordance of counts (event, scores, times), and the least and the most that it can be.

    Pairs in one part of the scores may be in either order, those in one part of the times may count or not.

    Examples
    --------
    >>> cells = np.zeros((2, 2, 2))
    >>> cells[1, 1, 0], cells[0, 0, 1] = 3, 4  # high scores die first
    >>> [float(round(value, 2)) for value in concordance_of(cells)]
    [1.0, 0.8, 1.0]
    """
    died, everybody = cells[1], cells.sum(axis=0)
    after = everybody[:, ::-1].cumsum(axis=1)[:, ::-1] - everybody  # of one score, at later times
    below = np.cumsum(after, axis=0) - after
    right, tied, pairs = (
        (died * part).sum() for part in (below, after, np.broadcast_to(after.sum(axis=0), died.shape))
    )
    d, n = died.sum(axis=0), everybody.sum(axis=0)
    unknown = (d * (n - d) + d * (d - 1) / 2).sum()
    if pairs + unknown == 0:
        return float("nan"), float("nan"), float("nan")
    most = (right + tied + unknown) / (pairs + unknown)
    return float((right + tied / 2) / pairs if pairs else np.nan), float(right / (pairs + unknown)), float(most)
