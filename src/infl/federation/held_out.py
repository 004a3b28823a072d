"""What a comparison fits on, and what it judges on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from infl.errors import SettingsError
from infl.federation.seeds import generator

if TYPE_CHECKING:
    from infl._types import Data
    from infl.models.task import Task


def folds(
    task: Task, tables: Mapping[str, Data], holdout: str, test_share: float, seed: int
) -> Iterator[tuple[dict[str, Data], dict[str, Data]]]:
    """Yield what is fitted on, at least one observation of each site, and what is judged on."""
    if holdout == "site":
        for site, adata in tables.items():
            yield {other: a for other, a in tables.items() if other != site}, {site: adata}
        return
    held = {s: task.hold_out(a, test_share, generator(seed, "held out", s)) for s, a in tables.items()}
    for rows in held.values():
        rows[0] &= not rows.all()
    if not any(rows.any() for rows in held.values()):
        raise SettingsError(
            f"test_share={test_share} holds out no observation of any site: raise it, or holdout='site'"
        )
    train = {site: adata[~held[site]].copy() for site, adata in tables.items()}
    yield train, {site: adata[held[site]].copy() for site, adata in tables.items()}
