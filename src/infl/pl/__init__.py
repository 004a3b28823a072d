"""One picture a function; each draws into `ax` if given and returns the matplotlib Axes."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_audit": ["audit"],
        "_compare": ["compare"],
        "_forest": ["forest"],
        "_importance": ["importance"],
        "_imputation": ["imputation"],
        "_lock": ["lock"],
        "_markers": ["markers", "mean_variance", "volcano"],
        "_rounds": ["rounds"],
        "_sites": ["sites"],
        "_spatial": ["confusion", "spatial"],
        "_survival": ["survival"],
        "_tune": ["tune"],
    },
)
