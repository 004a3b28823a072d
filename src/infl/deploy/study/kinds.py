"""The table of functions that a study can have as steps: what each needs of a site's data, and what it writes there.

A step is named as a user calls it (``pp.pca``). No step names code: what is not in :data:`STEPS` is refused.

Longer than other files: it is one table, with what its rows follow from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infl._parameters import OTHER_COLUMN, Choice, Kind, Names, Text
from infl.data.design import SITE, read_formula, split_formula
from infl.errors import SettingsError
from infl.federation.rules import rule
from infl.models.panels import columns_of_task
from infl.models.registry import make_task, task_class
from infl.pp._filter import one_bound

Field = tuple[str, str]
"""Where in an AnnData: ``("obsm", "X_pca")``."""
Arguments = Mapping[str, Any]
GIVEN = ("sites", "site_key", "key", "copy", "inplace")
"""Arguments that a study gives itself: a step works on the site's working object."""


@dataclass(frozen=True)
class StepKind:
    """What is known of a function beside its signature.

    Attributes
    ----------
    needs, writes
        Fields of AnnData, from the step's arguments (defaults included). ``X`` and layers, which the working object has for
        that, are not named.
    inplace
        The function writes only on request.
    reads
        Fields that it takes where they are there.
    others
        Kinds of arguments that a notebook may give as arrays, and a file by name.
    without
        Arguments that a step has no say in.
    more
        From the arguments as they were given: kinds of those that its signature does not name.
    replaces
        What the function returns takes the place of the working object: of fields, only columns of ``obs`` and ``var`` can stay.
    groups, terms
        Columns of ``obs`` that it asks about group by group: any, or those that are not numbers.
    fit
        The function takes the model of a fit before it; checks the arguments of that fit. The argument ``model`` is the fit's ``key_added``.
    defaults
        Of arguments that have none in its signature.
    """

    needs: Callable[[Arguments], list[Field]] = lambda given: []
    writes: Callable[[Arguments], list[Field]] = lambda given: []
    inplace: bool = False
    reads: Callable[[Arguments], list[Field]] = lambda given: []
    others: Mapping[str, Kind] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    more: Callable[[Arguments], Mapping[str, Kind]] = lambda given: {}
    replaces: bool = False
    groups: Callable[[Arguments], list[Field]] = lambda given: []
    terms: Callable[[Arguments], list[Field]] = lambda given: []
    fit: Callable[[Arguments], None] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _named(slot: str, *names: str | None) -> list[Field]:
    return [(slot, name) for name in names if isinstance(name, str)]


def _batches(given: Arguments) -> list[Field]:
    return [] if given["batch_key"] == "site" else _named("obs", given["batch_key"])


def _qc_columns(given: Arguments) -> list[Field]:
    figures = ["total_counts", *(f"total_counts_{name}" for name in given["qc_vars"])]
    counts = [*figures, "n_genes_by_counts"]
    shares = [
        *(f"pct_counts_in_top_{n}_genes" for n in given["percent_top"] or ()),
        *(f"pct_counts_{name}" for name in given["qc_vars"]),
    ]
    features = ["mean_counts", "total_counts"]
    logs = (lambda names: [f"log1p_{name}" for name in names]) if given["log1p"] else (lambda names: [])
    of_features = [*features, *logs(features), "n_cells_by_counts", "pct_dropout_by_counts"]
    return _named("obs", *counts, *logs(counts), *shares) + _named("var", *of_features)


def _variable_columns(given: Arguments) -> list[Field]:
    by_regression = str(given["flavor"]).startswith("seurat_v3")
    figures = (
        ("variances", "variances_norm", "highly_variable_rank")
        if by_regression
        else ("dispersions", "dispersions_norm")
    )
    batches: tuple[str, ...] = () if given["batch_key"] is None else ("highly_variable_nbatches",)
    if batches and not by_regression:
        batches += ("highly_variable_intersection",)
    return _named("uns", "hvg") + _named("var", "highly_variable", "means", *figures, *batches)


def _components(given: Arguments) -> list[Field]:
    name = given["key_added"]
    return [("obsm", name or "X_pca"), ("varm", name or "PCs"), ("uns", name or "pca")]


def _judged(slot: str, given: Arguments) -> list[Field]:
    name, _ = one_bound(**{name: value for name, value in given.items() if name.startswith(("min_", "max_"))})
    return _named(slot, f"n_{name[4:]}")


def _labels(given: Arguments) -> list[Field]:
    name = given["key_added"] or f"{given['target']}_transferred"
    return [*_named("obs", name, f"{name}_probability"), ("uns", name)]


def _columns(formula: str) -> list[Field]:
    return _named("obs", *(name for name in read_formula(formula)[1] if name != SITE))


def _modelled(given: Arguments) -> list[Field]:
    response, terms = split_formula(given["formula"])
    return _named("obs", response, given["offset"]) + _columns(terms)


def _in_batches(given: Arguments) -> list[Field]:
    covariates = given["covariates"] or ()
    return _batch(given) + _named("obs", *([covariates] if isinstance(covariates, str) else covariates))


def _batch(given: Arguments) -> list[Field]:
    return [] if given["batch"] == SITE else _named("obs", given["batch"])


def _regressed(given: Arguments) -> list[Field]:
    return _named("obs", *([given["keys"]] if isinstance(given["keys"], str) else given["keys"]))


def _in_uns(given: Arguments) -> list[Field]:
    return _named("uns", given["key_added"])


OF_A_RUN = (
    "checkpoint",
    "device",
    "engine",
    "init",
    "min_sites",
    "participation",
    "privacy",
    "progress",
    "protection",
    "resume",
    "seal",
    "seed",
)
"""Arguments of a fit that are those of its own run, and of no step."""
_CLASSES: tuple[Field, ...] = (
    *(("obs", f"{{}}_{what}") for what in ("prediction", "probability")),
    *(("obsm", name) for name in ("X_{}", "{}_probabilities")),
)
_WRITTEN_BY_MODEL: Mapping[str, tuple[Field, ...]] = {
    "classifier": _CLASSES,
    "labels": (("obsm", "X_{}"),),  # and, by target, columns of obs and of obsm
    "perturbation": (("varm", "{}_effect"),),
    "regressor": (("obsm", "X_{}"),),  # and columns of obs by target
    "scanvi": _CLASSES,
    "scvi": (("obsm", "X_{}"),),
    "spatial": (("obs", "{}_domain"), ("obsm", "X_{}")),
    "survival": (
        *(("obs", f"{{}}_{what}") for what in ("risk", "median")),
        *(("obsm", name) for name in ("X_{}", "{}_survival")),
        ("uns", "{}_times"),
    ),
}


def _model_of(given: Arguments) -> str:
    model = str(given.get("model") or "classifier")
    if model == "classifier" and isinstance(given.get("target"), list | tuple):
        model = "labels"
    if model not in _WRITTEN_BY_MODEL:
        raise SettingsError(
            f"model {model!r} is no step of a study; {', '.join(_WRITTEN_BY_MODEL)} are. Fit others in a run: infl run template"
        )
    return model


def _options(given: Arguments) -> dict[str, Any]:
    model = _model_of(given)
    known = {name for name in given if name in task_class(model).parameters}
    return {name: given[name] for name in known if name != "target" or given[name] is not None}


def _fit_needs(given: Arguments) -> list[Field]:
    model = _model_of(given)
    make_task(model, _options(given))  # what cannot go together is refused here
    rule(given["aggregation"], given["aggregation_options"] or {})
    if given["target"] is None and (_WRITTEN_BY_MODEL[model] is _CLASSES or task_class(model).columns_in_panel):
        what = (
            "classes" if _WRITTEN_BY_MODEL[model] is _CLASSES else "perturbations"
        )  # which people at the sites agree to
        raise SettingsError(f"model {model!r} needs target=, the column of obs with the {what}")
    beside = [*(given.get("covariates") or ())]
    if model in _OF_COLUMNS:
        needed = sorted(columns_of_task(model, _options(given), {}))
        if len(needed) < _OF_COLUMNS[model][0]:
            raise SettingsError(f"model {model!r} needs {_OF_COLUMNS[model][1]}")
        needed = needed if model != "labels" else beside  # a site may lack all labels
        return _named("obs", *needed)
    return _named("obs", given["target"], *beside)


_OF_COLUMNS = {
    "labels": (1, "target=, the columns of obs with the labels"),
    "regressor": (1, "target=, the column of obs with the numbers, or several"),
    "survival": (2, "time= and event=, the columns of obs with time and kind of the end"),
}
"""Of models whose columns are their own options: how many they need at least, and which."""


def _fit_kinds(given: Arguments) -> Mapping[str, Kind]:
    """Return the kinds of a model's options; `target` is None for those without."""
    kinds = task_class(_model_of(given)).parameters
    return kinds if _model_of(given) in ("labels", "regressor") else {**kinds, "target": OTHER_COLUMN}


def _fit_reads(given: Arguments) -> list[Field]:
    return _named("obs", *sorted(columns_of_task(_model_of(given), _options(given), {})))


def _fit_groups(given: Arguments) -> list[Field]:
    """Return the columns of classes, of perturbations, of several labels, and of covariates that have groups."""
    model, targets = _model_of(given), given["target"]
    if model == "labels":
        return _named("obs", *targets)
    named = _named("obs", *(given.get("categorical_covariates") or ()))
    return named if model in _OF_COLUMNS else _named("obs", targets) + named


def _fit_writes(given: Arguments) -> list[Field]:
    name, model = given["key_added"], _model_of(given)
    fixed = [("uns", name), *((slot, field.format(name)) for slot, field in _WRITTEN_BY_MODEL[model])]
    if model not in ("labels", "regressor"):
        return fixed
    targets = [given["target"]] if isinstance(given["target"], str) else [*(given["target"] or ())]
    if model == "labels":
        obs = _named(
            "obs", *(f"{name}_{what}_{target}" for what in ("prediction", "probability") for target in targets)
        )
        return fixed + obs + _named("obsm", *(f"{name}_probabilities_{target}" for target in targets))
    ends = [f"_{target}" for target in targets] if len(targets) > 1 else [""]
    return fixed + _named("obs", *(f"{name}_{what}{end}" for what in ("prediction", "low", "high") for end in ends))


def _check_judged(fit: Arguments) -> None:
    """Refuse fits of which no importance of features follows in a study."""
    model, known = _model_of(fit), ("classifier", "labels", "regressor", "survival")
    if model not in known:
        raise SettingsError(f"model {model!r} has no importance of features yet; {', '.join(known)} have")
    kept = "coordinate=" if fit.get("coordinate") else f"aggregation={fit['aggregation']!r}"
    if fit.get("coordinate") or rule(fit["aggregation"], fit["aggregation_options"] or {}).local:
        raise SettingsError(f"{kept} leaves weights at the sites, and a study keeps those of all sites alone")


REAL = Text(says="a type of real numbers, e.g. 'float32'")
STEPS: Mapping[str, StepKind] = {
    "pp.qc_summary": StepKind(lambda a: _named("var", *a["qc_vars"]), _qc_columns, inplace=True),
    "pp.filter_cells": StepKind(writes=lambda a: _judged("obs", a)),
    "pp.filter_genes": StepKind(writes=lambda a: _judged("var", a)),
    "pp.impute": StepKind(),
    "pp.pseudobulk": StepKind(
        lambda a: _named("obs", a["sample_key"], a["groups_key"]),
        lambda a: _named("obs", "psbulk_cells", "psbulk_counts"),
        replaces=True,
    ),
    "pp.normalize_total": StepKind(writes=lambda a: _named("obs", a["key_added"])),
    "pp.log1p": StepKind(),
    "pp.moments": StepKind(writes=lambda a: _named("var", "mean", "var", "std"), inplace=True),
    "pp.highly_variable_genes": StepKind(_batches, _variable_columns, inplace=True),
    "pp.scale": StepKind(
        lambda a: _named("obs", a["mask_obs"]),
        lambda a: _named(
            "var", *(f"{figure} of {a['mask_obs']}" if a["mask_obs"] else figure for figure in ("mean", "std"))
        ),
        others={"mask_obs": Text(none=True, says="the name of one obs column")},
    ),
    "pp.pca": StepKind(
        lambda a: _named("var", a["mask_var"]),
        _components,
        others={"mask_var": Text(says="the name of one var column"), "dtype": REAL},
    ),
    "pp.combat": StepKind(_in_batches, groups=_batch, terms=_in_batches),
    "pp.remove_batch_effect": StepKind(_in_batches, groups=_batch, terms=_in_batches),
    "pp.regress_out": StepKind(_regressed, terms=_regressed),
    "pp.harmony_integrate": StepKind(
        lambda a: _named("obsm", a["basis"]) + _batches(a),
        lambda a: [("obsm", a["adjusted_basis"]), ("uns", a["adjusted_basis"])],
        others={"dtype": REAL},
    ),
    "tl.rank_genes_groups": StepKind(
        lambda a: _named("obs", a["groupby"]), _in_uns, groups=lambda a: _named("obs", a["groupby"])
    ),
    "tl.de": StepKind(
        lambda a: _columns(a["design"]) + _named("var", a["counts_key"]),
        _in_uns,
        inplace=True,
        others={"contrast": Names(none=True, says="a coefficient, or column, group and baseline")},
        terms=lambda a: _columns(a["design"]),
    ),
    "tl.survival": StepKind(
        lambda a: _named("obs", a["time"], a["event"], a["groups"]),
        _in_uns,
        inplace=True,
        groups=lambda a: _named("obs", a["groups"]),
    ),
    "tl.cox": StepKind(lambda a: _named("obs", a["time"], a["event"]) + _columns(a["formula"]), _in_uns, inplace=True),
    "tl.glm": StepKind(_modelled, _in_uns, inplace=True, terms=lambda a: _columns(split_formula(a["formula"])[1])),
    "tl.score_genes": StepKind(writes=lambda a: _named("obs", a["score_name"])),
    "tl.score_genes_cell_cycle": StepKind(writes=lambda a: _named("obs", "S_score", "G2M_score", "phase")),
    "tl.spatial_domains": StepKind(
        lambda a: _named("obsm", a["spatial_key"]) + _named("obs", a["section_key"]),
        lambda a: [("obsm", f"X_{a['key_added']}"), *((slot, a["key_added"]) for slot in ("obs", "varm", "uns"))],
    ),
    "tl.transfer_labels": StepKind(
        lambda a: _named("obsm", a["use_rep"]), _labels, reads=lambda a: _named("obs", a["target"])
    ),
    "tl.cluster": StepKind(
        lambda a: _named("obsm", a["use_rep"]),
        lambda a: [("obs", a["key_added"]), ("uns", a["key_added"])],
        others={"method": Choice(("kmeans", "gmm", "spheres", "ward"))},
    ),
    "tl.feature_importance": StepKind(
        lambda a: _named("uns", a["model"]),
        lambda a: _named("var", a["key_added"]),
        others={"model": Text(says="the key_added of a fit before it")},
        fit=_check_judged,
        defaults={"model": "infl"},
    ),
    "tl.fit_federated": StepKind(
        _fit_needs,
        _fit_writes,
        reads=_fit_reads,
        others={"model": Text(says="the name of a model")},
        without=(*OF_A_RUN, "model_options"),
        more=_fit_kinds,
        groups=_fit_groups,
        terms=lambda a: _named("obs", *(a.get("covariates") or ())),
    ),
}
"""Steps by name."""
