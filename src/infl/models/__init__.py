"""Tasks, and the models that they make."""

from infl._attached import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    submod_attrs={
        "adapter": ["Adapter", "load_base"],
        "classifier": ["Classifier"],
        "histology": ["Histology"],
        "labels": ["Labels"],
        "locked": ["Header", "LockedModel", "load_model"],
        "mosaic": ["Mosaic"],
        "perturbation": ["Perturbation"],
        "protocols": ["ClassProbabilities"],
        "regressor": ["Regressor"],
        "registry": ["known_tasks"],
        "scanvi": ["Scanvi"],
        "scvi": ["Scvi"],
        "spatial": ["Spatial"],
        "survival": ["Survival"],
        "site_data": ["SiteData", "Step"],
        "task": ["Task"],
    },
)
