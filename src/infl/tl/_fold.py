"""One fold of a comparison: what each method makes of the training data, judged on the held-out ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from infl._device import device_named
from infl._threads import one_thread
from infl._warn import warn
from infl.errors import DataError, InflWarning
from infl.federation.agreement import Agreement, check_classes
from infl.federation.fitted import read_for_fit
from infl.federation.local import LocalRun
from infl.federation.seeds import generator
from infl.federation.settings import RunSettings
from infl.models.locked.outputs import infer, open_model
from infl.models.phenotype.data import LabelledRows
from infl.models.phenotype.task import Phenotype
from infl.models.pooling import pool
from infl.nn.published import LOCAL_EPOCHS, PUBLISHED_TASK, STRENGTH
from infl.tl._comparison import mean_of
from infl.tl._personalise import personalise
from infl.tl._use import takes_union

if TYPE_CHECKING:
    from torch import nn

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.models.task import Sums, Task

N_WRONG_KEYS = 10
ALONE = ("alone", "alone_own", "alone_others")
LOCK_OF = {"fedavg": "none", "infl": "field", "published": "published", "published_own_epochs": "published"}
"""Lock of each run that methods share; a method is named by its run, and by who uses the model."""
Scores = tuple[dict[str, float], dict[str, dict[str, float]]]
"""Metrics on all held-out observations together, and by site."""


class Fold:
    """One fold: training and test data, and the runs that several methods share."""

    def __init__(
        self,
        task: Task,
        panel: dict[str, Any],
        train: Mapping[str, Data],
        test: Mapping[str, Data],
        settings: RunSettings,
        key_seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.task, self.panel, self.settings, self.key_seed = task, panel, settings, key_seed
        self.train = train
        self.test = {site: adata for site, adata in test.items() if adata.n_obs}
        self.join: Literal["inner", "outer"] = "outer" if takes_union(task) else "inner"
        self.together = pool(self.test, self.join)
        self.runs: dict[str, FederatedRun] = {}
        self.by_themselves: dict[str, Scores] | None = None

    def measure(self, method: str) -> Scores:
        """Return a method's metrics on the held-out observations together, and by site."""
        if method == "baseline":
            with one_thread():
                predict = self.task.baseline(pool(self.train, self.join), self.panel, seed=self.settings.seed)
                return self._judge(lambda site: predict(self.test[site]))
        if method in ALONE:
            return self._measure_alone(method)
        if method == "pooled":
            together = {"pooled": pool(self.train, self.join)}
            return self._score(self._fit(together, "none", "none", judged_on=self._validation()))
        name = method.removesuffix("_wrong_key").removesuffix("_no_key").removesuffix("_personal")
        if name not in self.runs:
            self.runs[name] = self._fit_locked(name)
        run = self.runs[name]
        if method == "infl_personal":
            personal = personalise(run, self.train, key=run.key, seed=self.settings.seed, device=self.device).models
            return self._judge(lambda site: self._infer(site, personal[site], run.key))
        if method.endswith("no_key"):
            return self._judge(lambda site: self._infer(site, run.model, None))
        if method.endswith("wrong_key"):
            guesses = [self._score(run, self._key("wrong", name, number)) for number in range(N_WRONG_KEYS)]
            by_site = {site: mean_of([sites[site] for _, sites in guesses]) for site in self.test}
            return mean_of([together for together, _ in guesses]), by_site
        return self._score(run)

    def _fit_locked(self, name: str) -> FederatedRun:
        """Fit the run that has this name among :data:`LOCK_OF`."""
        lock = LOCK_OF[name]
        settings = self.settings
        if lock == "published":
            kind = PUBLISHED_TASK.get(self.task.name, "classification")
            settings = replace(settings, strength=STRENGTH[kind] / STRENGTH["classification"])
            if name == "published_own_epochs":
                settings = replace(settings, local_epochs=LOCAL_EPOCHS.get(kind, settings.local_epochs))
        return self._fit(self.train, lock, "group" if name == "infl" else "none", settings)

    def _key(self, *purpose: str | int) -> Keyring:
        """Return a key of this comparison, whose runs nobody keeps: from its seeds, so that its figures come out again."""
        from infl.keys import Keyring
        from infl.keys.keyring import ROOT_BYTES

        root = generator(self.settings.seed, "comparison's key", self.key_seed, *purpose).bytes(ROOT_BYTES)
        return Keyring._from_roots({1: root})

    def _measure_alone(self, method: str) -> Scores:
        """Return what each site's own model gets on everybody's observations, its own or the others': mean over models."""
        if self.by_themselves is None:
            self.by_themselves = dict(self._alone())
        scores = self.by_themselves
        own = {site: scores[site][1][site] for site in self.test if site in scores}
        if method == "alone_own" or not scores:
            return mean_of(list(own.values())), own
        if method == "alone_others":
            others = {
                model: [m for site, m in by_site.items() if site != model] for model, (_, by_site) in scores.items()
            }
            by_model = {model: mean_of(found) for model, found in others.items() if found}
            return mean_of(list(by_model.values())), by_model
        by_site = own or {site: mean_of([s[1][site] for s in scores.values()]) for site in self.test}
        return mean_of([together for together, _ in scores.values()]), by_site

    def _alone(self) -> Iterator[tuple[str, Scores]]:
        """Yield each site's own model's scores; sites whose data cannot make one (one class, no modality) raise a warning."""
        for site, adata in self.train.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", InflWarning)  # of one class: an error here
                    check_classes(self.task.agree({site: adata}))
            except DataError as error:
                warn(f"'alone' is without {site}: {error}")
                continue
            yield site, self._score(self._fit({site: adata}, "none", "none"))

    def _score(self, run: FederatedRun, wrong: Keyring | None = None) -> Scores:
        key = wrong or (run.key if run.model.header.fingerprint else None)
        verify = wrong is None
        if not run.site_models:
            opened = open_model(run.model, key, verify=verify)
            return self._judge(lambda site: self._infer(site, run.model, key, verify, opened))
        models = {site: run.site_models.get(site, run.model) for site in self.test}
        return self._judge(lambda site: self._infer(site, models[site], key, verify))

    def _infer(
        self,
        site: str,
        model: LockedModel,
        key: Keyring | None,
        verify: bool = True,
        opened: tuple[nn.Module, Sums] | None = None,
    ) -> dict[str, np.ndarray]:
        how: dict[str, Any] = {"verify": verify, "opened": opened, "device": device_named(self.device)}
        return infer(self.test[site], model, key, name=site, for_scoring=True, **how)

    def _judge(self, outputs_for: Callable[[str], dict[str, np.ndarray]]) -> Scores:
        outputs = {site: outputs_for(site) for site in self.test}
        by_site = {site: self.task.score(adata, outputs[site], self.panel) for site, adata in self.test.items()}
        if len(outputs) == 1:
            return next(iter(by_site.values())), by_site
        names = next(iter(outputs.values()))
        joined = {name: np.concatenate([o[name] for o in outputs.values()]) for name in names}
        return self.task.score(self.together, joined, self.panel), by_site

    def _validation(self) -> np.ndarray | None:
        """Return which pooled rows the sites' fits are judged on, so that pooled fits differ in nothing but the place; None: drawn."""
        if not isinstance(self.task, Phenotype):
            return None
        found: list[np.ndarray] = []
        n = 0
        for site, adata in self.train.items():
            data = read_for_fit(self.task, self.panel, self.settings.seed, adata, site)
            assert isinstance(data, LabelledRows)
            found.append(n + data.validation)
            n += data.x.shape[0]
        return np.concatenate(found)

    def _fit(
        self,
        tables: Mapping[str, Data],
        lock: str,
        seal: str,
        settings: RunSettings | None = None,
        judged_on: np.ndarray | None = None,
    ) -> FederatedRun:
        key = self._key("right", lock) if lock != "none" else None
        fewest = min(3, len(tables)) if seal != "none" else 1
        settings = replace(settings or self.settings, lock=lock, seal=seal)
        settings = replace(settings, min_sites=settings.min_sites or fewest)
        agreement = Agreement.new(self.task, self.panel, tables, key, settings)
        run = LocalRun(agreement, self.task, tables, key, device=device_named(self.device))
        if judged_on is not None:
            (member,) = run.members.values()
            assert isinstance(member.data, LabelledRows)
            member.data.judge_on(judged_on)
        for _ in run.rounds():
            pass
        return run.outcome().run
