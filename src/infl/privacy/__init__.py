"""Seal and differential privacy; :mod:`infl.attacks` tests both."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["attacks", "seal"],
    submod_attrs={
        "disclosure": ["Disclosure"],
        "dp": ["DP", "spent"],
        "own_rules": ["OWN_RULES"],
        "rules": ["DisclosureRules", "membership_auc"],
    },
)
