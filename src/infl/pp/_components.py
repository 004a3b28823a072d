"""Principal components when only sums over sites of products are to be had: all of them, or block by block.

Both ways see centred features only through sums over sites, and both bound what is summed by the variances, which all
sites know; so the scales of the sums are public and fine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.blas import dsymv
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

_OVERSAMPLED = 10
_MANY = 5  # times as many features as Lanczos' method holds vectors, from which it is faster
_TOLERANCE = 1e-3  # of the angle between what is found and what would be found by going on
MOST_ROUNDS = 40
_MOST_NUMBERS = 1 << 26  # held in the basis and its products


def exact_components(covariance: np.ndarray, n_comps: int, n_obs: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues (n_comps,), largest first, and eigenvectors (n_vars, n_comps) of a covariance.

    Few of many are found by Lanczos' method to the precision of the machine, all others by a full decomposition.

    Parameters
    ----------
    covariance
        Its upper half is read.
    n_comps
        How many there are to be.
    n_obs
        Of how many observations it is, which bounds its rank; None: not known to be few.

    Examples
    --------
    >>> values, vectors = exact_components(np.diag([1.0, 3.0, 2.0]), 2)
    >>> values.tolist(), vectors.argmax(axis=0).tolist()
    ([3.0, 2.0], [1, 2])
    """
    n_vars = len(covariance)
    basis = 2 * n_comps + 1  # vectors at a time; with a lower rank they would go on from random ones
    found = None
    if _MANY * basis <= n_vars and (n_obs is None or 2 * basis < n_obs):
        found = _lanczos(covariance, n_comps, basis)
    values, vectors = found or eigh(covariance, lower=False, subset_by_index=[n_vars - n_comps, n_vars - 1])
    return np.maximum(values[::-1], 0), signed(vectors[:, ::-1])


def _lanczos(covariance: np.ndarray, n_comps: int, basis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Eigenvalues in ascending order and eigenvectors by ARPACK; None if it does not converge."""
    n_vars, transposed = (
        len(covariance),
        np.ascontiguousarray(covariance).T,
    )  # in the order of BLAS, with its lower half
    operator = LinearOperator((n_vars, n_vars), matvec=lambda v: dsymv(1.0, transposed, v, lower=1), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n_vars)
    try:
        return eigsh(operator, n_comps, which="LA", v0=start, ncv=basis)
    except ArpackNoConvergence:
        return None


@dataclass(frozen=True)
class Search:
    """Randomised subspace iteration that forgets nothing, between two products.

    A random block is multiplied again and again, as in Halko, Martinsson and Tropp (2011), and the components are taken
    from all blocks so far (Musco and Musco 2015), which needs a third of the rounds. It ends when the angle that is
    still missing, by the residuals and the gap behind the last component, is below a thousandth of a radian.

    Attributes
    ----------
    n_comps
        How many components are looked for.
    block
        What the covariance is to be multiplied by next, (n_vars, up to :attr:`width`).
    basis, images
        All blocks so far, and their products with the covariance.
    values, vectors
        The components that they give: (n_comps,), (n_vars, n_comps).
    done
        They are good enough, or there is nothing to add.
    """

    n_comps: int
    block: np.ndarray
    basis: np.ndarray
    images: np.ndarray
    values: np.ndarray | None = None
    vectors: np.ndarray | None = None
    done: bool = False

    @classmethod
    def begin(cls, n_vars: int, n_comps: int, seed: int) -> Search:
        """Return a search that begins with a random block, which all sites know."""
        width = cls.width(n_vars, n_comps)
        block = np.linalg.qr(np.random.default_rng(seed).standard_normal((n_vars, width)))[0]
        return cls(n_comps, block, np.empty((n_vars, 0)), np.empty((n_vars, 0)))

    @staticmethod
    def width(n_vars: int, n_comps: int) -> int:
        """Return the most columns of a block."""
        return min(n_comps + _OVERSAMPLED, n_vars)

    def after(self, image: np.ndarray) -> Search:
        """Return the search after the product of the covariance and the block came."""
        n_comps = self.n_comps
        basis, images = np.hstack([self.basis, self.block]), np.hstack([self.images, image])
        values, turn = np.linalg.eigh(_symmetric(basis.T @ images))
        values, turn = values[::-1], turn[:, ::-1]
        vectors, residuals = basis @ turn[:, :n_comps], images @ turn[:, :n_comps]
        residuals = residuals - vectors * values[:n_comps]
        behind = values[n_comps] if len(values) > n_comps else 0.0
        gap = max(values[n_comps - 1] - behind, 0.0)
        enough = np.linalg.norm(residuals) <= _TOLERANCE * gap
        fresh = _orthogonal_to(basis, image)
        full = 2 * len(basis) * (basis.shape[1] + fresh.shape[1]) > _MOST_NUMBERS
        return replace(
            self,
            block=fresh,
            basis=basis,
            images=images,
            values=np.maximum(values[:n_comps], 0),
            vectors=signed(vectors),
            done=bool(enough or not fresh.shape[1] or full),
        )


def signed(vectors: np.ndarray) -> np.ndarray:
    """Turn each column so that its largest entry is positive, as scikit-learn does.

    Examples
    --------
    >>> signed(np.array([[0.1, 0.9], [-0.9, 0.1]])).tolist()
    [[-0.1, 0.9], [0.9, 0.1]]
    """
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1.0, 1.0)


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _orthogonal_to(basis: np.ndarray, block: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what `block` adds to `basis`; (n_vars, 0) when that is nothing."""
    sizes = np.linalg.norm(block, axis=0)
    block = block[:, sizes > 0] / sizes[sizes > 0]
    for _ in range(2):  # once is not enough in floating point
        block = block - basis @ (basis.T @ block)
    left, size, _ = np.linalg.svd(block, full_matrices=False)
    left = left[:, size > 1e-10]
    left = left - basis @ (basis.T @ left)
    room = basis.shape[0] - basis.shape[1]
    return np.linalg.qr(left[:, :room])[0] if left.shape[1] else left
