"""Logistic regression with a ridge penalty: the baseline of tasks with classes, however few observations a class has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

N_FOLDS = 3
"""Of the cross-validation that chooses the penalty."""
TOLERANCE = 1e-8
"""Largest gradient at which a fit in the row space ends; its steps cost next to nothing."""
Probabilities = Callable[[np.ndarray], np.ndarray]
"""What gives the probability of each class (n, n_classes) from features (n, n_features)."""


def logistic_regression(
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    *,
    strengths: Sequence[float] = (1.0,),
    balanced: bool = True,
    seed: int = 0,
) -> Probabilities:
    """Fit multinomial logistic regression on standardised features.

    Parameters
    ----------
    x
        Features (n, n_features); NaN where not measured, which is then the mean.
    y
        Class numbers (n,); some of the classes may have no observation, and then have probability 0.
    n_classes
        Number of classes.
    strengths
        Candidates for ``C``, one over the penalty: of several, the one with the least logarithmic loss in cross-validation.
    balanced
        Let classes count alike.
    seed
        Of the folds.

    Examples
    --------
    >>> x, y = np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([0, 0, 2, 2])
    >>> logistic_regression(x, y, 3)(np.array([[50.0]])).round(1)
    array([[0., 0., 1.]])
    """
    if not len(y):
        return lambda new: np.full((len(new), n_classes), 1 / n_classes)
    best = strengths[0] if len(strengths) == 1 else strengths[int(np.argmin(_losses(x, y, strengths, balanced, seed)))]
    known = next(_fits(x, y, [best], balanced))

    def probabilities(new: np.ndarray) -> np.ndarray:
        everything = np.zeros((len(new), n_classes))
        everything[:, np.unique(y)] = known(new)
        return everything

    return probabilities


def _losses(x: np.ndarray, y: np.ndarray, strengths: Sequence[float], balanced: bool, seed: int) -> np.ndarray:
    """Return the logarithmic loss of each strength, summed over folds.

    A class may have fewer observations than there are folds. One that has a single observation is in no fold trained on
    and judged on, so it is judged on in none.
    """
    from sklearn.model_selection import StratifiedKFold

    losses, n_folds = np.zeros(len(strengths)), min(N_FOLDS, int(np.bincount(y).max()))
    if n_folds < 2:
        return losses
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(x, y))
    for train, test in folds:
        classes = np.unique(y[train])
        test = test[np.isin(y[test], classes)]
        if not len(test):
            continue
        for number, fitted in enumerate(_fits(x[train], y[train], strengths, balanced)):
            probability = fitted(x[test])
            of_truth = probability[np.arange(len(test)), np.searchsorted(classes, y[test])]
            losses[number] -= np.log(np.maximum(of_truth, np.finfo(probability.dtype).eps)).mean()
    return losses


def _fits(x: np.ndarray, y: np.ndarray, strengths: Sequence[float], balanced: bool) -> Iterator[Probabilities]:
    """Yield, for each strength, what gives the probabilities of the classes that there are in `y`.

    With more features than observations the fit is done in coordinates of the rows' own space. A ridge penalty keeps the
    weights in that space and does not see how its axes are turned, so it is the same model, and many times faster.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(y)) == 1:
        yield from [lambda new: np.ones((len(new), 1))] * len(strengths)
        return
    scaled = make_pipeline(StandardScaler(), SimpleImputer(keep_empty_features=True)).fit(x)
    rows, axes, tolerance = scaled.transform(x), None, 1e-4
    if x.shape[1] > len(x):
        axes, triangle = np.linalg.qr(rows.astype(np.float64).T)  # (n_features, n), (n, n): rows = triangle.T @ axes.T
        rows, tolerance = triangle.T, TOLERANCE
    for strength in strengths:
        model = LogisticRegression(
            C=strength, max_iter=2000, tol=tolerance, class_weight="balanced" if balanced else None
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The number of unique classes")
            model.fit(rows, y)

        def probabilities(new: np.ndarray, model: LogisticRegression = model) -> np.ndarray:
            rows = scaled.transform(new)
            return model.predict_proba(rows if axes is None else rows @ axes)

        yield probabilities
