"""What a fit over a consortium needs before its first sum: a panel that all agree on, and records that rules let it be about."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.data.asked import asking
from infl.data.consortium import FEWEST_NAMED, Consortium, agreed, alongside
from infl.data.labels import common_type, holders, label_text, warn_of_near_misses
from infl.errors import DataError, KeyringError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.seeds import derive
from infl.models.panels import columns_of_task, join_panels
from infl.sums import COUNT_SCALE, FederatedSum, run_sums
from infl.sums.cells import Cells
from infl.sums.disclosure import control, refuse_groups_of

if TYPE_CHECKING:
    from infl._types import Data
    from infl.federation.settings import RunSettings
    from infl.keys import Keyring
    from infl.models.task import Task


def agreed_panel(task: Task, sites: Consortium[Data]) -> dict[str, Any]:
    """Return the panel of all sites: each says the names that it has, and nothing else of its data.

    Raises
    ------
    DataError
        A name would be of fewer than five records of a site; or the sites have nothing in common.
    """
    panels = {site: task.agree({site: adata}) for site, adata in sites.items()}
    types = {site: panel.pop("class_type", None) for site, panel in panels.items()}
    for site, panel in panels.items():
        _check_named(task, panel, sites[site], site)
    said = agreed(sites, "panel of a fit", panels)
    joined = join_panels(said)
    if "classes" in joined:
        of_column = getattr(task, "target", "classes")
        warn_of_near_misses(holders({site: panel["classes"] for site, panel in said.items()}), of_column)
        known = {site: kind if panels[site]["classes"] else [] for site, kind in types.items()}
        joined["class_type"] = _agreed_type(sites, joined["classes"], known)
    return task.settled(joined)


def _agreed_type(sites: Consortium[Data], classes: list[str], types: Mapping[str, list[str]]) -> list[str]:
    """Return the type of the classes. An order is said of agreed classes only: categories without a record leave no site."""
    own = {site: [*kind[:2], *(name for name in kind[2:] if name in classes)] for site, kind in types.items()}
    return common_type(filter(None, agreed(sites, "type of classes", own).values()))


def _check_named(task: Task, panel: Mapping[str, Any], adata: Any, site: str) -> None:
    said = {*_texts(panel)}
    columns = columns_of_task(task.name, task.options(), panel) | {*task.named_groups(panel)}
    for column in sorted(columns & {*adata.obs}):
        for names in (label_text(adata.obs[column]), task.named_as(adata.obs[column], panel)):
            numbers = names.value_counts()
            few = [str(name) for name, n in numbers.items() if n < FEWEST_NAMED and str(name) in said]
            if few:
                raise DataError(
                    f"{column!r} of {site}: {few[0]!r} has {numbers[few[0]]} observations, and a category of fewer than {FEWEST_NAMED} "
                    "is not named to other sites: join it with another, or leave these observations out"
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        parts = [*value, *value.values()] if isinstance(value, Mapping) else value
        for part in parts:
            yield from _texts(part)


def agreement_between(
    task: Task, panel: dict[str, Any], sites: Consortium[Data], key: Keyring, settings: RunSettings
) -> Agreement:
    """Return the specification of a run, alike at all sites: what else is drawn follows from all that they said before.

    So a step that runs again sends the same bytes, and no two steps train with one seed. All sites are in every sum.
    """
    said = sites.channel.run
    settings = replace(settings, min_sites=len(sites.channel.members))

    def drawn(what: str) -> str:
        return hashlib.sha256(f"{what} {said}".encode()).hexdigest()[:32]

    seed = derive(0, "fit of a consortium", said) >> 31
    agreement = Agreement.new(task, panel, sites.channel.members, key, settings, salt=drawn("salt"), seed=seed)
    return replace(agreement, run=drawn("run"))


def check_between(sites: Consortium[Any], given_key: Keyring | None, *, seal: str, **others: object) -> Keyring:
    """Refuse what a fit over a consortium cannot be, and return the key ring.

    Raises
    ------
    KeyringError, SettingsError
        In one line.
    """
    key: Keyring | None = given_key or sites.key
    if key is None:
        raise KeyringError("a fit between sites is sealed: give the consortium a key ring")
    if seal not in ("auto", "group"):
        raise SettingsError(
            f"seal={seal!r}: a step of a study is under the group seal; leave seal out, or fit in a run"
        )
    if given := next((name for name, value in others.items() if value), None):
        raise SettingsError(f"{given}= goes with no fit between sites: leave it out, or fit in a run of its own")
    return key


def release_records(task: Task, panel: Mapping[str, Any], sites: Mapping[str, Data], key: Keyring | None) -> None:
    """Ask rules of disclosure in force for a fit: about all records of each site, of each group that is named, and all features.

    What a fit sums is of all these records together. So they are released as sets, and later ones must not differ from them by few.

    Raises
    ------
    DataError
        The rules close it; nothing of it was sent.
    """
    if control() is None:
        return
    groups = task.named_groups(panel)
    refuse_groups_of(*groups)

    def sets(adata: Data) -> np.ndarray:
        found = [np.ones(adata.n_obs, dtype=bool)]
        for column, names in groups.items():
            of = task.named_as(adata.obs[column], panel).to_numpy() if column in adata.obs else np.full(adata.n_obs, "")
            found += [of == name for name in names]
        return np.array(found)

    records = FederatedSum(
        name="records",
        shapes={"n": ()},
        local=lambda of_site, state: {"n": of_site.shape[1]},
        combine=lambda total, state: {**state, "n": total["n"]},
        says="number of records that a fit is about",
        scale=COUNT_SCALE,
        records=lambda of_site, state: of_site.shape[1],
        sensitivity={"n": 1},
        cells=Cells(
            sets=lambda of_site, state: of_site, features=len(panel.get("features", [])), panel="features of a fit"
        ),
    )
    with asking("fit_federated", sites, task.name, task.options()):
        masks = {site: sets(adata) for site, adata in sites.items()}
        run_sums([records], alongside(sites, masks), key, about="fit")
