"""Names for types that many signatures share; for type checkers only."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

Data: TypeAlias = "AnnData | MuData"
