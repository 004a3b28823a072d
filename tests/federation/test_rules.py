"""Aggregation rules: each against its formula, each unchanged by lock and seal, each resumable."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.federation.conftest import relative, weights

import infl
from infl.errors import SettingsError
from infl.federation.aggregation import AtSite
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Reply, Transport
from infl.federation.local import Outcome, run_in_process
from infl.federation.messages import Plan
from infl.federation.rules import RULES, fedavg, qfedavg, rule
from infl.federation.run import FederatedRun
from infl.keys import Keyring
from infl.models import Classifier

OPTIONS = {"target": "label", "width": 8, "n_blocks": 1, "progress": False, "rounds": 4}

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


def fit(sites: dict[str, AnnData], **options: object) -> FederatedRun:
    return infl.tl.fit_federated({s: a.copy() for s, a in sites.items()}, **{**OPTIONS, **options})


def latents(sites: dict[str, AnnData]) -> np.ndarray:
    return np.concatenate([a.obsm["X_infl"] for a in sites.values()])


def outcome_of(sites: dict[str, AnnData], key: Keyring | None = None, **settings: object) -> Outcome:
    task = Classifier(target="label", width=8, n_blocks=1)
    seal = {} if key else {"seal": "none", "min_sites": 3}
    agreement = Agreement.new(task, task.agree(sites), sites, key, **{"rounds": 3, "lock": None, **seal, **settings})
    return run_in_process(agreement, task, sites, key)


@pytest.mark.parametrize("name", sorted(RULES))
def test_lock_and_seal_change_no_rule(small_sites: dict[str, AnnData], name: str) -> None:
    plain = fit(small_sites, aggregation=name, lock=None, seal="none")
    locked, sealed = (fit(small_sites, aggregation=name, **protection) for protection in ({"seal": "none"}, {}))
    for run in (locked, sealed):
        assert relative(weights(run), weights(plain)) < 1e-4
        np.testing.assert_allclose(run.history["val_loss"], plain.history["val_loss"], rtol=1e-3)


def test_scaffold_keeps_the_weighted_mean_of_the_sites_gradients(small_sites: dict[str, AnnData]) -> None:
    outcome = outcome_of(small_sites, Keyring.create(), aggregation="scaffold")
    parts = [s.trainer.own.now.control * len(s.data.train) / outcome.replica.n_total for s in outcome.sites.values()]
    control = outcome.replica.control
    assert control.norm() > 0.01
    torch.testing.assert_close(sum(parts), control, atol=1e-6, rtol=1e-4)
    assert all(
        relative(s.trainer.own.now.control, control) > 0.05 for s in outcome.sites.values()
    )  # and is not any site's own


def test_scaffold_begins_as_fedavg_and_corrects_from_the_second_round_on(small_sites: dict[str, AnnData]) -> None:
    first, second = (
        [weights(fit(small_sites, aggregation=name, rounds=n, validation=0.0)) for name in ("scaffold", "fedavg")]
        for n in (1, 2)
    )
    assert relative(*first) < 1e-5
    assert relative(*second) > 1e-3


def test_afl_weights_grow_with_what_a_site_lost_above_the_mean(small_sites: dict[str, AnnData]) -> None:
    sites = {site: adata.copy() for site, adata in small_sites.items()}
    odd = sites["site_2"].obs["label"]
    names = list(odd.cat.categories)
    sites["site_2"].obs["label"] = odd.cat.rename_categories(dict(zip(names, names[::-1], strict=True)))
    settings = {"rounds": 4, "aggregation": "afl", "aggregation_options": {"gamma": 1.0}}
    outcome = outcome_of(sites, Keyring.create(), **settings)
    excess = {name: site.trainer.own.now.excess for name, site in outcome.sites.items()}
    assert max(excess, key=lambda site: excess[site]) == "site_2"
    assert excess["site_2"] > 0.05 + max(value for site, value in excess.items() if site != "site_2")
    assert rule("afl", {"gamma": 2.0}).importance(AtSite(0.0, 5, excess=0.5)) == pytest.approx(np.exp(1.0))
    settings["aggregation_options"] = {"gamma": 0}
    plain = outcome_of(sites, Keyring.create(), **settings | {"aggregation": "fedavg", "aggregation_options": {}}).run
    assert relative(weights(outcome_of(sites, Keyring.create(), **settings).run), weights(plain)) < 1e-5
    assert relative(weights(outcome.run), weights(plain)) > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "stays"),
    [("fedbn", {}, "norm"), ("partial", {"local": ["head"]}, "head"), ("partial", {"local": "embed"}, "embed")],
)
def test_what_is_local_never_travels_and_is_the_sites_own(
    small_sites: dict[str, AnnData], name: str, options: dict[str, object], stays: str
) -> None:
    key = Keyring.create()
    outcome = outcome_of(small_sites, key, aggregation=name, aggregation_options=options)
    shared = {entry.name for entry in outcome.replica.flat_model.shared.entries}
    assert not any(stays in parameter.split(".") for parameter in shared)
    assert {*outcome.run.model.stored} == shared
    models = [model.effective(None) for model in outcome.run.site_models.values()]
    assert list(outcome.run.site_models) == list(small_sites)
    for parameter in models[0]:
        same = torch.equal(models[0][parameter], models[1][parameter])
        assert same == (parameter in shared), parameter


def test_a_sites_own_model_predicts_what_the_fit_wrote(small_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(small_sites, aggregation="partial", **OPTIONS)
    before = small_sites["site_2"].obsm["infl_probabilities"].copy()
    infl.tl.predict(small_sites["site_2"], run.site_models["site_2"], key=run.key)
    np.testing.assert_allclose(small_sites["site_2"].obsm["infl_probabilities"], before, atol=1e-5)


def test_local_weights_are_those_of_the_best_round(small_sites: dict[str, AnnData]) -> None:
    """Training that goes wrong after some rounds: what was judged best comes back, local weights too."""
    settings = {"aggregation": "partial", "lr": 0.5, **{k: v for k, v in OPTIONS.items() if k != "rounds"}}
    sites = {s: a.copy() for s, a in small_sites.items()}
    run = infl.tl.fit_federated(sites, rounds=12, **settings)
    best = int(run.history.index[run.history["best"]][0])
    assert best < 12
    again = {s: a.copy() for s, a in small_sites.items()}
    shorter = infl.tl.fit_federated(again, rounds=best, calibrate=False, **settings)
    for site, model in run.site_models.items():
        head = model.effective(run.key)["head.weight"]
        torch.testing.assert_close(
            head, shorter.site_models[site].effective(shorter.key)["head.weight"], rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("name", ["scaffold", "partial", "fedyogi", "afl"])
def test_resume_gives_the_same_bits(
    small_sites: dict[str, AnnData], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infl.federation.checkpoint import Checkpoint

    settings = {**OPTIONS, "key": Keyring.create(), "aggregation": name, "participation": 0.75}
    infl.tl.fit_federated(small_sites, **settings)
    expected = latents(small_sites)
    write, calls = Checkpoint.save_progress, iter(range(100))

    def dying(self: Checkpoint, progress: object) -> None:
        write(self, progress)
        if next(calls) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save_progress", dying)
        infl.tl.fit_federated(small_sites, checkpoint=tmp_path / "run", resume=True, **settings)
    infl.tl.fit_federated(small_sites, checkpoint=tmp_path / "run", resume=True, **settings)
    np.testing.assert_array_equal(latents(small_sites), expected)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fedvag", {}, "did you mean 'fedavg'"),
        ("scaffold", {"mu": 1}, "aggregation='scaffold' got an unexpected keyword argument 'mu': its options are none"),
        ("fedprox", {"lr": 1}, "aggregation='fedprox' got an unexpected keyword argument 'lr': its options are mu"),
        ("fedprox", {"mu": "a"}, "aggregation='fedprox' does not take mu='a': look at its types"),
        ("fedyogi", {"lr": 0}, "fedyogi lr=0: give a number above 0"),
        ("qfedavg", {"q": -1}, "qfedavg q=-1: give a number from 0 to 10"),
        ("afl", {"gamma": -1}, "afl gamma=-1: give a number from 0 to 10"),
        ("fedavg", {"weight": "site"}, "fedavg weight='site': 'samples' or 'sites'"),
        ("partial", {"local": []}, "name the modules that stay"),
    ],
)
def test_a_rule_that_cannot_be(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        rule(name, options)


@pytest.mark.parametrize(
    ("local", "said"),
    [(["hed"], "no module 'hed' to keep"), (["embed", "blocks", "norm", "head"], "nothing to average")],
)
def test_modules_that_cannot_stay(small_sites: dict[str, AnnData], local: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        fit(small_sites, aggregation="partial", aggregation_options={"local": local})


@pytest.mark.parametrize("lost", [False, True])
def test_a_site_that_is_lost_keeps_the_control_variate_that_the_others_know(
    small_sites: dict[str, AnnData], lost: bool
) -> None:
    """The mean of the sites' variates is what all have: a round that is not in the sum leaves nothing at its site."""

    class Deaf:
        def __init__(self, inner: Transport) -> None:
            self.inner, self.holder = inner, inner.holder

        def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
            for reply in self.inner.ask(cohort, plan_for):
                if not (lost and reply.site == "site_2" and plan_for(reply.site).round == 2):
                    yield reply

    task = Classifier(target="label", width=8, n_blocks=1)
    key = Keyring.create()
    agreement = Agreement.new(task, task.agree(small_sites), small_sites, key, rounds=4, aggregation="scaffold")
    outcome = run_in_process(agreement, task, small_sites, key, wrap=Deaf)
    parts = [s.trainer.own.now.control * len(s.data.train) / outcome.replica.n_total for s in outcome.sites.values()]
    assert relative(sum(parts), outcome.replica.control) < 1e-4


def test_factors_are_of_the_size_of_one_whatever_losses_and_sites_are() -> None:
    """What is far below a step of the sum is lost: a fit that has come far would stand still, without a word."""
    for loss in (2.0, 1e-2, 1e-6):
        worse, usual = (qfedavg(q=10).importance(AtSite(x * loss, 50, last=loss)) for x in (1.1, 1.0))
        assert usual == pytest.approx(1.0) and worse == pytest.approx(1.1**10)
    for n in (10, 10**7):
        assert fedavg(weight="sites").importance(AtSite(0.3, n, mean_n=n)) == 1.0


def test_small_losses_still_move_the_model(small_sites: dict[str, AnnData]) -> None:
    settings = {"aggregation": "qfedavg", "aggregation_options": {"q": 10}, "rounds": 30, "min_sites": 3}
    task, key = Classifier(target="label", width=8, n_blocks=1, lr=0.02, dropout=0.0), Keyring.create()
    agreement = Agreement.new(task, task.agree(small_sites), small_sites, key, **settings)
    loss = run_in_process(agreement, task, small_sites, key).run.history["loss"]
    assert loss.iloc[-1] < 0.15 < loss.iloc[0]
    assert loss.diff().iloc[-5:].ne(0).all()
