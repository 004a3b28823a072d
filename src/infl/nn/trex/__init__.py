"""Rank-one experts with a semantic prior: adapters for many tasks at once (T-REX, arXiv 2404.08985).

:class:`RankOneExperts`, and :class:`PairedExperts`, are the mathematics and need nothing but torch. :class:`TrexConfig` makes it a method of Hugging
Face's PEFT (extra ``infl[trex]``): importing it registers the method. :mod:`infl.nn.trex.semantic_prior` makes the prior.
"""

from infl._attached import attach as _attach
from infl._renamed import renamed as _renamed

_find, __dir__, __all__ = _attach(
    __name__,
    submod_attrs={
        "experts": ["RankOneExperts"],
        "pairs": ["PairedExperts"],
        "prior": ["attach_prior", "use_prior"],
        "tuner": ["TrexConfig", "TrexModel"],
    },
)

__getattr__ = _renamed(__name__, {"attach_intuition": "attach_prior"}, _find)
