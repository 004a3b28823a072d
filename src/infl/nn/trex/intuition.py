"""Old names of what is in :mod:`infl.nn.trex.semantic_prior`."""

from infl._renamed import renamed

__getattr__ = renamed(
    __name__,
    {
        "Intuition": "infl.nn.trex.semantic_prior:SemanticPrior",
        "TokenIntuition": "infl.nn.trex.semantic_prior:TokenPrior",
        "level": "infl.nn.trex.semantic_prior:level",
    },
)
