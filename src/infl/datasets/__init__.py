"""Public data sets: one bundled for work without a network, the others found or fetched by name, with checksums."""

from infl._attached import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    submod_attrs={
        "_bundled": ["khan", "khan_sites"],
        "_public": [
            "adamson",
            "breast_tcga",
            "gse7390",
            "her2st_histology",
            "her2st_labelled",
            "norman",
            "papalexi",
            "spamosaic_sim",
            "stemcells",
        ],
        "_registry": ["REGISTRY", "Dataset"],
    },
)
