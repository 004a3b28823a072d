"""Design matrices over sites: a formula, levels that all sites agree on, and each site's own rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infl._parameters import shown
from infl.data.columns import has_numbers, no_number, obs_column, shortlist
from infl.data.consortium import agreed, alongside, members
from infl.data.labels import agree_on_levels, label_text
from infl.errors import DataError, SettingsError

if TYPE_CHECKING:
    from anndata import AnnData
    from formulaic import ModelSpec

SITE = "site"
"""What a formula calls the site of an observation, where ``obs`` has no such column."""
_CATEGORICAL = re.compile(r"C\(\s*(?:`([^`]+)`|(\w+))\s*\)")
_SAME = 1e-8  # share of a column's length that others leave of it, below which they make it up

Contrast = str | Sequence[str] | Mapping[str, float]
"""A coefficient's name, ``(column, group, baseline)``, or weights by coefficient."""
_CONTRAST = "give (column, group, baseline), a coefficient, or weights by name"


@dataclass(frozen=True)
class Design:
    """A formula, and the levels of each of its columns over all sites (None: numbers).

    Examples
    --------
    >>> design = Design("~ condition + age", {"condition": ("control", "case"), "age": None})
    >>> design.names
    ('Intercept', 'condition[T.case]', 'age')
    >>> design.contrast(("condition", "case", "control")).tolist()
    [0.0, 1.0, 0.0]
    """

    formula: str
    levels: Mapping[str, tuple[str, ...] | None]

    @cached_property
    def _spec(self) -> ModelSpec:
        from formulaic import model_matrix

        n = max((len(known) for known in self.levels.values() if known is not None), default=2)
        rows = {
            name: np.arange(n, dtype=float) if known is None else pd.Categorical(np.resize(known, n), categories=known)
            for name, known in self.levels.items()
        }
        return model_matrix(self.formula, pd.DataFrame(rows, index=range(n)), context={}).model_spec

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coefficients."""
        return tuple(map(str, self._spec.column_names))

    @property
    def terms(self) -> list[str]:
        """The term that each coefficient belongs to."""
        of = {column: str(term) for term, columns in self._spec.term_indices.items() for column in columns}
        return [of[column] for column in range(len(self.names))]

    @property
    def within(self) -> list[int]:
        """Coefficients beside the intercept and the levels of sites."""
        return [j for j, term in enumerate(self.terms) if term not in ("1", SITE)]

    def matrix(self, columns: Mapping[str, pd.Series]) -> np.ndarray:
        """Return the rows of observations, (n, coefficients), from their columns of ``obs``."""
        frame = {}
        for name, known in self.levels.items():
            values = columns[name].reset_index(drop=True)
            frame[name] = (
                values.astype(float) if known is None else pd.Categorical(label_text(values), categories=known)
            )
        return np.asarray(self._spec.get_model_matrix(pd.DataFrame(frame), context={}), dtype=np.float64)

    def contrast(self, contrast: Contrast | None) -> np.ndarray:
        """Return the weights of the coefficients, (coefficients,); None is the first term, if it has one coefficient.

        Raises
        ------
        infl.errors.SettingsError
            There is no such coefficient, column or group.
        """
        if contrast is None:
            first = [j for j, term in enumerate(self.terms) if term != "1" and term == self._first_term]
            if len(first) != 1:
                raise SettingsError(
                    f"contrast=None: {self._first_term or 'the formula'} has {len(first)} coefficients, so say which: one of "
                    f"{shortlist(list(self.names), shown=6)}, or (column, group, baseline)"
                )
            return np.eye(len(self.names))[first[0]]
        if not isinstance(contrast, str | Mapping | Sequence) or isinstance(contrast, bytes):
            raise SettingsError(f"contrast={shown(contrast)}: {_CONTRAST}")
        if not isinstance(contrast, str | Mapping) and len(contrast) == 1:
            return self.contrast(contrast[0])
        if isinstance(contrast, str):
            contrast = {contrast: 1.0}
        if isinstance(contrast, Mapping):
            return self._weights(contrast)
        return self._difference(contrast)

    @property
    def _first_term(self) -> str:
        return next((term for term in self.terms if term != "1"), "")

    def _weights(self, weights: Mapping[str, float]) -> np.ndarray:
        unknown = [name for name in weights if name not in self.names]
        if unknown or not any(weights.values()):
            wrong = repr(unknown[0]) if unknown else "weights that are all 0"
            raise SettingsError(f"contrast= has {wrong}: give coefficients of {shortlist(list(self.names), shown=6)}")
        return np.array([float(weights.get(name, 0)) for name in self.names])

    def _difference(self, contrast: Sequence[str]) -> np.ndarray:
        """Difference between the rows of two groups, all other columns at their first level or 0."""
        if len(contrast) != 3 or not all(isinstance(part, str) for part in contrast):
            raise SettingsError(f"contrast={shown(contrast)}: {_CONTRAST}")
        column, *groups = contrast
        if not self.levels.get(column):
            named = shortlist([name for name, known in self.levels.items() if known], shown=6)
            raise SettingsError(
                f"contrast= names {column!r}, which is no column of groups in the formula; there are {named}"
            )
        known = self.levels[column] or ()
        unknown = [group for group in groups if group not in known]
        if unknown:
            raise SettingsError(f"contrast= names {unknown[0]!r}; {column!r} has {shortlist(list(known), shown=6)}")
        rows = {name: pd.Series([0.0, 0.0] if of is None else [of[0]] * 2) for name, of in self.levels.items()}
        rows[column] = pd.Series(groups)
        group, baseline = self.matrix(rows)
        if not (group - baseline).any():
            raise SettingsError(f"contrast={tuple(contrast)}: the groups are the same; name two")
        return group - baseline


def agree_on_design(sites: Mapping[str, AnnData], formula: str) -> tuple[Design, Mapping[str, np.ndarray]]:
    """Return the design of a formula with the levels of all sites, and each site's rows, (n_obs, coefficients).

    Formulas have names of columns of ``obs`` (```my column``` where a name has blanks), ``C(name)`` for numbers that are groups, and
    ``+``, ``:``, ``*``, ``- 1``: a formula is data, so nothing in it is ever run as code.

    Raises
    ------
    infl.errors.DataError
        A column is missing, has gaps or one level, or is numbers here and words there.
    infl.errors.SettingsError
        It is no formula.

    Examples
    --------
    >>> import infl
    >>> design, rows = agree_on_design(infl.datasets.khan_sites(3), "~ tumour_class + site")
    >>> design.names[-2:], rows["site_1"].shape[1]
    (('site[T.site_2]', 'site[T.site_3]'), 6)
    """
    formula, variables = read_formula(formula)
    levels: dict[str, tuple[str, ...] | None] = {}
    columns: dict[str, dict[str, pd.Series]] = {site: {} for site in sites}
    for name, groups in variables.items():
        if name == SITE and not any(_own_column(sites).values()):
            levels[name] = members(sites)
            for site, adata in sites.items():
                columns[site][name] = pd.Series(pd.Categorical([site] * adata.n_obs))
            continue
        for site, adata in sites.items():
            columns[site][name] = obs_column(adata, name, where=site, role="design")
        levels[name] = _levels(sites, {site: columns[site][name] for site in sites}, name, groups)
    design = Design(formula, levels)
    if not design.names:
        raise SettingsError(f"design={formula!r} has no coefficient: write at least one term, e.g. '~ condition'")
    whole = {name: pd.concat([columns[site][name] for site in sites]) for name in levels}
    cuts = np.cumsum([adata.n_obs for adata in sites.values()])[
        :-1
    ]  # one matrix for all: formulaic's price is by the call
    rows = np.split(design.matrix(whole), cuts) if levels else [np.ones((adata.n_obs, 1)) for adata in sites.values()]
    return design, alongside(sites, dict(zip(sites, rows, strict=True)))


def _own_column(sites: Mapping[str, AnnData]) -> dict[str, bool]:
    return agreed(sites, f"column {SITE!r}", {site: SITE in adata.obs for site, adata in sites.items()})


def own_levels(design: Design, rows: Mapping[str, np.ndarray]) -> bool:
    """Return whether the design has one level for each site, so that a site's own means are what its level takes off."""
    if SITE not in design.terms or len(design.levels[SITE] or ()) != len(members(rows)):
        return False
    columns = [j for j, term in enumerate(design.terms) if term == SITE]
    alike = {site: bool((np.ptp(of_site[:, columns], axis=0) == 0).all()) for site, of_site in rows.items()}
    return all(agreed(rows, "one level of each site", alike).values())


def read_formula(formula: str) -> tuple[str, dict[str, bool]]:
    """Return the formula, and the columns that it names; True for those that are groups whatever their type.

    Examples
    --------
    >>> read_formula("condition * age + C(batch)")
    ('~ condition * age + C(batch)', {'age': False, 'batch': True, 'condition': False})
    """
    from formulaic import Formula
    from formulaic.errors import FormulaicError
    from formulaic.parser.types import Factor

    text = formula if formula.lstrip().startswith("~") else f"~ {formula}"
    try:
        parsed = Formula(text)
        factors = {
            factor.expr: factor.eval_method is Factor.EvalMethod.LOOKUP for term in parsed for factor in term.factors
        }
    except (FormulaicError, AttributeError, TypeError, SyntaxError):
        raise SettingsError(
            f"design={formula!r} is no formula: write e.g. '~ condition + age', and a name with blanks as `my column`"
        ) from None
    found: dict[str, bool] = {}
    for expression, is_name in sorted(factors.items()):
        if expression in ("0", "1"):
            continue
        categorical = _CATEGORICAL.fullmatch(expression)
        name = (categorical.group(1) or categorical.group(2)) if categorical else expression
        if not (is_name or name.isidentifier() or categorical):
            raise SettingsError(
                f"design= has {expression!r}: give names of obs columns, C(name) for numbers that are groups, and + : * - 1; "
                "what is computed of columns goes into a column first"
            )
        found[name] = bool(categorical) or found.get(name, False)
    return text, dict(sorted(found.items()))


def split_formula(formula: str) -> tuple[str, str]:
    """Return response and terms.

    Examples
    --------
    >>> split_formula("died ~ age + arm")
    ('died', '~ age + arm')
    """
    response, tilde, terms = (part.strip() for part in formula.partition("~"))
    if not tilde or not response.isidentifier() or not terms or "~" in terms:
        raise SettingsError(f"formula={formula!r}: write a column of obs, ~, and terms, e.g. 'died ~ age + arm'")
    return response, f"~ {terms}"


def with_site(formula: str) -> str:
    """Return the formula with a term for sites, if it has none.

    Examples
    --------
    >>> with_site("~ condition"), with_site("~ site + condition")
    ('~ condition + site', '~ site + condition')
    """
    text, variables = read_formula(formula)
    return text if SITE in variables else f"{text} + {SITE}"


def aliased(products: np.ndarray) -> list[int]:
    """Return which columns of a design those before them make up, from the products of all pairs, (p, p).

    Examples
    --------
    >>> x = np.array([[1.0, 0, 1], [1, 0, 1], [1, 1, 0]])
    >>> aliased(x.T @ x)
    [2]
    """
    size = np.sqrt(np.maximum(np.diag(products), 0))
    left = products / np.outer(np.where(size > 0, size, 1), np.where(size > 0, size, 1))
    found = []
    for j in range(len(left)):
        if left[j, j] < _SAME:
            found.append(j)
            continue
        left = left - np.outer(left[:, j], left[j]) / left[j, j]
    return found


def _levels(
    sites: Mapping[str, AnnData], columns: Mapping[str, pd.Series], name: str, groups: bool
) -> tuple[str, ...] | None:
    """Levels of a column over all sites, None for numbers."""
    for site, values in columns.items():
        if not groups and (kind := no_number(values)):
            raise DataError(f"design {name!r} has {kind} at {site}: make them numbers, or C({name}) for groups")
    own = {site: has_numbers(values) for site, values in columns.items()}
    numbers = agreed(sites, f"design {name!r} has numbers", own)
    if not groups and all(numbers.values()):
        wrong = next((site for site, values in columns.items() if not np.isfinite(values.astype(float)).all()), None)
        if wrong is not None:
            raise DataError(
                f"design {name!r} has infinite values at {wrong}: mend them, or leave those observations out"
            )
        return None
    if not groups and any(numbers.values()):
        number, word = (
            next(site for site, is_number in numbers.items() if is_number is kind) for kind in (True, False)
        )
        raise DataError(f"design {name!r} has numbers at {number} and words at {word}: use one of them, or C({name})")
    known = agree_on_levels(sites, name, "design", numbers=groups)
    if len(known) < 2 and name != SITE:
        raise DataError(f"design {name!r} has one level only, {known[0]!r}, at all sites together: leave it out")
    return known
