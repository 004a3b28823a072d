"""Mapping cells to an atlas behind a key: latent, labels with how sure they are, and what the atlas never saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from infl import _tell
from infl._html import facts, notebook
from infl._isolation import torch_seed
from infl._parameters import DATA, LAYER, NEW_NAMES, SITE_NAME, Flag, Real, Whole, door
from infl._threads import threads_for
from infl._warn import warn
from infl.errors import SettingsError
from infl.federation.seeds import derive, generator
from infl.models.atlas import CELLS, novelty
from infl.models.labelled import UNASSIGNED, with_unassigned
from infl.models.locked import Header, lock_model
from infl.models.locked.outputs import infer, left_to_sites, open_model
from infl.models.phenotype.newcomer import distances
from infl.models.phenotype.task import Phenotype
from infl.models.protocols import Embeds
from infl.models.scvi import Scvi
from infl.sums.confidence import CONFIDENCE, threshold_of
from infl.tl._newcomer import Newcomer, batch_shift, newcomer
from infl.tl._predict import warn_unopened
from infl.tl._results import all_or_none, model_and_key, use_facts

if TYPE_CHECKING:
    from torch import nn

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.models.task import Sums
    from infl.nn.mlp import OnPanel


@dataclass(frozen=True, repr=False)
class Mapped:
    """Result of :func:`map_to`.

    Attributes
    ----------
    site
        Name of the query's site.
    called
        What the data call each feature of the reference that they have.
    n_features
        Features of the reference.
    counts
        Cells of each label, ``"unassigned"`` among them; empty for a reference without labels.
    rule
        How cells are left unassigned: by their ``"novelty"``, their ``"probability"``, or ``"none"`` are.
    model
        After query surgery, with the key: the reference with the query's site, locked under its key, for
        :func:`infl.tl.predict`, :func:`infl.tl.denoise` and :func:`infl.tl.to_scvi`.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> late = sites.pop("site_5")
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, atlas=True, progress=False)
    >>> infl.tl.map_to(run, late).rule
    'novelty'
    """

    site: str
    called: Mapping[str, str] = field(compare=False)
    n_features: int
    counts: Mapping[str, int]
    rule: str
    model: LockedModel | None = field(default=None, compare=False)

    def facts(self) -> dict[str, str]:
        """Return what was found, in words."""
        labels = ", ".join(f"{name} {n:,}" for name, n in self.counts.items() if n)
        return {
            "features": f"{len(self.called):,} of {self.n_features:,}",
            "labels": labels or "none: the reference has no classes",
            "unassigned by": self.rule,
            "columns of the site": "none" if self.model is None else "learned",
        }

    def __repr__(self) -> str:
        return f"Mapped({self.site!r}: " + "; ".join(f"{name} {value}" for name, value in self.facts().items()) + ")"

    def _repr_html_(self) -> str:
        return notebook(facts(self.facts(), f"infl: {self.site} mapped to the reference"))


@door(
    layer=LAYER,
    query=DATA,
    aliases=NEW_NAMES,
    site=SITE_NAME,
    keep=Real(0, 1, open="both"),
    batch_effect=Flag(),
    check_units=Flag(),
    epochs=Whole(0),
)
def map_to(
    reference: LockedModel | FederatedRun | str | Path,
    query: Data,
    *,
    key: Keyring | None = None,
    aliases: Mapping[str, str] | None = None,
    layer: str | None = None,
    site: str = "the query",
    keep: float = 0.95,
    batch_effect: bool = True,
    check_units: bool = True,
    epochs: int = 200,
    seed: int = 0,
    key_added: str = "infl",
) -> Mapped:
    """Map cells to a reference that is locked: its latent, its labels, how sure they are, and what it never saw.

    Nothing is sent, and the reference stays as it is: it is opened in memory alone. Of scVI and scANVI, the layers that read the
    site get columns for the query's, learned from its cells (query surgery, scArches), as scvi-tools' ``load_query_data`` does;
    a reference with batch normalisation keeps its statistics here.

    Parameters
    ----------
    reference
        A run, ``run.model``, what :func:`infl.load_model` returns, or a path: of ``model="classifier"``, ``"scvi"`` or
        ``"scanvi"``. One that was fitted with ``atlas=True`` can tell cells of a class that it never saw.
    query
        The cells. Names of features are brought to the reference's, as :func:`infl.tl.adapt` does.
    key
        Key ring that opens the reference (default: that of the run). Without it the stored weights are used as they are,
        with a warning.
    aliases
        Other names of features, and what to call them; a table of identifiers and symbols serves in both directions.
    layer
        Layer to read instead of the one that the reference was fitted on; ``"X"`` for X.
    site
        Name of the query's site.
    keep
        Share of cells like those of the reference that keep their label; the others are ``"unassigned"``.
    batch_effect
        Estimate each feature's shift, as :func:`infl.tl.adapt` does, where the reference is a classifier.
    check_units
        Refuse values of another kind than those of the fit.
    epochs
        Of query surgery, for scVI and scANVI: passes over the query in which the columns of its site, and nothing else, are
        learned in the layers that read the site. 0, or a `site` of the fit: none are.
    seed
        Fixes how the columns begin, and batches.
    key_added
        Prefix of what is written.

    Returns
    -------
    Mapped
        Written into `query` are

        ``obsm["X_infl"]``
            The latent (n_obs × width).
        ``obs["infl_prediction"]``, ``obs["infl_probability"]``, ``obsm["infl_probabilities"]``
            Of a reference with classes: label or ``"unassigned"``, its probability, and that of each class.
        ``obs["infl_uncertainty"]``
            Entropy of the probabilities, from 0 (sure) to 1 (all classes alike).
        ``obs["infl_novelty"]``
            Of a reference with an atlas: share of its validation cells that are nearer to a class in the latent, and to the mean
            in their features. Beyond `keep` a cell is unassigned; without an atlas the least sure ``1 - keep`` are.

    Raises
    ------
    DataError
        The query has no features of the reference, too few, or values of another kind.
    SettingsError
        The reference is of another kind.

    Warns
    -----
    InflWarning
        Features are missing, there is no key, nothing can be left unassigned, or the cells look as if they were of one class, which a
        batch effect cannot be told from.

    References
    ----------
    Lotfollahi et al., Mapping single-cell data to reference atlases by transfer learning, Nature Biotechnology 40 (2022).

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> late = sites.pop("site_5")
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, atlas=True, progress=False)
    >>> mapped = infl.tl.map_to(run.model, late, key=run.key)
    >>> sum(mapped.counts.values()) == late.n_obs
    True
    >>> bool(late.obs["infl_novelty"].between(0, 1).all())
    True
    """
    shared, key = model_and_key(reference, key)
    task, panel = shared.header.build_task(), shared.header.panel
    if not (isinstance(task, Scvi) or (isinstance(task, Phenotype) and panel.get("classes"))):
        raise SettingsError(f"model {task.name!r} is no reference to map to: it is a classifier, scvi or scanvi")
    if UNASSIGNED in panel.get("classes", ()):
        raise SettingsError(
            f"a class of the reference is called {UNASSIGNED!r} itself, so that no cell can be: fit it with another name"
        )
    found = newcomer(
        shared, query, aliases=aliases, layer=layer, site=site, check_units=check_units, fill=isinstance(task, Scvi)
    )
    opened = warn_unopened(shared, key)
    module, private = open_model(shared, key)
    left_to_sites(shared, module, found.task)
    grown = None
    if isinstance(found.task, Scvi) and site not in panel["sites"] and epochs:
        module, grown = _with_columns(shared, module, found, epochs, seed)
        panel = grown.panel
    data = found.task.read(found.named, panel, site=site, keyless=not private)
    far = np.full(query.n_obs, np.nan)
    if isinstance(found.task, Phenotype):
        if batch_effect and "center" in private:
            batch_shift(cast("OnPanel", module), data, private, panel, site)
        far = distances(data, module.center.numpy(), module.scale.numpy())  # type: ignore[operator]
        outputs = infer(found.named, shared, key, name=site, task=found.task, opened=(module, private))
    else:
        outputs = found.task.infer(module, data, private)
    own = None if grown is None or not opened else _locked(shared, grown, module, private, key)
    result = _write(query, shared, found, outputs, private, far, keep, key_added, opened=opened)
    return replace(result, model=own)


def _with_columns(
    model: LockedModel, module: nn.Module, found: Newcomer, epochs: int, seed: int
) -> tuple[nn.Module, Header]:
    """Return the module with columns of the query's site, learned from its cells, and the header that has it."""
    from infl.models.scvi.surgery import epochs_of, fit_columns, with_site

    h, task = model.header, cast("Scvi", found.task)
    if h.lock == "published":
        raise SettingsError("lock='published' has layers that take no columns: set epochs=0")
    if task.site_effect == "local":
        return module, h  # the model has a neutral embedding in place of each site's own
    wider, panel, columns = with_site(task, module, h.panel, found.site, seed=derive(seed, "new columns", found.site))
    data = task.read(found.named, panel, site=found.site)
    with torch_seed(derive(seed, "draws of surgery", found.site)), threads_for(model.n_weights):
        fit_columns(wider, columns, epochs_of(data, task.batch_size, epochs, generator(seed, "surgery", found.site)))
    return wider, replace(h, panel=panel, sites=(*h.sites, found.site))


def _locked(
    model: LockedModel, header: Header, module: nn.Module, private: Sums, key: Keyring | None
) -> LockedModel | None:
    """Return the reference with the new columns, locked; tensors that did not change keep their salts."""
    if header is model.header:
        return None
    weights = {name: p.detach() for name, p in module.named_parameters() if name in model.stored}
    return lock_model(header, weights, private, key, salts=model.salts_of(weights, key))


def _write(
    query: Data,
    model: LockedModel,
    found: Newcomer,
    outputs: Mapping[str, np.ndarray],
    private: Sums,
    far: np.ndarray,
    keep: float,
    key_added: str,
    *,
    opened: bool,
) -> Mapped:
    """Write latent, labels and scores, all together."""
    classes = list(model.header.panel.get("classes", ()))
    probability, new, rule, unsure = outputs.get("probability"), None, "none", None
    if probability is not None and CELLS in private:
        new, rule = novelty(outputs["latent"], far, private), "novelty"
        unsure = new > keep
    elif probability is not None and (cells := private.get(CONFIDENCE)) is not None and cells.any():
        rule, unsure = "probability", probability.max(1) < threshold_of(cells, 1 - keep)
    elif probability is not None and opened:
        warn("the reference has no counts to calibrate by, so no cell is left unassigned: fit it with atlas=True")
    with all_or_none({found.site: query}), _tell.added({found.site: query}):
        if probability is None:
            assert isinstance(found.task, Embeds)
            found.task.embed(query, outputs, key_added=key_added)
        else:
            found.task.write(query, outputs, model.header.panel, key_added=key_added)
            entropy = -(probability * np.log(np.maximum(probability, 1e-12))).sum(1) / np.log(max(len(classes), 2))
            columns = pd.DataFrame({f"{key_added}_uncertainty": np.clip(entropy, 0, 1)}, index=found.rows)
            if new is not None:
                columns[f"{key_added}_novelty"] = new
            kept = pd.Series(np.ones(len(entropy)) if unsure is None else 1.0 - unsure, index=found.rows)
            for name in columns:
                query.obs[name] = columns[name].reindex(query.obs_names)
            label = f"{key_added}_prediction"
            query.obs[label] = with_unassigned(query.obs[label], kept.reindex(query.obs_names), classes, 0.5)
        query.uns[key_added] = use_facts(None, model, opened=opened, run=None) | {
            "mapped": {"site": found.site, "rule": rule, "keep": keep, "n_features": len(found.called)}
        }
    counts = query.obs[f"{key_added}_prediction"].value_counts() if probability is not None else {}
    every = [*classes, UNASSIGNED] if probability is not None else []
    return Mapped(
        found.site,
        found.called,
        len(model.header.panel["features"]),
        {name: int(counts[name]) for name in every},
        rule,
    )
