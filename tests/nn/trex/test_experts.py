import math

import pytest
import torch
from torch import nn

from infl.errors import SettingsError
from infl.nn.trex import RankOneExperts
from infl.nn.trex.semantic_prior import SemanticPrior


def trained(seed=0, *, dtype=torch.float32, **options):
    """Experts with all parts away from where they begin."""
    torch.manual_seed(seed)
    experts = RankOneExperts(6, 5, **{"r1": 2, "r2": 3} | options)
    nn.init.normal_(experts.B)
    nn.init.normal_(experts.gate, std=0.01)
    if experts.router is not None:
        nn.init.normal_(experts.router)
    if experts.omega is not None:
        nn.init.normal_(experts.omega, std=0.01)
    return experts.to(dtype).eval()


def written_out(experts, x, s, *, top_k=None, logits=None):
    """The update of one vector as a loop over experts, in float64."""
    weights = {name: p.detach().double() for name, p in experts.named_parameters()}
    g = 1 / (1 + math.exp(-100 * float(weights["gate"])))
    omega = 1 / (1 + math.exp(-100 * float(weights["omega"]))) if "omega" in weights else 1.0
    n = experts.r1 * experts.r2
    if "router" in weights:
        e = [math.exp(float(v)) for v in (weights["router"] @ x.double() if logits is None else logits)]
    else:
        e = [1.0] * n
    if top_k is not None:
        least = sorted(e)[-top_k]
        e = [v if v >= least else 0.0 for v in e]
    total = torch.zeros(experts.out_features, dtype=torch.float64)
    for i in range(experts.r1):
        for j in range(experts.r2):
            k = i * experts.r2 + j
            c = n * omega * e[k] / sum(e)
            if s is not None:
                c += 4 * (1 - omega) * float(s[k])
            expert = torch.outer(weights["B"][:, j], weights["A"][i])
            total += g * experts.scaling * c * (expert @ x.double())
    return total


@pytest.mark.parametrize(
    "options",
    [{}, {"prior": False}, {"top_k": 2}, {"router": "none"}, {"router": "none", "prior": False}, {"alpha": 16}],
)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_update_is_the_sum_over_experts(options, dtype, most):
    experts = trained(dtype=dtype, **options)
    x, s = torch.randn(3, 4, 6, dtype=dtype), torch.rand(3, 6, dtype=dtype)
    update = experts(x, s if experts.omega is not None else None)
    for a in range(3):
        for b in range(4):
            given = s[a] if experts.omega is not None else None
            wanted = written_out(experts, x[a, b], given, top_k=options.get("top_k"))
            assert (update[a, b].double() - wanted).abs().max() < most * max(1, wanted.abs().max())


def test_routing_by_sequence_takes_the_mean_of_what_is_not_padding():
    experts = trained(router="sequence")
    x, s = torch.randn(2, 4, 6), torch.rand(2, 6)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    update = experts(x, s, mask)
    for a, length in enumerate((3, 4)):
        logits = experts.router.detach().double() @ x[a, :length].double().mean(0)
        for b in range(4):
            torch.testing.assert_close(
                update[a, b].double(), written_out(experts, x[a, b], s[a], logits=logits), atol=1e-5, rtol=1e-5
            )


def test_rows_may_be_laid_out_in_two_dimensions():
    experts, x, s = trained(), torch.randn(3, 4, 6), torch.rand(3, 6)
    whole = experts(x, s)
    torch.testing.assert_close(experts(x.flatten(0, 1), s).view(3, 4, 5), whole)
    torch.testing.assert_close(experts(x[:, 0], s), whole[:, 0])


def test_an_embedding_is_a_linear_layer_on_one_hot_rows():
    experts = trained(lookup=True)
    ids, s = torch.tensor([[0, 5, 2], [1, 1, 4]]), torch.rand(2, 6)
    found = experts(ids, s)
    experts.lookup = False
    torch.testing.assert_close(found, experts(nn.functional.one_hot(ids, 6).float(), s))


@pytest.mark.parametrize("prior", [None, torch.rand(6)])
def test_fixed_routing_merges_into_a_matrix(prior):
    experts, x = trained(router="none", prior=prior is not None), torch.randn(3, 6)
    merged = nn.functional.linear(x, experts.delta_weight(prior))
    torch.testing.assert_close(merged, experts(x, prior), atol=1e-5, rtol=1e-5)


def test_routing_that_depends_on_the_input_does_not_merge():
    with pytest.raises(SettingsError, match="routing by token depends on the input"):
        trained().delta_weight(torch.rand(6))
    with pytest.raises(SettingsError, match="one prior, got 2 rows"):
        trained(router="none").delta_weight(torch.rand(2, 6))


@pytest.mark.parametrize("prior", [True, False])
def test_alpha_matches_the_scale_of_lora(prior):
    torch.manual_seed(0)
    experts = RankOneExperts(40, 40, r1=2, r2=4, router="none", prior=prior, alpha=16)
    nn.init.orthogonal_(experts.A)  # rows of norm 1, as B's columns: what is left is the weight of the experts
    nn.init.orthogonal_(experts.B)
    lora = 16 / 8 * torch.eye(8)  # α / r times eight experts of norm 1
    update = experts.delta_weight(torch.zeros(8) if prior else None)
    assert float(update.norm()) == pytest.approx(float(lora.norm()), rel=1e-5)


def test_alpha_with_a_level_matches_the_scale_of_lora_whatever_the_prior():
    torch.manual_seed(0)
    inputs = torch.randn(300, 5) + 3  # much alike, as embeddings are
    semantic = SemanticPrior.fit(inputs, lambda x: x, n_experts=8)
    priors = semantic(inputs)
    assert priors.mean() > 0.8
    experts = RankOneExperts(40, 40, r1=2, r2=4, router="none", alpha=16, level=semantic.level(inputs))
    nn.init.orthogonal_(experts.A)
    nn.init.orthogonal_(experts.B)
    norms = torch.stack([experts.delta_weight(s).norm() for s in priors])
    lora = 16 / 8 * torch.eye(8)
    assert float(norms.square().mean().sqrt()) == pytest.approx(float(lora.norm()), rel=1e-5)


def columns_after_training(router_init):
    torch.manual_seed(0)
    experts = RankOneExperts(6, 5, r1=2, r2=3, prior=False, router_init=router_init)
    x, y = torch.randn(64, 6), torch.randn(64, 5)
    optimiser = torch.optim.SGD(experts.parameters(), lr=0.01)
    for _ in range(20):
        optimiser.zero_grad()
        (experts(x) - y).square().mean().backward()
        optimiser.step()
    return experts.B.detach().T


def test_a_router_at_zero_without_a_prior_leaves_one_expert():
    first, *others = columns_after_training("zeros")
    assert first.abs().max() > 1e-3
    assert all((first - other).abs().max() < 1e-6 for other in others)
    first, *others = columns_after_training("random")
    assert all((first - other).abs().max() > 1e-4 for other in others)


def test_the_balance_loss_reaches_the_router_beside_any_loss():
    plain, balanced = trained(), trained(balance=0.5)
    x, s = torch.randn(3, 4, 6), torch.rand(3, 6)
    plain.train()(x, s).sum().backward()
    balanced.train()(x, s).sum().backward()
    p = torch.softmax(x @ plain.router.T, -1).flatten(0, 1).mean(0)
    (wanted,) = torch.autograd.grad(0.5 * 6 * (p * p).sum(), plain.router)
    torch.testing.assert_close(balanced.router.grad - plain.router.grad, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(balanced.B.grad, plain.B.grad)


def test_padding_does_not_count_for_balance():
    experts = trained(balance=1.0, top_k=2).train()
    x, s, mask = torch.randn(2, 4, 6), torch.rand(2, 6), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    gradients = []
    for padding in (0.0, 7.0):
        experts.zero_grad()
        x[0, 2:] = padding
        (experts(x, s, mask) * mask.unsqueeze(-1)).sum().backward()
        gradients.append(experts.router.grad.clone())
    torch.testing.assert_close(*gradients)


def test_bfloat16_follows_float32():
    x, s = torch.randn(3, 4, 6), torch.rand(3, 6)
    accurate, short = trained()(x, s), trained(dtype=torch.bfloat16)(x.bfloat16(), s)
    assert short.dtype == torch.bfloat16
    assert (short.float() - accurate).norm() / accurate.norm() < 0.03
    assert trained()(x.bfloat16(), s).dtype == torch.float32  # activations in bfloat16, adapter in float32


@pytest.mark.parametrize("options", [{}, {"prior": False}, {"top_k": 2}, {"router": "sequence"}, {"router": "none"}])
def test_gradients_of_records_at_once_are_those_of_one_at_a_time(options):
    experts = trained(dtype=torch.float64, **options)
    x, s, y = (torch.randn(4, *shape, dtype=torch.float64) for shape in ((3, 6), (6,), (3, 5)))
    parameters = dict(experts.named_parameters())

    def loss(parameters, x, s, y):
        given = (x[None], s[None] if experts.omega is not None else None)
        return (torch.func.functional_call(experts, parameters, given)[0] - y).square().mean()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(parameters, x, s, y)
    for i in range(len(x)):
        alone = torch.autograd.grad(loss(parameters, x[i], s[i], y[i]), list(parameters.values()))
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(together[name][i], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("prior", [False, True])
def test_a_step_keeps_no_copy_of_the_weights(prior):
    """All that is kept for the backward pass and is as wide as the layer is the input or a weight itself."""
    experts, kept = RankOneExperts(50, 40, r1=2, r2=3, prior=prior), []
    x, s = torch.randn(4, 3, 50, requires_grad=True), torch.rand(4, 6) if prior else None
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        experts(x, s)
    own = {tensor.data_ptr() for tensor in (x, experts.A, experts.B, experts.router)}
    wide = [tensor for tensor in kept if {40, 50} & set(tensor.shape)]
    assert {tensor.data_ptr() for tensor in wide} == own


def test_frozen_parts_are_not_trained():
    experts = RankOneExperts(6, 5, frozen=["A", "router", "omega", "gate"])
    assert [name for name, p in experts.named_parameters() if p.requires_grad] == ["B"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r1": 0}, "at least one vector"),
        ({"router": "expert"}, "one of 'token', 'sequence', 'none'"),
        ({"router_init": "ones"}, "'random' or 'zeros'"),
        ({"top_k": 33}, "from 1 to r1 · r2 = 32"),
        ({"top_k": 2, "router": "none"}, "with a router"),
        ({"frozen": ["C"]}, "some of 'A', 'B'"),
    ],
)
def test_options_that_cannot_work_are_refused(options, words):
    with pytest.raises(SettingsError, match=words):
        RankOneExperts(6, 5, **options)


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (None, "no prior came with the input"),
        (torch.rand(3, 7), "2 × 3 experts: give \\(inputs, 6\\)"),
        (torch.rand(2, 6), "2 priors for 3 inputs"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused(prior, words):
    with pytest.raises(SettingsError, match=words):
        trained()(torch.randn(3, 4, 6), prior)
