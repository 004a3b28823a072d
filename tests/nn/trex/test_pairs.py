import math

import pytest
import torch
from torch import nn

from infl.errors import SettingsError
from infl.nn.trex import PairedExperts


def trained(seed=0, *, dtype=torch.float32, **options):
    """Experts with all parts away from where they begin."""
    torch.manual_seed(seed)
    experts = PairedExperts(6, 5, **{"rank": 3, "anchors": 2} | options)
    for part in experts.parameters():
        nn.init.normal_(part, std=0.1 if part is experts.router or part is experts.anchors else 1.0)
    return experts.to(dtype).eval()


def written_out(experts, x, s):
    """The update of one vector as a loop over experts, in float64."""
    weights = {name: p.detach().double() for name, p in experts.named_parameters()}
    u = [float(row @ x.double()) for row in weights["A"]]
    total = torch.zeros(experts.out_features, dtype=torch.float64)
    for k in range(experts.rank):
        logit = 0.0
        if "anchors" in weights:
            logit += sum(float(weights["anchors"][k, t]) * float(s[t]) for t in range(len(s)))
        if "router" in weights:
            logit += sum(float(weights["router"][k, j]) * u[j] for j in range(experts.rank))
        gate = 2 / (1 + math.exp(-10 * logit))
        total += experts.scaling * gate * u[k] * weights["B"][:, k]
    return total


@pytest.mark.parametrize(
    "options", [{}, {"anchors": 0}, {"router": "none"}, {"router": "none", "anchors": 0}, {"alpha": 7.0}]
)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_update_is_the_sum_over_gated_experts(options, dtype, most):
    experts = trained(dtype=dtype, **options)
    x, s = torch.randn(3, 4, 6, dtype=dtype), torch.randn(3, 2, dtype=dtype)
    update = experts(x, s if experts.anchors is not None else None)
    for a in range(3):
        for b in range(4):
            wanted = written_out(experts, x[a, b], s[a])
            assert (update[a, b].double() - wanted).abs().max() < most * max(1, wanted.abs().max())


def test_rows_may_be_laid_out_in_two_dimensions():
    experts, x, s = trained(), torch.randn(3, 4, 6), torch.randn(3, 2)
    whole = experts(x, s)
    torch.testing.assert_close(experts(x.flatten(0, 1), s).view(3, 4, 5), whole)
    torch.testing.assert_close(experts(x[:, 0], s), whole[:, 0])


def test_with_open_gates_it_is_lora_and_its_update_has_full_rank():
    experts = trained(anchors=0, router="none", alpha=6.0, dtype=torch.float64)
    torch.testing.assert_close(experts.delta_weight(), 6.0 / 3 * experts.B @ experts.A)
    assert torch.linalg.matrix_rank(experts.delta_weight()) == 3


def test_each_expert_begins_open_for_one_anchor():
    anchors = PairedExperts(6, 5, rank=6, anchors=4).anchors.detach()
    assert anchors.argmax(1).tolist() == [0, 1, 2, 3, 0, 1]
    torch.testing.assert_close(anchors.mean(1), torch.zeros(6))
    torch.testing.assert_close(anchors.square().mean(1).sqrt(), torch.full((6,), 0.1))


def test_an_embedding_is_a_linear_layer_on_one_hot_rows():
    experts = trained(lookup=True)
    ids, s = torch.tensor([[0, 5, 2], [1, 1, 4]]), torch.randn(2, 2)
    found = experts(ids, s)
    experts.lookup = False
    torch.testing.assert_close(found, experts(nn.functional.one_hot(ids, 6).float(), s))


@pytest.mark.parametrize("prior", [None, torch.randn(2)])
def test_gates_by_the_prior_alone_merge_into_a_matrix(prior):
    experts, x = trained(router="none", anchors=0 if prior is None else 2), torch.randn(3, 6)
    merged = nn.functional.linear(x, experts.delta_weight(prior))
    torch.testing.assert_close(merged, experts(x, prior), atol=1e-5, rtol=1e-5)


def test_parts_rest_and_freeze():
    experts, x, s = trained(frozen=("A",)), torch.randn(3, 6), torch.randn(3, 2)
    experts.rest(("router",))
    experts(x, s).sum().backward()
    assert {name for name, p in experts.named_parameters() if p.grad is not None} == {"B", "anchors"}


def test_what_cannot_work_is_said():
    with pytest.raises(SettingsError, match="gates by token depend on the input"):
        trained().delta_weight(torch.randn(2))
    with pytest.raises(SettingsError, match="one prior, got 2 rows"):
        trained(router="none").delta_weight(torch.randn(2, 2))
    with pytest.raises(SettingsError, match="no prior came with the input"):
        trained()(torch.randn(3, 6))
    with pytest.raises(SettingsError, match=r"shape \(3, 5\), and there are 2 anchors"):
        trained()(torch.randn(3, 6), torch.randn(3, 5))
    for wrong in ({"rank": 0}, {"anchors": -1}, {"router": "sequence"}, {"frozen": ("gate",)}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            PairedExperts(6, 5, **{"rank": 3, "anchors": 2} | wrong)
