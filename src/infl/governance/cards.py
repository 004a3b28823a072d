"""A model card and a data sheet that programs read, with the sections of the papers that proposed them.

What is not known is null, and listed under ``not_known`` with the question that would fill it.

References
----------
Mitchell et al., Model cards for model reporting, FAT* 2019, https://doi.org/10.1145/3287560.3287596. Gebru et al.,
Datasheets for datasets, Communications of the ACM 64(12), 2021, https://doi.org/10.1145/3458723.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from infl.governance.facts import STATEMENTS, Facts, metric_label

if TYPE_CHECKING:
    from collections.abc import Mapping

MITCHELL = "Mitchell et al. 2019, Model cards for model reporting, https://doi.org/10.1145/3287560.3287596"
GEBRU = "Gebru et al. 2021, Datasheets for datasets, https://doi.org/10.1145/3458723"
CITATION = "INFL, https://arxiv.org/abs/2603.28334"


def model_card(facts: Facts) -> dict[str, Any]:
    """Return the model card, ready for JSON.

    Parameters
    ----------
    facts
        The run, and what else is known of it.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    >>> card = model_card(Facts(run, statements={"purpose": "Teaching"}))
    >>> list(card)[2:5], card["intended_use"]["primary_intended_uses"]
    (['model_details', 'intended_use', 'factors'], 'Teaching')
    """
    s, header, answers = facts.settings, facts.run.model.header, _answers(facts)
    panel = header.panel
    details = {
        "developers": list(facts.sites),
        "date": facts.written,
        "version": {"run": s["run"], "sha256": header.digest, "format": header.format},
        "type": {
            "task": s["task"],
            "target": facts.target or None,
            "classes": list(panel.get("classes", ())),
            "n_features": len(panel.get("features", ())),
            "n_weights": facts.n_weights,
        },
        "training_algorithms": {
            "aggregation": s["aggregation"],
            "aggregation_options": s["aggregation_options"],
            "rounds": facts.n_rounds,
            "round_kept": facts.best_round,
            "local_epochs": s["local_epochs"],
            "participation": s["participation"],
            "seed": s["seed"],
            **({"begins_with_model": s["init"]} if s.get("init") else {}),
            "options": facts.options,
        },
        "protection": {
            "lock": header.lock,
            "strength": header.strength,
            "seal": s["seal"],
            "min_sites": s["min_sites"],
            "key_fingerprint": s["fingerprint"] or None,
            "key_version": s["key_version"],
        },
        "software": {"infl_of_the_fit": header.infl_version, **facts.versions},
        "citation": CITATION,
        "license": answers["licence"],
        "contact": answers["contact"],
    }
    return {
        "format": "infl model card 1",
        "follows": MITCHELL,
        "model_details": details,
        "intended_use": {
            "primary_intended_uses": answers["purpose"],
            "primary_intended_users": answers["users"],
            "out_of_scope_use_cases": answers["not_for"],
        },
        "factors": {"relevant_factors": ["site"], "evaluation_factors": ["site"] if facts.at_sites is not None else []},
        "metrics": {
            "model_performance_measures": {name: metric_label(name) for name in facts.quality},
            "decision_thresholds": None,
            "variation_approaches": None if facts.comparison is None else "mean and standard deviation over seeds",
        },
        "evaluation_data": {
            "datasets": "validation parts of the sites' records; not trained on, but the best round was chosen by them",
            "share": s["options"].get("validation"),
            "preprocessing": None,
        },
        "training_data": {"sites": list(facts.sites), "described_in": "data sheet of the same run", "run": s["run"]},
        "quantitative_analyses": {
            "unitary_results": _plain(facts.quality),
            "by_site": _by_site(facts),
            "comparison": _rows(facts.comparison, ["method", "metric", "mean", "sd", "worst_site", "n_seeds"]),
            "intersectional_results": None,
        },
        "ethical_considerations": {
            "messages": _messages(facts),
            "differential_privacy": _plain(facts.run.privacy) if facts.run.privacy else None,
            "audit": {
                "findings": facts.findings,
                "rows": _rows(
                    facts.audit,
                    [
                        "attack",
                        "against",
                        "protection",
                        "metric",
                        "value",
                        "low",
                        "high",
                        "chance",
                        "control",
                        "status",
                    ],
                ),
            }
            if facts.audit is not None
            else None,
        },
        "caveats_and_recommendations": {"upkeep": answers["upkeep"]},
        "not_known": facts.unanswered,
    }


def data_sheet(facts: Facts) -> dict[str, Any]:
    """Return the data sheet of all sites' records together, ready for JSON; no record and no small number in it.

    Parameters
    ----------
    facts
        The run, and what else is known of it.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    >>> sheet = data_sheet(Facts(run, site_metrics=infl.tl.site_metrics(run, sites)))
    >>> sheet["composition"]["records"][0]
    {'site': 'site_1', 'n_obs': 16, 'n_judged': None}
    """
    s, answers, panel = facts.settings, _answers(facts), facts.run.model.header.panel
    return {
        "format": "infl data sheet 1",
        "follows": GEBRU,
        "run": s["run"],
        "motivation": {"purpose": answers["purpose"], "creators": list(facts.sites), "funding": None},
        "composition": {
            "instances": answers["people"],
            "records": _by_site(facts, metrics=False),
            "records_below_this_are_not_told": facts.min_count,
            "n_features": len(panel.get("features", ())),
            "label": facts.target or None,
            "label_values": list(panel.get("classes", ())),
            "recommended_splits": {"validation": s["options"].get("validation"), "seed": s["seed"]},
            "confidential": "records stay at their sites; this sheet has none",
        },
        "collection_process": {"how": answers["people"], "legal_basis": answers["legal_basis"]},
        "preprocessing_cleaning_labeling": {
            "at_the_sites": None,
            "in_the_fit": {
                name: facts.options[name] for name in ("layer", "modality", "standardise") if name in facts.options
            },
        },
        "uses": {"used_for": f"{s['task']} model of run {s['run']}", "not_for": answers["not_for"]},
        "distribution": {"records": "not distributed", "model": answers["licence"], "messages": _messages(facts)},
        "maintenance": {"upkeep": answers["upkeep"], "contact": answers["contact"]},
        "not_known": facts.unanswered,
    }


def _answers(facts: Facts) -> dict[str, str | None]:
    return {name: facts.statements.get(name) or None for name in STATEMENTS}


def _messages(facts: Facts) -> dict[str, Any]:
    ledger = facts.run.ledger
    return {
        "ledgers_of": list(facts.with_ledger),
        "n_messages": len(ledger),
        "bytes": int(ledger["bytes"].sum()),
        "all_sealed": facts.all_sealed,
        "by_kind": _rows(facts.by_kind, ["kind", "what", "messages", "bytes"]),
    }


def _by_site(facts: Facts, *, metrics: bool = True) -> list[dict[str, Any]] | None:
    table = facts.at_sites
    if table is None:
        return None
    return _rows(table, list(table.columns) if metrics else ["site", "n_obs", "n_judged"])


def _rows(table: pd.DataFrame | None, columns: list[str]) -> list[dict[str, Any]] | None:
    if table is None:
        return None
    known = [c for c in columns if c in table]
    return [_plain(dict(zip(known, row, strict=True))) for row in table[known].itertuples(index=False, name=None)]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them: no NaN, no infinity, no numpy types."""

    def plain(value: Any) -> Any:
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return None
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value

    return {str(name): plain(value) for name, value in values.items()}
