"""What happens before a fit: dealing out and checking sites, and agreeing on one panel of features and labels."""

from infl._attached import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    submod_attrs={
        "_batch": ["combat", "regress_out", "remove_batch_effect"],
        "_data": ["Panel", "obs_column", "panel_of", "split_sites"],
        "_filter": ["filter_cells", "filter_genes"],
        "_harmonise": ["harmonise"],
        "_harmony": ["harmony_integrate"],
        "_hvg": ["highly_variable_genes"],
        "_impute": ["impute"],
        "_moments": ["moments"],
        "_normalize": ["log1p", "normalize_total"],
        "_patches": ["cut_patches"],
        "_pca": ["pca"],
        "_pseudobulk": ["pseudobulk"],
        "_quantiles": ["quantiles"],
        "_qc": ["QCSummary", "qc_summary"],
        "_scale": ["scale"],
    },
)
