"""The seal: the coordinator adds what it cannot read.

Everything that leaves a site is quantised (:mod:`packing`), masked (:mod:`masks`), tagged (:mod:`tag`) and written down
(:mod:`ledger`) on its way; :class:`GroupSeal` ties these together. :mod:`pairwise` adds a second layer of masks.
"""

from infl._renamed import renamed
from infl.privacy.seal.advertised import epochs_of, said_by
from infl.privacy.seal.context import Context, MaskedArrays, add
from infl.privacy.seal.group import GroupSeal, NoSeal
from infl.privacy.seal.ledger import Ledger
from infl.privacy.seal.packing import Field, Packing, RangeError, dequantise
from infl.privacy.seal.pairwise import PairwiseSite
from infl.privacy.seal.reveal import Revealed, uncover

__all__ = [
    "Context",
    "Field",
    "GroupSeal",
    "Ledger",
    "MaskedArrays",
    "NoSeal",
    "Packing",
    "PairwiseSite",
    "RangeError",
    "Revealed",
    "add",
    "dequantise",
    "epochs_of",
    "said_by",
    "uncover",
]

__getattr__ = renamed(__name__, {"Words": "MaskedArrays"})
