"""infl: federated learning on AnnData and MuData with a secret key inside the model."""

from infl._attached import attach as _attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _attach(
    __name__,
    submodules=[
        *("attacks", "datasets", "engines", "errors", "governance", "keys", "models"),
        *("nn", "pl", "pp", "privacy", "study", "sums", "tl"),
    ],
    submod_attrs={"_settings": ["settings"], "federation.settings": ["Protection"], "models": ["load_model"]},
)
