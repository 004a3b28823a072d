"""A frame in which all columns of a design are alike, whatever their units, for regressions over sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from infl.data.columns import shortlist
from infl.data.design import aliased
from infl.errors import DataError
from infl.pp._moments import power_of_two
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.cells import designed
from infl.sums.shape import Arrays

INTERCEPT = "Intercept"


@dataclass(frozen=True)
class Frame:
    """Columns of a design, shifted and mixed so that over all sites they have length 1 and are orthogonal.

    Normal equations lose twice the digits that a design loses; in this frame they lose none.

    Parameters
    ----------
    shift
        Subtracted from each column, (p,).
    mix
        What shifted columns are multiplied by, (p, p).
    intercept
        Position of the column of ones, if there is one.
    """

    shift: np.ndarray
    mix: np.ndarray
    intercept: int | None

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return rows of the design, (n, p), in the frame."""
        return (x - self.shift) @ self.mix

    @property
    def back(self) -> np.ndarray:
        """What coefficients in the frame are multiplied by to be those of the design, (p, p)."""
        back = self.mix.copy()
        if self.intercept is not None:
            back[self.intercept] -= self.shift @ self.mix
        return back


def frame_sums(names: Sequence[str], *, shifted: bool, full_rank: bool = True) -> list[FederatedSum]:
    """Return the sums that a frame follows from; sites have ``x``, (n, p).

    State: ``frame``, ``n_obs``, and ``spread``, the mean products of columns in the frame, (p, p).

    Parameters
    ----------
    names
        Of the columns.
    shifted
        Whether means are taken off even where no column is an intercept, since the model has one of its own.
    full_rank
        Refuse columns that follow from others. Else columns are not mixed.
    """
    p = len(names)
    intercept = names.index(INTERCEPT) if INTERCEPT in names else None

    def sizes(total: Arrays, state: State) -> State:
        n = max(float(total["n"]), 1.0)
        shift = total["sum"] / n if shifted or intercept is not None else np.zeros(p)
        if intercept is not None:
            shift[intercept] = 0
        return {**state, "n_obs": int(total["n"]), "shift": shift, "width": power_of_two(total["size"] / n)}

    def products(site: object, state: State) -> Arrays:
        z = (site.x - state["shift"]) / state["width"]  # type: ignore[attr-defined]
        return {"products": z.T @ z}

    def mixed(total: Arrays, state: State) -> State:
        found = total["products"] / max(state["n_obs"], 1)
        if not full_rank:
            return {**state, "frame": Frame(state["shift"], np.diag(1 / state["width"]), intercept), "spread": found}
        if left_out := aliased(found):
            raise DataError(
                f"the formula has terms that follow from those before them, over all sites together: "
                f"{shortlist([names[j] for j in left_out])}; leave them out, or have more observations"
            )
        root = linalg.cholesky(found, lower=True)
        mix = linalg.solve_triangular(root, np.eye(p), lower=True).T / state["width"][:, None]
        return {**state, "frame": Frame(state["shift"], mix, intercept), "spread": np.eye(p)}

    return [
        FederatedSum(
            name="columns",
            shapes={"n": (), "sum": (p,), "size": (p,)},
            local=lambda site, _: {"n": len(site.x), "sum": site.x.sum(axis=0), "size": np.abs(site.x).sum(axis=0)},
            combine=sizes,
            says="number of records, and for each column of the design the sum of its values and of their sizes",
            scale={"n": COUNT_SCALE, "sum": FINE_SCALE, "size": FINE_SCALE},
            records=lambda site, _: len(site.x),
            sensitivity={"n": 1},
            cells=designed(lambda site: site.x, p),
        ),
        FederatedSum(
            name="products",
            shapes={"products": (p, p)},
            local=products,
            combine=mixed,
            says="products of pairs of columns of the design, summed over records",
            scale=FINE_SCALE,
            records=lambda site, _: len(site.x),
            cells=designed(lambda site: site.x, p),
        ),
    ]
