"""A trained model as it is stored and passed on: locked weights, a readable header, private arrays encrypted."""

from infl.models.locked.file import load_model
from infl.models.locked.header import FORMAT, SALT, Header
from infl.models.locked.model import LockedModel, lock_model
from infl.models.locked.private import PRIVATE
from infl.models.locked.salts import content_of, tensor_salt

__all__ = [
    "FORMAT",
    "PRIVATE",
    "SALT",
    "Header",
    "LockedModel",
    "content_of",
    "load_model",
    "lock_model",
    "tensor_salt",
]
