"""Effects of perturbations, seen and unseen, as an object of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infl._parameters import door
from infl._warn import warn
from infl.errors import SettingsError
from infl.tl._predict import warn_unopened
from infl.tl._results import model_and_key, model_facts

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.locked import LockedModel


@door()
def predict_perturbations(
    model: LockedModel | FederatedRun | str | Path,
    conditions: Sequence[str],
    *,
    key: Keyring | None = None,
    verify: bool = True,
) -> AnnData:
    """Predict what perturbations do to expression.

    Parameters
    ----------
    model
        Of a fit with ``model="perturbation"``: the run, ``run.model``, what :func:`infl.load_model` returns, or a path.
    conditions
        Perturbed genes, ``"A+B"`` for both at once. They need not have been perturbed at any site.
    key
        Key ring that opens the model (default: that of the run). Without it the stored weights are used as they are, with a warning.
    verify
        False takes any key, as an attacker would.

    Returns
    -------
    AnnData (n_conditions × n_genes)
        ``X``
            Predicted change Δ of mean log-expression against control cells.
        ``layers["expression"]``
            Mean log-expression of control cells, plus Δ.
        ``layers["uncertainty"]``
            Standard error: of conditions that were measured, from their cells; of others, the root mean square error for
            training conditions that were left out.
        ``layers["changed"]``
            Whether Δ is beyond 1.96 standard errors.
        ``obs["seen"]``, ``obs["n_cells"]``, ``obs["effect_size"]``
            Whether the condition was in the training data, with how many cells, and the length of Δ.
        ``var["control"]``, ``uns["infl"]``
            Mean of control cells; task, versions, lock and the key's fingerprint.

    Raises
    ------
    SettingsError
        The model is of another task, or no condition is given.
    KeyringError
        The key is not the model's.

    Examples
    --------
    >>> import infl, numpy as np
    >>> from anndata import AnnData
    >>> rng, sites = np.random.default_rng(0), {}
    >>> for site in ("a", "b", "c"):
    ...     cells = AnnData(rng.poisson(3, (60, 8)).astype("float32"))
    ...     cells.obs["perturbation"] = np.resize(["control", "0", "1", "2"], 60)
    ...     cells.X = np.log1p(cells.X)
    ...     sites[site] = cells
    >>> run = infl.tl.fit_federated(sites, model="perturbation", rounds=2, progress=False)
    >>> effects = infl.tl.predict_perturbations(run.model, ["3", "1+2"], key=run.key)
    >>> effects.shape, effects.obs["seen"].tolist()
    ((2, 8), [False, False])
    """
    import pandas as pd
    from anndata import AnnData

    from infl.models.perturbation import Perturbation

    model, key = model_and_key(model, key)
    task, panel = model.header.build_task(), model.header.panel
    if not isinstance(task, Perturbation):
        raise SettingsError(f"model {model.header.task!r} predicts no perturbations: fit one with model='perturbation'")
    if isinstance(conditions, str) or not len(conditions):
        raise SettingsError("conditions= takes a list of perturbed genes, such as ['STAT1', 'IRF1+STAT2']")
    opened = warn_unopened(model, key)
    private = model.private_arrays(key if verify else None)
    genes = [task.genes_of(str(c)) for c in conditions]
    known = {*panel["features"], *panel["nodes"]}
    strange = sorted({gene for condition in genes for gene in condition} - known)
    if strange:
        warn(
            f"nothing is known of {strange[0]!r} (neither measured, nor perturbed, nor in the graph): its effect is predicted as "
            "that of any gene"
        )
    delta = task.predict_effects(model.module(key, verify=verify), panel, private, genes)
    names = ["+".join(condition) or task.control for condition in genes]
    control = private.get("control", np.zeros(len(panel["features"])))
    seen = np.isin(names, panel["conditions"])
    error = np.full(delta.shape, np.nan)
    n_cells = np.zeros(len(names), dtype=int)
    if private:
        effects = task.effects(panel, private)
        for i, name in enumerate(names):
            row = panel["conditions"].index(name) if seen[i] else None
            error[i] = effects.error * len(genes[i]) ** 0.5 if row is None else np.sqrt(private["variance"][row])
            n_cells[i] = 0 if row is None else private["n"][row]
    obs = pd.DataFrame(
        {"seen": seen, "n_cells": n_cells, "effect_size": np.linalg.norm(delta, axis=1)},
        index=pd.Index(names, dtype=str),
    )
    var = pd.DataFrame({"control": control}, index=pd.Index(panel["features"], dtype=str))
    layers = {"expression": control + delta, "uncertainty": error, "changed": np.abs(delta) > 1.96 * error}
    result = AnnData(delta, obs=obs, var=var, layers=layers)
    result.uns["infl"] = model_facts(model, opened=opened)
    return result
