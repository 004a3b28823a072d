"""Which features a model depends on, summed over sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from infl._parameters import Choice, Key, Whole, door
from infl.data.check import tables
from infl.data.consortium import Consortium, alongside
from infl.data.copy import own
from infl.data.sites import marked, over_sites
from infl.errors import SettingsError
from infl.federation.fitted import read_as_fitted
from infl.federation.run import FederatedRun
from infl.federation.seeds import generator
from infl.models.phenotype.task import Phenotype
from infl.pp._moments import whole_numbers
from infl.sums import run_sums
from infl.tl._importance_gains import donors_of
from infl.tl._importance_sums import Judged, exchange_sum, importance_sum, judged
from infl.tl._results import needed_key
from infl.tl._use import check_use

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.models.phenotype.data import LabelledRows


@door(
    method=Choice(("permutation", "gradients")),
    n_repeats=Whole(1),
    max_obs=Whole(2),
    key_added=Key(),
)
@marked(between=True, ruled=True)
def feature_importance(
    model: FederatedRun | LockedModel,
    sites: Mapping[str, Data] | Data,
    *,
    method: Literal["permutation", "gradients"] = "permutation",
    n_repeats: int = 50,
    max_obs: int = 500,
    validation_only: bool = True,
    seed: int = 0,
    key_added: str = "infl_importance",
    site_key: str | None = None,
    key: Keyring | None = None,
) -> pd.DataFrame:
    """Measure how much a model depends on each feature, over sites: by how much the feature lowers the loss of an observation.

    Parameters
    ----------
    model
        A classifier, a regressor or a survival model: its run, or ``run.model``. Where weights stay at the sites, each site of a
        run is judged with its own.
    sites
        As for :func:`infl.tl.fit_federated`, the sites of the fit.
    method
        ``"permutation"``: by how much the loss rises when observations get another one's value of the feature. They are values of the
        same site, moved and stretched until mean and variance are those of all sites. ``"gradients"``: the feature's part of what the loss is below that of an average observation, by integrated gradients;
        the parts of all features add up to it. Faster, exact over sites, and the choice for tens of thousands of features.
    n_repeats
        How many others' values each observation gets; all of them where there are no more. Fewer than two are one standard deviation
        more and less.
    max_obs
        How many observations of a site are judged on at most; drawn at random where there are more.
    validation_only
        Judge on the validation parts of the fit (True), or on all observations: few validation observations rank features less
        surely, and observations that were trained on show what the model learned, not what it is worth.
    seed
        Of the exchanges and of the draw.
    key_added
        Column of ``var``.
    site_key
        Column of ``obs`` with each row's site, where `sites` is one object instead of a dict.
    key
        Key ring that opens the model (default: that of the run, or of a study); with it, and three sites or more, what leaves a site is sealed.

    Returns
    -------
    DataFrame
        One row for each feature of the model, the most important first: ``importance``, in units of the loss, ``std``, its standard
        error over observations, and ``n_obs``, on how many it was measured. ``attrs`` has ``method``, ``loss`` (of an
        observation, mean) and ``n_obs``. At every site ``var["infl_importance"]`` is written, NaN for features that the model
        does not read.

    Raises
    ------
    KeyringError
        The model is locked, and there is no key: its stored weights tell nothing of features.
    SettingsError
        The model is of another kind.
    DataError
        There is no observation to judge on, or rules of disclosure in force close the sums.

    Notes
    -----
    No value leaves a site: what sites add for an exchange are the moments of the values. With them the importance of a linear model
    under squared error is exactly that of exchanges among all sites' observations; else what is left are differences in the shape of
    distributions. Of features that tell the same, each can seem to matter little, since the others are left.

    References
    ----------
    Breiman, Random forests, Machine Learning 2001. Sundararajan, Taly, Yan, Axiomatic attribution for deep networks, ICML 2017.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=3, progress=False)
    >>> table = infl.tl.feature_importance(run, sites, n_repeats=2)
    >>> len(table), "infl_importance" in sites["site_1"].var
    (2308, True)
    """
    shared, key = needed_key(model, sites.key if key is None and isinstance(sites, Consortium) else key)
    task = shared.header.build_task()
    if not isinstance(task, Phenotype):
        raise SettingsError(
            f"model {task.name!r} has no importance of features yet: 'classifier', 'labels', 'regressor' and 'survival' have"
        )
    local = model.site_models if isinstance(model, FederatedRun) else {}
    how = Judging(shared.header.digest, method, n_repeats, max_obs, validation_only, seed)
    return _over_sites(sites, how, {"": shared, **local}, key_added, site_key=site_key, key=key)


@dataclass(frozen=True)
class Judging:
    """How a model is judged; sites compare it before any sum, and rules of disclosure know one question from another by it.

    Attributes
    ----------
    model
        Digest of the model.
    method, n_repeats, max_obs, validation_only, seed
        See :func:`feature_importance`.
    """

    model: str
    method: str
    n_repeats: int
    max_obs: int
    validation_only: bool
    seed: int


@over_sites(between=True, ruled=True, called="feature_importance")
def _over_sites(
    sites: Mapping[str, Data] | Data,
    how: Judging,
    models: Mapping[str, LockedModel],
    key_added: str,
    *,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> pd.DataFrame:
    """Judge, add, and write; `models` are those of sites that have one of their own, and "" is that of all others."""
    import pandas as pd

    assert isinstance(sites, Mapping)
    h = models[""].header
    task: Any = h.build_task()
    check_use(sites, task, h.panel, training=True)
    at = {name: _judged(models.get(name, models[""]), adata, name, key, how) for name, adata in sites.items()}
    features = task.inputs(h.panel)
    sums = [importance_sum(len(features))]
    if how.method == "permutation":
        sums.insert(0, exchange_sum(len(features)))
    state = run_sums(sums, alongside(sites, at), key, about="feature importance")
    figures = {"importance": state["importance"], "std": state["std"], "n_obs": whole_numbers(state["n"])}
    found = pd.DataFrame(figures, index=pd.Index(features, name="feature"))
    for adata in sites.values():
        for modality, table in tables(own(adata)).items():
            called = table.var_names
            prefixed = modality and not called.isin(features).any()
            named = [f"{modality}:{name}" for name in called] if prefixed else called
            table.var[key_added] = found["importance"].reindex(named).to_numpy()
    found = found.sort_values("importance", ascending=False, kind="stable")
    found.attrs |= {"method": how.method, "loss": state["loss"], "n_obs": state["n_obs"]}
    return found


def _judged(model: LockedModel, adata: Data, site: str, key: Keyring | None, how: Judging) -> Judged:
    """Return what a site's share follows from."""
    h = model.header
    task: Any = h.build_task()
    data: LabelledRows = read_as_fitted(model, adata, site)  # type: ignore[assignment]
    index = data.validation if how.validation_only else np.union1d(data.train, data.validation)
    rng = generator(how.seed, "feature importance", site)
    if len(index) > how.max_obs:
        index = np.sort(rng.choice(index, how.max_obs, replace=False))
    module: Any = model.module(key if h.fingerprint else None)
    x, truth = data.batch(index)
    donors = donors_of(len(index), how.n_repeats, rng) if how.method == "permutation" else None
    rows = np.isin(np.arange(data.x.shape[0]), index)
    return judged(site, module, x, lambda out, y: task.losses_of(module, out, y), truth, donors, ~data.x.absent, rows)
