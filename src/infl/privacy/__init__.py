"""Seal and differential privacy; :mod:`infl.attacks` tests both."""

from infl._attached import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    submodules=["attacks", "seal"],
    submod_attrs={
        "disclosure": ["Disclosure"],
        "dp": ["DP", "spent"],
        "own_rules": ["OWN_RULES"],
        "rules": ["DisclosureRules", "membership_auc"],
    },
)
