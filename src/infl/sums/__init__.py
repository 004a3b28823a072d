"""One shape for everything that is added over sites: :class:`FederatedSum`, and sums that several tasks need."""

from infl._attached import attach as _attach
from infl._renamed import renamed as _renamed

_find, __dir__, __all__ = _attach(
    __name__,
    submod_attrs={
        "observations": ["n_observations"],
        "over_sites": ["run_sums", "sum_over_sites"],
        "shape": [
            "COUNT_SCALE",
            "FINE_SCALE",
            "SUM_SCALE",
            "UNIT_SCALE",
            "WIDE_SCALE",
            "FederatedSum",
            "Scale",
            "SiteView",
            "State",
        ],
    },
)

__getattr__ = _renamed(__name__, {name: f"{name}_SCALE" for name in ("COUNT", "FINE", "SUM", "UNIT", "WIDE")}, _find)
