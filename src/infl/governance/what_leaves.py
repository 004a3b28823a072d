"""The page that says what leaves a site, written from the message classes and the sums themselves.

``python -m infl.governance.what_leaves > docs/what_leaves.md`` writes it; a test fails when it is out of date.
Longer than other files: it is the text of one page, with a line for each function that has sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from infl.federation.exchanges import TrainingSum, close_sum, count_sum, judge_sum
from infl.federation.messages import MESSAGE_TYPES, Visibility
from infl.models.registry import TASKS, make_task
from infl.pp._batch_sums import model_sums, residual_sum
from infl.pp._filter import expression_sum
from infl.pp._harmony import size_sum
from infl.pp._harmony_sums import harmony_sums
from infl.pp._hvg_dispersion import dispersions_of_batches
from infl.pp._hvg_regression import clipped_sum, marks_of_batches
from infl.pp._median import median_sums
from infl.pp._moments import moment_sums
from infl.pp._normalize import highly_expressed
from infl.pp._pca_sums import direction_sums, frame_from, product_sums
from infl.pp._qc import feature_sum
from infl.pp._quantiles import halving_sum
from infl.pp._sphere import centre_sums
from infl.sums import FederatedSum
from infl.sums.observations import observations
from infl.tl._calibrate import judged_at
from infl.tl._cluster_sums import (
    cluster_moments,
    coordinates,
    distances,
    halves,
    likelihood,
    numbers,
    numbers_and_coordinates,
    sizes,
    squares,
)
from infl.tl._cox import cox_sums
from infl.tl._de import peptide_sum
from infl.tl._deseq2 import deseq2_sums, linear_models
from infl.tl._deseq2_sums import log_sum
from infl.tl._domain_number import agreement
from infl.tl._glm import glm_sums
from infl.tl._glm_sums import family_of
from infl.tl._group_sums import group_sums
from infl.tl._importance_sums import exchange_sum, importance_sum
from infl.tl._linear_sums import design_sum, linear_sums
from infl.tl._logistic_sums import logistic_sum
from infl.tl._rank_sums import rank_sums
from infl.tl._ruled_ranks import binned_sum, cut_sum
from infl.tl._spatial_domains import mean_of_shares
from infl.tl._survival_sums import departure_sum
from infl.tl._times import grid_sums
from infl.tl._transfer_labels import label_sums
from infl.tl._voom import voom_sums

INTRODUCTION = """# What leaves the house

Everything that passes between a site and the coordinator is one of the messages below, and each of their fields says
who can read it. There is no other channel. This page is generated from the classes in `infl.federation.messages`; a
field without a declared visibility cannot be added without a failing test.

A site writes what it sends into its own ledger *before* it sends it: time, kind, round, size, digests, sealed or not.
`run.ledger` shows it in a notebook.

Values are summed, never listed: no message has a number that belongs to one patient or cell. Those marked *sealed* are
noise to the coordinator and to everybody on the way; only the sum over at least `min_sites` sites can be opened, and
only by the sites. With `seal="none"` (simulation and debugging) the coordinator reads them, and the results say so.
"""

INSIDE = """## What is inside the sealed words

| exchange | arrays | scale |
| --- | --- | --- |
| `count` | below | exact |
| a task's sums before and after the rounds, `judge` | below | multiples of 2⁻²⁰ |
| `train` | change of every shared weight × the site's share of the samples | per tensor, from the specification |
| `train` | summed training loss, summed validation metrics (a classifier: loss, confusion counts, calibration bins) | exact counts; else multiples of 2⁻²⁰ |
| `train`, where some sites are asked | number of samples | exact |
| `train`, rule `scaffold` | change of the site's mean gradient × the site's share of the samples | multiples of 2⁻²⁴ |
| `train`, rule `qfedavg` | samples × training loss to the power q, summed; the update is multiplied by that power too | multiples of 2⁻²⁰ |
| `train`, rule `afl` | samples × the site's weight in the mixture; the update is multiplied by that weight too | multiples of 2⁻²⁰ |
| `train`, rule `fedavg` with `weight="sites"` | 1, which adds up to the number of sites; the update is divided by the samples | multiples of 2⁻²⁰ |
| `train` and a task's sums | `left_out`, sites whose part counts as zero; `wider`, by how many steps an array's scale must be wider | exact |
| `close` | none | – |
| every exchange | integrity tag, linear in all words, keyed | – |

Beside the update and its marks (`left_out`, `wider`) everything is opened only where all sites of the cohort are in the sum.

Messages tell no scale. The first scales follow from the specification (learning rate, local epochs), later ones from sums that
the sites opened. Sums are three limbs of 64 bits wide, up to 2¹¹⁹. An update outside its range, and whatever is not finite,
travels as zeros with a mark *inside* the sealed sum: all sites then widen the scale of that array for the rounds after.
So neither the size of a message, nor its time in the programme, nor a repetition follows from a value. The exception: where
*no* site has a finite update, or a site has a sum that is not finite, all sites end the run after that sum, with one code.

Early stopping is decided by every site alike from the same opened sum of validation metrics; the coordinator learns
only that the run ended.

Names are not hidden: those of sites, features and classes are part of the run's specification, which all parties see.
"""


OF_EVERY_RUN = """## Sums of every run

Made from the sums themselves, for a classifier with one feature and two classes. The number in brackets says how much one
number of an array can change, at most, when one record of a site is changed, added or left out; where there is none, no bound is known.
"""

OF_TASKS = """## Sums of the tasks

Each task lists what it adds over sites before the first round and after the last one, with all its options in use; the table is
made from those lists (`Task.before`, `Task.after`).
"""

OF_SURVIVAL = """## Sums of curves of survival and of regressions

Each part of time is halved again only while it has twice as many departures as a bin needs, so what is opened of a few patients is
that they left in half a part in which many did. Later sums are over bins with five departures of each group or none.
"""

OF_PREPROCESSING = """## Sums of preprocessing

Each function of `infl.pp` that looks at values over sites is a list of sums, too. With a key and three sites or more they are sealed.

Where sites are processes of their own (`infl.data.consortium.Consortium`), each runs the same function on its own object. Sums
between them are always sealed. Besides, sites say these names to each other, which all members can read; in a study they are encrypted
for the members, and the coordinator passes them on:

| what | functions |
| --- | --- |
| name of the function and a digest of its arguments | all |
| number of features and a digest of their names, in order | all that read a matrix |
| kind of values: raw counts, normalised counts, logarithms, scaled values, or unclear | `moments`, `scale`, `highly_variable_genes`, `pca`, `quantiles`, `impute`, `pseudobulk`, `score_genes`, `rank_genes_groups`, `de`, `combat`, `remove_batch_effect`, `regress_out` |
| type of values, such as float32 | `normalize_total` without `target_sum` |
| that a site has checked its values, or is ready to replace them | `normalize_total`, `log1p`, `filter_cells`, `pseudobulk`, `impute`, `combat`, `remove_batch_effect`, `regress_out` |
| base of the logarithms | `highly_variable_genes(flavor="seurat")`, `rank_genes_groups` |
| which features a column of `var` marks, and which it says nothing of | `pca` |
| whether `obs` has a column called site, `var` one called highly_variable | `highly_variable_genes`, `harmony_integrate`, `pca`; formulas with `site` |
| names of the batches of at least five observations; a site with a smaller one refuses to go on | `highly_variable_genes`, `harmony_integrate` with a column of batches |
| names of the groups of at least five observations, in the order of categories, and a digest of all categories; a site with a smaller group refuses to go on | `rank_genes_groups`, `survival`, and for columns of a formula `de`, `glm`, `cox`, `combat`, `remove_batch_effect`, `regress_out` |
| whether a column of a formula has numbers | `de`, `glm`, `cox`, `combat`, `remove_batch_effect`, `regress_out` |
| whether all of a site's observations have one level of `site` | `de` |
| names of the features that a site did not measure | `score_genes` |
| number of coordinates | `harmony_integrate`, `cluster` |
| that a site goes on no more, without the reason | all |
"""

OF_TOOLS = """## Sums of clusters, markers, differential expression, importance of features, and a lock's strength

`infl.tl.cluster` asks as often as it takes to converge. With `method="leiden"` it sends, besides, mean, radius and number of each
community of a site that has five observations or more, unsealed.
"""

EVERY_SUM: dict[str, dict[str, Any]] = {
    "classifier": {"target": "x", "coordinate": 2, "atlas": True},
    "labels": {"target": "label"},
    "mosaic": {"n_domains": 3},
    "regressor": {"target": "x"},
    "scanvi": {"target": "x", "atlas": True},
}
"""Options by which a task has all sums that it can have."""
PANEL: dict[str, Any] = {
    "features": ["TP53"],
    "classes": ["a", "b"],
    "conditions": ["TP53"],
    "modalities": {"": ["TP53"]},
    "targets": ["x"],
    "tasks": {"label": ["a", "b"]},
    "sites": ["a", "b", "c"],
    "covariates": {},
    "width": 1,
}
"""Of what no sum's description depends on."""


def what_leaves() -> str:
    """Return the page as Markdown.

    Raises
    ------
    TypeError
        A field of a message has no declared visibility.

    Examples
    --------
    >>> what_leaves().splitlines()[0]
    '# What leaves the house'
    """
    parts = [INTRODUCTION, "## Messages\n"]
    for message in MESSAGE_TYPES:
        parts += [f"### {message.__name__}\n", f"{(message.__doc__ or '').splitlines()[0]}\n"]
        parts += ["| field | what it is | who can read it |", "| --- | --- | --- |"]
        for field in dataclasses.fields(message):
            seen = field.metadata.get("visible")
            if not isinstance(seen, Visibility):
                raise TypeError(f"{message.__name__}.{field.name} has no declared visibility: use shown(...)")
            name = "**sealed**: " if seen is Visibility.SEALED else ""
            parts.append(f"| `{field.name}` | {field.metadata['what']} | {name}{seen.value} |")
        parts.append("")
    return "\n".join(
        [
            *parts,
            INSIDE,
            OF_EVERY_RUN,
            *_of_every_run(),
            "",
            OF_TASKS,
            *_of_tasks(),
            "",
            OF_PREPROCESSING,
            *_of_preprocessing(),
            "",
            OF_TOOLS,
            *_of_tools(),
            "",
            OF_SURVIVAL,
            *_of_survival(),
            "",
        ]
    )


def _of_every_run() -> list[str]:
    """Return the table of the sums that do not depend on the task."""
    task = make_task("classifier", {"target": "x"})
    count, *others = (_row(one) for one in (count_sum(task, PANEL), judge_sum(task, PANEL), close_sum()))
    training = f"`{TrainingSum.name}` | {TrainingSum.says} | above"
    rows = ["| sum | what it tells | arrays (one record) |", "| --- | --- | --- |"]
    return rows + [f"| {row} |" for row in (count, training, *others)]


def _of_tasks() -> list[str]:
    """Return the table of all tasks' sums."""
    rows = ["| task | sum | what it tells | arrays (one record) |", "| --- | --- | --- | --- |"]
    for name in sorted(TASKS):
        task = make_task(name, EVERY_SUM.get(name, {}))
        for when, sums in (("before", task.before(PANEL)), ("after", task.after(PANEL))):
            rows += list(dict.fromkeys(f"| {name}, {when} | {_row(one)} |" for one in sums))
    return rows


def _of_preprocessing() -> list[str]:
    """Return the table of all sums of preprocessing."""
    frame_of = partial(frame_from, columns=np.arange(1), n_obs=1, zero_center=True)
    lists = {
        "`moments`, `scale`": moment_sums(1),
        "`filter_genes`": [expression_sum(1, "n_cells"), expression_sum(1, "n_counts")],
        "`quantiles`": [*moment_sums(1), halving_sum(1, [0.5], 1 / 64)],
        "`impute`, `tl.score_genes`, `tl.score_genes_cell_cycle`": moment_sums(1)[:1],
        "`normalize_total`": [
            highly_expressed(1, 0.05),
            *median_sums(1, np.dtype(np.float32), name="median of totals"),
        ],
        "`scale(mask_obs=…)`": [observations()],
        "`qc_summary`": [feature_sum(1)],
        "`highly_variable_genes`": [
            *moment_sums(1, textbook=True),
            clipped_sum(1),
            dispersions_of_batches(1),
            marks_of_batches(1),
            *median_sums(1, np.dtype(np.float32), name="ranks", of_records=False),
        ],
        "`harmony_integrate`": [
            observations(),
            size_sum(["x", "y"]),
            *centre_sums(1, 1),
            *harmony_sums(1, 1, 2, steps=4),
        ],
        "`combat`, `remove_batch_effect`, `regress_out`": [*model_sums(["x"], 1), residual_sum(["b"], 1, 1)],
        "`pca`": [observations(), *moment_sums(1), *product_sums(1, frame_of), *direction_sums(1, 1, 0, frame_of)],
    }
    return _of_functions(lists)


def _of_tools() -> list[str]:
    """Return the table of the sums of functions in `infl.tl`."""
    judged = judged_at(0.5, make_task("classifier", {"target": "x"}), PANEL, nn.Identity())
    return _of_functions(
        {
            "`cluster`": [
                observations(),
                halves(),
                cluster_moments(1),
                numbers(1),
                coordinates(1, 1),
                numbers_and_coordinates(1, 1),
                distances(),
                sizes(1),
            ],
            '`cluster(method="gmm")`': [likelihood(), squares(1, 1)],
            "`spatial_domains`": [mean_of_shares(1), agreement(1)],
            "`transfer_labels`": [label_sums(1, 1)],
            "`rank_genes_groups`": group_sums(1, 1, nonzero=True),
            '`rank_genes_groups(method="wilcoxon")`': [*rank_sums(1, 1, 64), cut_sum(1, 1), binned_sum(1, 1, 1, [])],
            '`rank_genes_groups(method="logreg")`': [logistic_sum(3, 1)],
            "`de`": [design_sum(1), *linear_sums(1, 1)],
            '`de(method="voom")`': [design_sum(1), *voom_sums(1, 1)],
            '`de(method="deqms")`': [peptide_sum(1)],
            '`de(method="deseq2")`': _of_deseq2(),
            "`feature_importance`": [exchange_sum(1), importance_sum(1)],
            "`calibrate_lock`, `lock_curve`": [replace(judged, name="strength …")],
        }
    )


def _of_deseq2() -> list[FederatedSum]:
    logs, counts = linear_models(1, 1)
    first, means, genewise, last = deseq2_sums(1, 1, linear=False)
    return [
        design_sum(1),
        log_sum(1),
        logs,
        *counts,
        first,
        *means,
        genewise,
        replace(genewise, name="dispersions"),
        *last,
    ]


def _of_survival() -> list[str]:
    """Return the table of the sums of curves and regressions."""
    return _of_functions(
        {
            "`survival`": [*grid_sums(1, by_event=False), departure_sum(1)],
            "`cox`": cox_sums(["x"], efron=True, stratified=False, penalty=0.0),
            '`cox(strata="site")`': cox_sums(["x"], efron=True, stratified=True, penalty=0.0)[-2:],
            "`glm`": glm_sums(["x"], family_of("gaussian", 1.0), "gaussian"),
        }
    )


def _of_functions(lists: Mapping[str, Sequence[FederatedSum]]) -> list[str]:
    rows = ["| function | sum | what it tells | arrays (one record) |", "| --- | --- | --- | --- |"]
    return rows + [f"| {function} | {_row(one)} |" for function, sums in lists.items() for one in sums]


def _row(one: FederatedSum) -> str:
    times = f", up to {one.steps} times" if one.until else f", {one.steps} times"
    steps = times if one.steps > 1 else ""
    bounds = {array: f" ({bound:g})" for array, bound in one.sensitivity.items()}
    arrays = ", ".join(f"`{array}`{bounds.get(array, '')}" for array in one.shapes)
    return f"`{one.name}`{steps} | {one.says} | {arrays}"


if __name__ == "__main__":
    print(what_leaves(), end="")
