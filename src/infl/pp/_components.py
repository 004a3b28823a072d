"""Principal components when only sums over sites of products are to be had: all of them, or block by block.

Both ways see centred features only through sums over sites, and both bound what is summed by the variances, which all
sites know; so the scales of the sums are public and fine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh

Product = Callable[[np.ndarray], np.ndarray]
"""(n_vars, k) to (n_vars, k): the covariance times that."""

_OVERSAMPLED = 10
_TOLERANCE = 1e-3  # of the angle between what is found and what would be found by going on
_MOST_ROUNDS = 40
_MOST_NUMBERS = 1 << 26  # held in the basis and its products


def exact_components(covariance: np.ndarray, n_comps: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues (n_comps,), largest first, and eigenvectors (n_vars, n_comps) of a covariance.

    Examples
    --------
    >>> values, vectors = exact_components(np.diag([1.0, 3.0, 2.0]), 2)
    >>> values.tolist(), vectors.argmax(axis=0).tolist()
    ([3.0, 2.0], [1, 2])
    """
    n_vars = len(covariance)
    values, vectors = eigh(covariance, subset_by_index=[n_vars - n_comps, n_vars - 1])
    return np.maximum(values[::-1], 0), signed(vectors[:, ::-1])


def randomised_components(product: Product, n_vars: int, n_comps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same from products with blocks of vectors: randomised subspace iteration that forgets nothing.

    A random block is multiplied again and again, as in Halko, Martinsson and Tropp (2011), and the components are taken
    from all blocks so far (Musco and Musco 2015), which needs a third of the rounds. It ends when the angle that is
    still missing, by the residuals and the gap behind the last component, is below a thousandth of a radian.

    Parameters
    ----------
    product
        One round over the sites.
    n_vars, n_comps
        Sizes.
    seed
        Of the random block, which all sites know.
    """
    width = min(n_comps + _OVERSAMPLED, n_vars)
    block = np.linalg.qr(np.random.default_rng(seed).standard_normal((n_vars, width)))[0]
    basis, images = np.empty((n_vars, 0)), np.empty((n_vars, 0))
    for _ in range(_MOST_ROUNDS):
        image = product(block)
        basis, images = np.hstack([basis, block]), np.hstack([images, image])
        values, turn = np.linalg.eigh(_symmetric(basis.T @ images))
        values, turn = values[::-1], turn[:, ::-1]
        vectors, residuals = basis @ turn[:, :n_comps], images @ turn[:, :n_comps]
        residuals = residuals - vectors * values[:n_comps]
        behind = values[n_comps] if len(values) > n_comps else 0.0
        gap = max(values[n_comps - 1] - behind, 0.0)
        enough = np.linalg.norm(residuals) <= _TOLERANCE * gap
        fresh = _orthogonal_to(basis, image)
        if enough or not fresh.shape[1] or 2 * n_vars * (basis.shape[1] + fresh.shape[1]) > _MOST_NUMBERS:
            break
        block = fresh
    return np.maximum(values[:n_comps], 0), signed(vectors)


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
