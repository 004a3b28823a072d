"""What a sum over sites is: a name, arrays on a scale, a site's share, what becomes of the total, and what it tells.

Whatever is added over sites is written as a list of these: what a task needs before and after its rounds, and each function of
:mod:`infl.pp`. A list runs over sites of one process (:func:`infl.sums.run_sums`) or as part of a run between machines; either
way all sites know the name, the shapes and the scale of the next sum before it, and each computes the same state after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from infl.errors import SettingsError
from infl.privacy.seal import Packing
from infl.sums.cells import Cells
from infl.sums.lanes import Scale, check_named, sums_packing

Arrays = dict[str, np.ndarray]
"""Named float64 arrays that are added over sites."""
State = dict[str, Any]
"""What all sites know after the sums so far, by name; a sum's ``combine`` returns a new one."""
Records = int | Mapping[str, Any]
"""Of how many records each number is, for all arrays alike or by name."""

SUM_SCALE = Scale()
"""Multiples of 2⁻²⁰ up to 2¹¹⁸: exact enough for sums of values of any usual size."""
WIDE_SCALE = Scale(limbs=5)
"""The same up to 2¹⁹⁸: for scores of what may have gone wrong."""
FINE_SCALE = Scale(-40, limbs=5)
"""Multiples of 2⁻⁴⁰ up to 2¹⁷⁸: for sums whose size nobody knows yet."""
UNIT_SCALE = Scale(-48, limbs=1)
"""Multiples of 2⁻⁴⁸ up to 2¹¹: for what is known to be about 1."""
COUNT_SCALE = Scale(0, limbs=1)
"""Whole numbers up to 2⁵⁹; a fraction is refused, not rounded."""


Data = TypeVar("Data")
Net = TypeVar("Net")


@dataclass(frozen=True)
class SiteView(Generic[Data, Net]):
    """What a task's sums are computed from at a site.

    Attributes
    ----------
    data
        What the task read of the site.
    module
        The model with the global weights so far, and the site's own ones.

    Examples
    --------
    >>> SiteView([1.0, 2.0], None).data
    [1.0, 2.0]
    """

    data: Data
    module: Net


@dataclass(frozen=True, kw_only=True)
class FederatedSum:
    """One sum over sites, or several of one shape, one after the other.

    Parameters
    ----------
    name
        What is summed. All parties see it.
    shapes
        Name and shape of each array. It follows from what all sites know before the first sum.
    local
        A site's share, from what the site has and the state: :class:`SiteView` for a task.
    combine
        The state after a total came back, from the total and the state before. All sites compute the same.
    says
        What it tells, in the words of a data steward: "numbers of records by class".
    scale
        Of all arrays, or by name; :data:`SUM_SCALE` where none is named.
    records
        From the same as `local`: how many of the site's records stand behind each number of its share. An int stands for
        all arrays, else arrays by name that broadcast to theirs. None where that is not known.
    sensitivity
        By array: how much any one of its numbers changes, at most, when one record is changed, added or left out, and the rest of
        what the site knows stays as it was. An array that is not named has no known bound.
    steps
        How many sums there are; each begins with the state after the one before it.
    called
        What an exchange is called where that is not the name, or the name and the number of its step: a template
        with ``{name}``, ``{step}`` (from 1) and ``{index}`` (from 0). Seals are bound to it.
    finish
        In place of `combine` after the last step.
    until
        Ends the steps early when it is true of the state; not for a task, whose exchanges are agreed on beforehand.
    cells
        Which records stand behind each number, for rules of disclosure; without it the sum is refused where there are rules.
    marked
        Whether a site says inside the sum that its share counts as zero, where it is not finite or beyond its scale. Not where
        every share fits.

    Raises
    ------
    SettingsError
        `scale` or `sensitivity` names an array that is not summed.

    Examples
    --------
    >>> mean = FederatedSum(
    ...     name="mean",
    ...     shapes={"n": (), "x": (2,)},
    ...     local=lambda x, state: {"n": len(x), "x": x.sum(0)},
    ...     combine=lambda total, state: {**state, "mean": total["x"] / total["n"]},
    ...     says="number of records and sum of each feature",
    ...     records=lambda x, state: len(x),
    ...     sensitivity={"n": 1},
    ... )
    >>> from infl.sums import run_sums
    >>> run_sums([mean], {"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0, 6.0]])}, key=None)["mean"]
    array([2., 4.])
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    local: Callable[[Any, State], Mapping[str, Any]]
    combine: Callable[[Arrays, State], State]
    says: str
    scale: Scale | Mapping[str, Scale] = SUM_SCALE
    records: Callable[[Any, State], Records] | None = None
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    steps: int = 1
    called: str = ""
    finish: Callable[[Arrays, State], State] | None = None
    until: Callable[[State], bool] | None = None
    cells: Cells | None = None
    marked: bool = True

    def __post_init__(self) -> None:
        check_named(f"sensitivity of {self.name!r}", self.sensitivity, self.shapes)
        check_named(f"scale of {self.name!r}", () if isinstance(self.scale, Scale) else self.scale, self.shapes)

    @property
    def exchanges(self) -> list[str]:
        """Names of the exchanges, one for each step."""
        template = self.called or ("{name}" if self.steps == 1 else "{name} {step}")
        return [template.format(name=self.name, step=index + 1, index=index) for index in range(self.steps)]

    @cached_property
    def packing(self) -> Packing:
        """How the arrays are laid into a message; the same for all steps."""
        return sums_packing(self.shapes, self.scale, marked=self.marked)

    def after(self, total: Arrays, state: State, *, step: int) -> State:
        """Return the state after the total of a step, counted from 0."""
        combine = self.finish if self.finish is not None and step == self.steps - 1 else self.combine
        found = combine(total, state)
        if not isinstance(found, dict):
            raise SettingsError(
                f"the sum {self.name!r}: combine returns {type(found).__name__}, and the state is a dict"
            )
        return found

    def behind(self, site: Any, state: State) -> dict[str, np.ndarray]:
        """Return how many records of a site stand behind each number, for the arrays where that is known.

        Examples
        --------
        >>> counts = FederatedSum(
        ...     name="classes",
        ...     shapes={"n": (), "of_class": (2,)},
        ...     local=lambda y, state: {"n": len(y), "of_class": np.bincount(y, minlength=2)},
        ...     combine=lambda total, state: total,
        ...     says="numbers of records by class",
        ...     records=lambda y, state: {"n": len(y), "of_class": np.bincount(y, minlength=2)},
        ... )
        >>> counts.behind(np.array([0, 0, 1]), {})["of_class"].tolist()
        [2.0, 1.0]
        """
        if self.records is None:
            return {}
        found = self.records(site, state)
        named = found if isinstance(found, Mapping) else dict.fromkeys(self.shapes, found)
        return {
            name: np.broadcast_to(np.asarray(value, dtype=float), self.shapes[name]) for name, value in named.items()
        }
