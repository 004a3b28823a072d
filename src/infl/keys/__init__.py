"""Key rings: versions of a secret, in age files, with a trail of who was granted what."""

from infl._renamed import renamed
from infl.keys.derive import SUBKEY_LABELS
from infl.keys.grants import Member, Trail
from infl.keys.identity import Identity, decrypt, encrypt
from infl.keys.keyring import Keyring

__all__ = ["SUBKEY_LABELS", "Identity", "Keyring", "Member", "Trail", "decrypt", "encrypt"]

__getattr__ = renamed(__name__, {"LABELS": "SUBKEY_LABELS"})
