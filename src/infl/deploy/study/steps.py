"""One step of a study: a function by its name and its arguments, read, checked against a site's data, and run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from infl._parameters import Kind
from infl._unruled import unruled
from infl.data.columns import has_numbers, obs_column
from infl.deploy.study.kinds import GIVEN, STEPS, Arguments, Field, StepKind
from infl.deploy.toml import REFUSED
from infl.errors import DataError, SettingsError
from infl.privacy import Disclosure
from infl.sums.disclosure import refuse_groups_of

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.privacy import DisclosureRules


FIT = "tl.fit_federated"
"""The step that is a fit."""


@dataclass(frozen=True)
class Step:
    """One step of a study.

    Attributes
    ----------
    do
        The function, as a key of :data:`STEPS`.
    arguments
        Those that were given, as plain values.

    Examples
    --------
    >>> step = Step.read("pp.pca", {"n_comps": 6})
    >>> str(step), step.writes[0]
    ('pp.pca(n_comps=6)', ('obsm', 'X_pca'))
    >>> Step.read("pp.pcs", {})
    Traceback (most recent call last):
    infl.errors.SettingsError: 'pp.pcs' is no step; did you mean 'pp.pca'?
    """

    do: str
    arguments: dict[str, Any]

    @classmethod
    def read(cls, do: object, given: Arguments) -> Step:
        """Return a step whose name and arguments are checked.

        Raises
        ------
        SettingsError
            There is no such step, or an argument is unknown or wrong.
        """
        kinds = parameters(do, given)
        step = cls(str(do), {name: read_argument(kinds, name, value) for name, value in given.items()})
        if missing := [name for name, value in step.all_arguments.items() if value is Parameter.empty]:
            raise SettingsError(f"{do} needs {missing[0]}=")
        _ = step.needs, step.writes  # what cannot go together is refused here
        return step

    @property
    def kind(self) -> StepKind:
        """What is known of the function."""
        return STEPS[self.do]

    @property
    def all_arguments(self) -> dict[str, Any]:
        """What the function gets, defaults included."""
        return _defaults(self.do) | self.arguments

    @property
    def needs(self) -> list[Field]:
        """Fields that a site's working object must have."""
        return self.kind.needs(self.all_arguments)

    @property
    def writes(self) -> list[Field]:
        """Fields that the step writes."""
        return self.kind.writes(self.all_arguments)

    @property
    def columns(self) -> set[str]:
        """Columns of ``obs`` that the step reads."""
        return {name for slot, name in (*self.needs, *self.kind.reads(self.all_arguments)) if slot == "obs"}

    def run(self, sites: Mapping[str, AnnData], fitted: Any = None) -> Any:
        """Run it on sites, or on a consortium, and return what the function returns.

        Parameters
        ----------
        sites
            The data.
        fitted
            Run or model of the fit that it takes, see :func:`fit_of`.
        """
        inplace = {"inplace": True} if self.kind.inplace else {}
        if self.kind.fit is None:
            return _function(self.do)(sites, **self.arguments, **inplace)
        arguments = {name: value for name, value in self.arguments.items() if name != "model"}
        return _function(self.do)(fitted, sites, **arguments, **inplace)

    def __str__(self) -> str:
        return f"{self.do}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


def parameters(do: object, given: Arguments) -> dict[str, Kind]:
    """Return what each argument of a step may be, some of which follow from what was given.

    Raises
    ------
    SettingsError
        There is no such step.
    """
    if not isinstance(do, str) or do not in STEPS:
        near = get_close_matches(str(do), STEPS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"steps are {', '.join(STEPS)}"
        raise SettingsError(f"{do!r} is no step; {hint}")
    step = STEPS[do]
    declared = {**step.more(given), **_function(do).parameters, **step.others}
    return {name: kind for name, kind in declared.items() if name not in (*GIVEN, *step.without)}


def read_argument(kinds: Mapping[str, Kind], name: str, value: Any) -> Any:
    """Return an argument as plain values, so that it is the same in a file, a message and a digest.

    Raises
    ------
    SettingsError
        The function has no such argument, or it cannot have this value.
    """
    if name not in kinds and name in REFUSED:
        raise SettingsError(f"{name}= {REFUSED[name]}")
    if name not in kinds:
        near = get_close_matches(name, kinds, 1)
        raise SettingsError(
            f"{name} is not known; " + (f"did you mean {near[0]}?" if near else f"it has {', '.join(kinds)}")
        )
    read = kinds[name].read(name, value)
    return list(read) if isinstance(read, tuple) else read


def check_order(steps: Sequence[Step]) -> list[Field]:
    """Return what steps need of the data, because no step before them writes it.

    Examples
    --------
    >>> check_order([Step.read("tl.cluster", {"n_clusters": 4, "use_rep": "X_pca"})])
    [('obsm', 'X_pca')]
    """
    made, wanted = set[Field](), []
    for step in steps:
        wanted += [needed for needed in step.needs if needed not in made]
        made = {*step.writes} | _staying(step, made)
    return wanted


def _staying(step: Step, fields: set[Field]) -> set[Field]:
    """Return which fields are still there after a step."""
    return {(slot, name) for slot, name in fields if slot in ("obs", "var") or not step.kind.replaces}


def fit_of(steps: Sequence[Step], index: int) -> int:
    """Return the index of the fit whose model a step takes: the last one before it under the name that the step gives.

    Raises
    ------
    SettingsError
        There is none, or the step takes no such model.

    Examples
    --------
    >>> fit, judged = Step.read("tl.fit_federated", {"target": "kind"}), Step.read("tl.feature_importance", {})
    >>> fit_of([fit, judged], 1)
    0
    >>> fit_of([judged], 0)
    Traceback (most recent call last):
    infl.errors.SettingsError: step 1 (tl.feature_importance) takes the model of a tl.fit_federated with key_added='infl': put ...
    """
    step, name = steps[index], steps[index].all_arguments["model"]
    where = f"step {index + 1} ({step.do})"
    found = [i for i in range(index) if steps[i].do == FIT and steps[i].all_arguments["key_added"] == name]
    if not found:
        raise SettingsError(
            f"{where} takes the model of a {FIT} with key_added={name!r}: put that step before it, or give model="
        )
    assert step.kind.fit is not None
    try:
        step.kind.fit(steps[found[-1]].all_arguments)
    except SettingsError as error:
        raise SettingsError(f"{where} cannot take the model of step {found[-1] + 1}: {error}") from None
    return found[-1]


def check_fields(steps: Sequence[Step], adata: AnnData, site: str, *, done: int = 0) -> None:
    """Check before any work that a site's data have what steps need, and nothing that a step would write over.

    Parameters
    ----------
    steps
        Of the study, all.
    adata
        The site's own data, or its working object.
    site
        Its name, for the message.
    done
        Steps that were done: `adata` has what they wrote.

    Raises
    ------
    DataError
        One line: which step, which field, what to do.
    """
    made, replaced = {written for step in steps[:done] for written in step.writes}, False
    for number, step in enumerate(steps[done:], done + 1):
        for slot, name in step.needs:
            own = name in getattr(adata, slot) and (slot in ("obs", "var") or not replaced)
            if (slot, name) in made or own:
                continue
            if slot == "obs":
                obs_column(adata, name, where=site, role=f"step {number} ({step.do}):")
            raise DataError(
                f"step {number} ({step.do}) needs {slot}[{name!r}], which {site} lacks: {_remedy((slot, name))}"
            )
        for slot, name in step.writes:
            if (slot, name) not in made and name in getattr(adata, slot):
                raise DataError(
                    f"step {number} ({step.do}) would write over {slot}[{name!r}] of {site}'s own data: rename or remove it, or "
                    "let the step write under another name"
                )
        made, replaced = {*step.writes} | _staying(step, made), replaced or step.kind.replaces


def check_ruled(steps: Sequence[Step], site: str) -> None:
    """Check before any work that rules of disclosure can bind every step.

    Raises
    ------
    SettingsError
        One opens sums that say nothing of the records behind them.
    """
    for number, step in enumerate(steps, 1):
        found = unruled(step.do.partition(".")[2], step.all_arguments)
        if found is None and getattr(_function(step.do), "ruled", True):
            continue
        what = step.do if found is None or not found[1].argument else f"{step.do[:3]}{found[0]}"
        since, instead = ("", "") if found is None else (f", since {found[1].why}", f"{found[1].instead}, or ")
        raise SettingsError(
            f"step {number} ({what}) is not yet under rules of disclosure, which the policy of {site} has{since}: {instead}leave the step out"
        )


def check_groups(steps: Sequence[Step], rules: DisclosureRules, adata: AnnData, site: str) -> None:
    """Check before any work that rules of disclosure release groups of the columns that steps ask about group by group.

    Parameters
    ----------
    steps, adata, site
        As for :func:`check_fields`.
    rules
        The site's.

    Raises
    ------
    SettingsError
        They do not; in one line.
    """
    for number, step in enumerate(steps, 1):
        given = step.all_arguments
        words = [
            (slot, name)
            for slot, name in step.kind.terms(given)
            if name in adata.obs and not has_numbers(adata.obs[name])
        ]
        try:
            with Disclosure(rules):
                refuse_groups_of(*(name for _, name in (*step.kind.groups(given), *words)))
        except SettingsError as error:
            raise SettingsError(f"{site}, step {number} ({step.do}) asks about groups of {error}") from None


def _remedy(wanted: Field) -> str:
    """Say which step makes a field."""
    makers = [name for name in STEPS if not name.startswith("pp.filter") and wanted in Step(name, {}).writes]
    if makers:
        return f"{makers[0]} makes it, so put that step before"
    return "add it to the data before the study"


def missing_everywhere(steps: Iterable[Step]) -> list[str]:
    """Return what sites' own data must have, in words.

    Examples
    --------
    >>> missing_everywhere([Step.read("tl.cluster", {"n_clusters": 4})])
    ["obsm['X_infl']"]
    """
    return [f"{slot}[{name!r}]" for slot, name in dict.fromkeys(check_order([*steps]))]


@cache
def _function(do: str) -> Any:
    module, _, name = do.partition(".")
    return getattr(import_module(f"infl.{module}"), name)


@cache
def _defaults(do: str) -> dict[str, Any]:
    left_out = (*GIVEN, *STEPS[do].without)
    found = {n: p.default for n, p in signature(_function(do)).parameters.items() if n not in left_out}
    return {**found, **STEPS[do].defaults}
