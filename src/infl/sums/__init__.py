"""One shape for everything that is added over sites: :class:`FederatedSum`, and sums that several tasks need."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "over_sites": ["run_sums", "sum_over_sites"],
        "shape": ["COUNT", "FINE", "SUM", "UNIT", "WIDE", "FederatedSum", "Scale", "SiteView", "State"],
    },
)
