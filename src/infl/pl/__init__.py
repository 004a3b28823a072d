"""One picture a function; each draws into `ax` if given and returns the matplotlib Axes."""

from infl._attached import attach as _attach

__getattr__, __dir__, __all__ = _attach(
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
