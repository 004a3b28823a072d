"""Fitting one model over several sites."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from infl import _tell
from infl._device import computing_on, device_named
from infl._parameters import SEED, Having, door
from infl._warn import warn
from infl.data.consortium import Consortium
from infl.data.sites import as_sites, marked
from infl.errors import DataError, KeyringError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.between import run_between
from infl.federation.local import Outcome, run_in_process
from infl.federation.report import last_metrics
from infl.federation.seeds import new_seed
from infl.federation.settings import FIT_SEAL, Protection, RunSettings
from infl.models.registry import check_installed
from infl.privacy.dp import log_run
from infl.sums.disclosure import refuse_under_rules
from infl.tl._fit_between import agreed_panel, agreement_between, check_between, release_records
from infl.tl._results import all_or_none, check_writable, model_facts, run_facts
from infl.tl._start import Init
from infl.tl._use import check_modality

if TYPE_CHECKING:
    from infl._types import Data
    from infl.deploy.flare.notebook import FlareEngine
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.models.task import Task
    from infl.privacy.dp import DP


@door(
    seal=FIT_SEAL,
    protection=Having(("given_once",), none=True, says="infl.Protection(seal=…, min_sites=…)"),
    seed=replace(SEED, none=True),
)
@marked(between=True, ruled=True)
def fit_federated(
    sites: Mapping[str, Data] | Data,
    model: str | Task | None = None,
    *,
    target: str | None = None,
    site_key: str | None = None,
    key: Keyring | None = None,
    init: FederatedRun | LockedModel | str | Path | None = None,
    rounds: int = 20,
    local_epochs: int = 1,
    aggregation: str = "fedavg",
    aggregation_options: Mapping[str, Any] | None = None,
    participation: float = 1.0,
    patience: int = 0,
    lock: str | None = "field",
    strength: float = 1.0,
    seal: str = "auto",
    min_sites: int | None = None,
    bits: int | None = None,
    protection: Protection | None = None,
    privacy: DP | None = None,
    seed: int | None = None,
    key_added: str = "infl",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    engine: FlareEngine | None = None,
    device: str = "auto",
    **model_options: Any,
) -> FederatedRun:
    """Fit one model over several sites whose data stay where they are.

    Parameters
    ----------
    sites
        The sites' data by name, or one object together with `site_key`; in a step of a study, what a hospital has of them, and
        the fit is then under the group seal, with a seed that is drawn.
    model
        Name of a task, or a :class:`infl.models.Task` (default: that of `init`, else ``"classifier"``). In this process its class may
        be one of your own that no package registers.
    target
        Column of ``obs`` to learn.
    site_key
        Column of ``obs`` with each observation's site, when `sites` is one object.
    key
        Key ring of the sites. Without one a fresh ring is made and kept as ``run.key``; with a run as `init`, it is that of the run.
    init
        Run, model or model file whose weights the fit begins with, in place of fresh ones; `key` opens a model. Its options are
        taken where none are given. Sites, features and classes may be others, as long as some are the same: a feature that the model
        does not know begins without effect, a class with fresh weights, and a warning names what no site has. Sums before the first
        round, such as the moments of features, are taken anew. ``run.settings["init"]`` is the model's digest.
    rounds, local_epochs
        Rounds, and passes of each site over its own data in a round.
    aggregation, aggregation_options
        ``"fedavg"``, ``"fedprox"``, ``"fedadam"``, ``"fedyogi"``, ``"scaffold"``, ``"qfedavg"``, ``"afl"``,
        ``"fedbn"`` or ``"partial"``, and its settings, e.g. ``{"mu": 0.01}``; see :mod:`infl.federation.rules`.
    participation
        Share of the sites that is asked in each round.
    patience
        Stop after this many rounds without a better federated validation metric (0: never). The model of the best
        round is returned either way.
    lock, strength
        ``"field"`` (default), ``"published"`` or None; strength from 0 to 1.
    seal
        What hides a site's update from the coordinator: ``"group"``; ``"pairwise"``, from a coordinator too that conspires
        with a site, slower; or ``"none"``, with a warning. ``"auto"`` (default) is ``"group"`` in this process, and
        ``"pairwise"`` with `engine`.
    min_sites
        Fewest sites whose sum is opened (default: 3 with a seal, else 1).
    bits
        Bits of a weight in an update, 4 to 16 (default: 32): smaller messages, see :class:`infl.Protection`.
    protection
        Lock, strength, seal, min_sites and bits as one object (:class:`infl.Protection`), in place of the five.
    privacy
        :class:`infl.privacy.DP`: differential privacy of the training records. Every round is then one step of DP-SGD
        over all sites; the last one is kept, and what would need sums without noise (federated standardisation, class
        weights, calibration) is left out. A phenotype is then a linear model in steps of 2 / √(rounds × features), unless
        `width` or `lr` is given: the more weights, the more noise.
    seed
        Fixes initial weights, batches, dropout, validation parts and cohorts: the same bits on the same machine (default: 0, or
        that of `init`, so that the same records are held out; with `engine`, drawn for each run, since a site trains once with a seed).
    key_added
        Prefix of what is written to the sites' objects.
    checkpoint
        Folder; every round is kept there.
    resume
        Go on with the run in `checkpoint`; begin it when there is none. Settings and data must be those that it began
        with: a keyed digest of what the task reads at each site is kept there and compared.
    progress
        Show a progress bar (default: ``infl.settings.progress``, else on a terminal).
    engine
        Run between machines instead of in this process (:func:`infl.engines.flare`). `sites` is then the list of the
        enrolled sites' names, or a mapping that has this site's data, and None for those that are elsewhere.
    device
        Where the model is trained: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` for ``infl.settings.device``, by default a CUDA device where
        there is one and else the processor. Batches, dropout and noise are the same everywhere, results the
        same to rounding. Other machines decide for themselves. ``run.history.attrs["device"]`` has what it was.
    **model_options
        Options of the task. ``"classifier"`` takes the fields of :class:`infl.models.Classifier` (``layer``, ``modality``, ``width``,
        ``lr``, …), and the others those of :class:`infl.models.Regressor`, :class:`~infl.models.Survival`,
        :class:`~infl.models.Labels` (several columns), :class:`~infl.models.Scvi`, :class:`~infl.models.Scanvi`,
        :class:`~infl.models.Perturbation`, :class:`~infl.models.Spatial`, :class:`~infl.models.Histology`,
        :class:`~infl.models.Mosaic` and :class:`~infl.models.Adapter`.
        ``optimizer``, ``standardize`` and ``learning_rate`` are taken for ``optimiser``, ``standardise`` and ``lr``.

    Returns
    -------
    FederatedRun
        ``.model`` (locked), ``.key``, ``.history``, ``.settings``, ``.ledger``. Each site's object gets what
        :func:`infl.tl.predict` writes, and settings and history in ``uns[key_added]``; all together, after the fit.

    Raises
    ------
    InflError
        Data or settings are wrong, in one line; the sites' objects are unchanged.

    Warns
    -----
    InflWarning
        Results could not be written to the sites' objects after the fit. They are then as they were, all of them, and the
        run is returned all the same.

    References
    ----------
    McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> run.history.index.name, len(run.history)
    ('round', 2)
    >>> sites["site_3"].obs["infl_prediction"].dtype.name
    'category'
    """
    refuse_under_rules("a fit with engine=", engine is not None)
    if engine is not None and init is not None:
        raise SettingsError("init= goes without engine=: between machines a run begins with fresh weights")
    between = sites if isinstance(sites, Consortium) else None
    if between is not None:
        others = {
            "checkpoint": checkpoint,
            "engine": engine,
            "init": init is not None,
            "privacy": privacy,
            "protection": protection,
            "resume": resume,
        }
        key = check_between(between, key, seal=seal, **others, seed=seed is not None, site_key=site_key)
        tables: Mapping[str, Data] = between
        names: tuple[str, ...] = ()
    else:
        names, tables = (
            _elsewhere(sites, engine, key, checkpoint, resume) if engine else ((), as_sites(sites, site_key))
        )
    written = {"the data": cast("Data", sites)} if site_key is not None else tables
    check_writable(written)
    place = device_named(device)
    begun = Init.of(init, key)
    task = begun.make_task(model, model_options | ({} if target is None else {"target": target}), OWN_OPTIONS)
    if engine:
        check_installed(task)
    chosen = Protection(lock, strength, seal, min_sites, bits).given_once(protection)
    locked = chosen.lock not in (None, "none")
    if key is not None and not locked:
        raise KeyringError("key= is given, but lock=None: it would lock nothing; leave key= out, or use lock='field'")
    if privacy is not None:
        task = task.for_dp()
    check_modality(task, tables)
    if between is not None:
        panel = agreed_panel(task, between)
    else:
        panel = (engine.panel() if engine else None) or task.agree(tables)
    if privacy is not None and begun.model is None and isinstance(model, str | None):
        task = task.suited_to_dp(panel, rounds, model_options)
    if chosen.seal == "auto":
        chosen = replace(chosen, seal="pairwise" if engine else "group")
    if engine and privacy is not None:
        privacy.check_seal(chosen.seal)
    if chosen.seal == "none":
        warn("seal='none': the coordinator reads every site's update; for simulation and debugging only")
    key = key or begun.key
    fresh = key is None and (locked or chosen.seal != "none")
    key = _fresh_key() if fresh else key
    settings = RunSettings(
        rounds,
        local_epochs,
        aggregation,
        aggregation_options,
        participation,
        patience,
        seed=(new_seed() if engine else begun.seed) if seed is None else seed,
        privacy=privacy,
        **asdict(chosen),
    )
    if between is not None and key is not None:
        agreement = agreement_between(task, panel, between, key, settings)
        min_holders = between.admit(agreement)  # before any sum, and before registers have the records as released
        release_records(task, panel, tables, key)
        outcome = run_between(agreement, task, between, key, min_holders=min_holders, device=place)
        write_results(written, outcome, key_added)
        return outcome.run
    begun.check(task, panel, settings, tables)
    release_records(task, panel, tables, key)
    agreement = Agreement.new(task, panel, names or tables, key, settings, init=begun.digest)
    if engine:
        return _fit_elsewhere(engine, agreement, tables, key, key_added, device)
    _tell.info(f"{task.name} on {len(tables)} sites, {rounds} rounds, lock {agreement.lock}, seal {agreement.seal}")
    clock = time.perf_counter()
    outcome = run_in_process(
        agreement,
        task,
        tables,
        key,
        start=begun.start(),
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        device=place,
    )
    best = outcome.run.history.loc[outcome.run.history["best"]].to_dict("records")
    _tell.info(f"finished ({timedelta(seconds=round(time.perf_counter() - clock))}): {last_metrics(best)}")
    if fresh and locked:
        _tell.warning(
            "a fresh key was made: keep it with run.key.save('consortium.key', passphrase=…), without it the model is lost"
        )
    try:
        write_results(written, outcome, key_added)
    except Exception as error:  # noqa: BLE001 - of whatever kind: hours of rounds are not lost for it
        warn(
            f"the fit is finished, but results could not be written ({type(error).__name__}: {error}); the sites' objects "
            "are unchanged and the run is returned: save it, or call infl.tl.predict"
        )
    return outcome.run


OWN_OPTIONS = tuple(inspect.signature(fit_federated).parameters)[2:-1]


def _elsewhere(
    sites: object, engine: FlareEngine, key: Keyring | None, checkpoint: object, resume: bool
) -> tuple[tuple[str, ...], dict[str, Data]]:
    """Return the sites' names, and the data that are here."""
    if checkpoint is not None or resume:
        raise SettingsError("checkpoint= and resume= go without engine=: coordinator and sites keep every round there")
    if key is None:
        raise KeyringError("engine= needs key=, the ring that the sites hold")
    if isinstance(sites, str) or not isinstance(sites, Iterable) or hasattr(sites, "obs_names"):
        raise DataError("with engine=, sites= takes the enrolled sites' names, or a dict with None for those elsewhere")
    names = tuple(sites)
    tables = {name: sites[name] for name in names if sites[name] is not None} if isinstance(sites, Mapping) else {}
    if not tables and engine.panel() is None:
        raise DataError("with engine=, give this site's data in sites=, or panel= to the engine")
    return names, tables


def _fit_elsewhere(
    engine: FlareEngine,
    agreement: Agreement,
    tables: Mapping[str, Data],
    key: Keyring | None,
    key_added: str,
    device: str,
) -> FederatedRun:
    """Run on an engine, and write what :func:`infl.tl.predict` writes into the data that are here."""
    from infl.tl._predict import predict

    run = engine.fit(agreement, key)
    for adata in tables.values():
        predict(adata, run, key=key, key_added=key_added, device=device)
    return run


def write_results(objects: Mapping[str, Data], outcome: Outcome, key_added: str) -> None:
    """Put predictions and facts into the objects, after all of them are computed: into all, or into none."""
    replica, panel = outcome.replica, outcome.replica.agreement.panel
    outputs = {}
    for name, adata in objects.items():
        member = outcome.sites.get(name)
        module = replica.module(member.trainer.own.now.weights if member else None)
        private = replica.private | (replica.task.local_arrays(member.data) if member else {})
        data = replica.task.read(adata, panel, site=name)
        with computing_on(replica.device):
            outputs[name] = replica.task.infer(module, data, private)
    with _tell.added(objects), all_or_none(objects):
        for name, adata in objects.items():
            replica.task.write(adata, outputs.pop(name), panel, key_added=key_added)
            adata.uns[key_added] = model_facts(outcome.run.model, opened=True) | run_facts(outcome.run)
            if outcome.run.privacy is not None:
                log_run(adata, outcome.run.privacy, replica.steps)


def _fresh_key() -> Keyring:
    from infl.keys import Keyring

    return Keyring.create()
