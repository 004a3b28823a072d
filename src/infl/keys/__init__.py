"""Key rings: versions of a secret, in age files, with a trail of who was granted what."""

from infl.keys.derive import LABELS
from infl.keys.grants import Member, Trail
from infl.keys.identity import Identity, decrypt, encrypt
from infl.keys.keyring import Keyring

__all__ = ["LABELS", "Identity", "Keyring", "Member", "Trail", "decrypt", "encrypt"]
