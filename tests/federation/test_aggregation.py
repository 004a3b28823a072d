"""Averages: a site counts by its samples, by its loss too, or as every other."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.federation.conftest import relative, weights

from infl.errors import SettingsError
from infl.federation.aggregation import Rule
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Reply, Transport
from infl.federation.local import run_in_process
from infl.federation.messages import Plan
from infl.federation.replica import Replica
from infl.federation.run import FederatedRun
from infl.federation.training import Trainer
from infl.models import Classifier

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


class Only:
    """A line on which one site's updates arrive, and those of the others are lost."""

    def __init__(self, inner: Transport, site: str) -> None:
        self.inner, self.site, self.holder = inner, site, inner.holder

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        kinds = []
        replies = self.inner.ask(cohort, lambda site: kinds.append(plan_for(site).kind) or plan_for(site))
        return (reply for reply in replies if kinds[0] != "train" or reply.site == self.site)


def test_a_site_counts_by_its_samples_by_its_loss_too_or_as_every_other(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round against the average written out."""
    task = Classifier(target="label", width=8, n_blocks=1, validation=0.0)
    panel = task.agree(small_sites)

    def one_round(name: str, wrap=lambda t: t, **options: object) -> FederatedRun:
        settings = {"rounds": 1, "lock": None, "seal": "none", "aggregation": name, "aggregation_options": options}
        agreement = Agreement.new(task, panel, [*small_sites], None, **settings)
        return run_in_process(agreement, task, small_sites, None, wrap=wrap).run

    losses: dict[str, float] = {}
    update = Trainer.update

    def noted(self: Trainer, plan: Plan) -> tuple[torch.Tensor, float]:
        rows, losses[self.name] = update(self, plan)
        return rows, losses[self.name]

    monkeypatch.setattr(Trainer, "update", noted)
    settings = {"rounds": 1, "lock": None, "seal": "none"}
    begun = Replica(Agreement.new(task, panel, [*small_sites], None, **settings), None, task).theta
    parts = []
    for site, adata in small_sites.items():
        run = one_round("fedavg", lambda line, s=site: Only(line, s))
        change = weights(run) - begun  # of one site, by its share of the samples; the others count as zero
        n = sum(adata.n_obs for adata in small_sites.values())
        assert np.isnan(
            run.history["loss"].iloc[0]
        )  # a loss of some sites beside one of all would tell that of the others
        parts.append((adata.n_obs * losses[site] ** 2, begun + change * n / adata.n_obs))
    expected = sum(w * x for w, x in parts) / sum(w for w, _ in parts)
    torch.testing.assert_close(weights(one_round("qfedavg", q=2)), expected, rtol=1e-4, atol=1e-6)
    alike = sum(x for _, x in parts) / len(parts)
    assert relative(weights(one_round("fedavg", weight="sites")), alike) < 1e-6
    assert relative(alike, weights(one_round("fedavg"))) > 5e-5  # sites have 12 to 15 samples
    assert relative(weights(one_round("qfedavg", q=0)), weights(one_round("fedavg"))) < 1e-6
    assert relative(expected, weights(one_round("fedavg"))) > 1e-4


def test_a_rule_that_returns_weights_in_place_of_changing_them_is_refused() -> None:
    theta, update = torch.zeros(2), torch.ones(2)
    Rule("mine", at_sum=lambda theta, update, state: theta.add_(update)).change(theta, update, {})
    assert theta.tolist() == [1, 1]
    with pytest.raises(
        SettingsError, match=r"^aggregation='mine': at_sum returns Tensor, which is not used: change the"
    ):
        Rule("mine", at_sum=lambda theta, update, state: theta + update).change(theta, update, {})
