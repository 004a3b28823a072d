"""Tools: what users call to fit, predict, compare and audit."""

from infl._attached import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    submod_attrs={
        "_adapt": ["Adapted", "adapt"],
        "_audit": ["audit"],
        "_calibrate": ["calibrate_lock", "lock_curve"],
        "_cluster": ["cluster"],
        "_compare": ["compare"],
        "_de": ["de"],
        "_cox": ["CoxModel", "cox"],
        "_denoise": ["denoise"],
        "_enrich": ["enrich"],
        "_fit": ["fit_federated"],
        "_forget": ["Forgotten", "forget"],
        "_glm": ["LinearModel", "glm"],
        "_importance": ["feature_importance"],
        "_map_to": ["Mapped", "map_to"],
        "_markers": ["rank_genes_groups"],
        "_perturb": ["predict_perturbations"],
        "_personalise": ["Personalised", "personalise"],
        "_predict": ["embed", "predict"],
        "_score_genes": ["score_genes", "score_genes_cell_cycle"],
        "_scvi": ["from_scvi", "to_scvi"],
        "_site_metrics": ["site_metrics"],
        "_spatial_domains": ["spatial_domains"],
        "_survival": ["Survival", "survival"],
        "_transfer_labels": ["transfer_labels"],
        "_tune": ["Tuned", "tune"],
    },
)
