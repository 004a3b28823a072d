"""Keys: rings, identities, and the files that they rest in."""

from infl.keys.identity import Identity
from infl.keys.keyring import LABELS, Keyring

__all__ = ["LABELS", "Identity", "Keyring"]
