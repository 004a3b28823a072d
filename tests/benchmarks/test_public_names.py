"""Benchmarks use the package as anybody does: what they take of its inside is listed here, each with a reason."""

import ast
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
INSIDE = {
    ("atlas", "infl._threads.one_thread"): "the rival has the threads that ours has",
    ("_parts", "infl.federation.stacked._Losses"): "times its calls",
    ("atlas", "infl.attacks._kit.statistics.trials_for"): "as attacks say how many trials would decide",
    ("atlas", "infl.attacks._kit.theft.Theft"): "an attack in the making",
    ("cox", "infl.tl._cox_search.departures_of"): "attacks bins of the size that is the default",
    ("forget", "infl.tl._forgotten.membership_of"): "attacks after each of several rounds",
    ("harmony", "infl.pp._harmony"): "counts the sums of one step",
    ("harmony", "infl.pp._sphere"): "the same",
    ("lock", "infl.tl._calibrate._Probe"): "measures what calibration aims at, on the same observations",
    ("lock_field", "infl.nn.field._Words"): "times the keystream by itself",
    ("lock_salts", "infl.attacks._kit.model_file.ModelFile"): "an attack in the making",
    ("lock_salts", "infl.attacks._kit.statistics.rank_correlation"): "the same",
    ("lock_salts", "infl.attacks._kit.weights.averaged"): "the same",
    ("lock_salts", "infl.attacks._kit.weights.rescaled"): "the same",
    ("missing_site", "infl.attacks._kit.audit_context.NO_LOCK_NO_SEAL"): "the control that the attack has",
    ("mosaic", "infl._mudata.without_pull"): "for both mudata 0.3 and 0.4",
    ("phenotype_thieves", "infl.attacks._kit.model_file.ModelFile"): "the attack by wrong keys, with more of them",
    ("phenotype_thieves", "infl.attacks._kit.weights.random_ring"): "the same",
    ("released", "infl.tl._cox_search.risk_of"): "an attack on what is opened: it needs the sums that are",
    ("released", "infl.tl._cox_sums.Patients"): "the same",
    ("released", "infl.tl._markers"): "notes what is opened",
    ("released", "infl.tl._times.ends_of"): "an attack on what is opened",
    ("released", "infl.tl._times.grid_sums"): "the same",
    ("thieves", "infl.attacks._kit.one_run_bound.correct_guesses"): "bounds of guesses that are made here",
    ("thieves", "infl.attacks._kit.one_run_bound.gaussian_lower_bound"): "the same",
    ("thieves", "infl.attacks._kit.one_run_bound.guesses_for"): "the same",
    ("thieves", "infl.attacks._kit.one_run_bound.likelihood_ratio"): "the same",
    ("thieves", "infl.attacks._kit.one_run_bound.lower_bound"): "the same",
    ("threads", "infl._threads"): "switches off what it measures",
}


def test_benchmarks_import_public_names_but_for_these() -> None:
    found = set()
    for path in BENCHMARKS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "infl":
                names = [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                names = [name.name for name in node.names if name.name.partition(".")[0] == "infl"]
            else:
                continue
            found |= {(path.stem, name) for name in names if any(part[0] == "_" for part in name.split("."))}
    assert found == set(INSIDE)
