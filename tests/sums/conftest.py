"""Shared by the tests of this folder."""

from infl.keys import Keyring
from infl.sums import COUNT_SCALE, FederatedSum

KEY = Keyring.create()


def grown(**options):
    """Return a sum that adds 1 for each site and step."""
    return FederatedSum(
        name="grown",
        shapes={"n": ()},
        local=lambda site, state: {"n": site},
        combine=lambda total, state: {**state, "n": state["n"] + int(total["n"])},
        says="numbers",
        **{"scale": COUNT_SCALE, **options},
    )
