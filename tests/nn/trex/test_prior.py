"""The prior of an adapter: asked for, brought by a context, the same where a step is computed again."""

import copy

import pytest
import torch
from tests.nn.trex.conftest import IDS, PRIOR, adapted, gpt2, logits
from torch import nn

from infl.errors import SettingsError
from infl.nn.trex import attach_prior, use_prior

pytestmark = [
    pytest.mark.needs("peft", "transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning"),
]


def test_the_prior_makes_a_difference_and_is_asked_for():
    model = adapted()
    assert (logits(model) - logits(model, PRIOR.flip(0))).abs().max() > 1e-4
    with pytest.raises(SettingsError, match="no prior came with the input"):
        logits(model, None)


def test_a_context_or_an_intuition_brings_the_prior():
    model = adapted()
    with use_prior(model, PRIOR):
        torch.testing.assert_close(logits(model, None), logits(model))
    attach_prior(model, lambda inputs: PRIOR[: len(inputs["input_ids"])])
    torch.testing.assert_close(logits(model, None), logits(model))
    attach_prior(model, None)
    with pytest.raises(SettingsError, match="no prior came with the input"):
        logits(model, None)


def gradients(model, *, checkpointing, priors):
    model = copy.deepcopy(model).train()
    if checkpointing:
        model.base_model.model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    losses = [model(input_ids=IDS, labels=IDS, trex_prior=prior).loss for prior in priors]
    sum(losses).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("priors", [[PRIOR], [PRIOR, 3 * PRIOR.flip(0)]])
def test_gradient_checkpointing_computes_again_with_the_same_prior(priors):
    base = gpt2()
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = adapted(base)
    plain = gradients(model, checkpointing=False, priors=priors)
    again = gradients(model, checkpointing=True, priors=priors)
    assert set(plain) == set(again)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 2])
def test_generation_uses_the_prompts_prior_at_every_step(beams):
    model = adapted()
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams}
    cached = model.generate(input_ids=IDS, trex_prior=PRIOR, **options)
    calls = []

    def nearest(inputs):
        calls.append(inputs["input_ids"].shape)
        return PRIOR

    attach_prior(model, nearest)
    assert torch.equal(model.generate(input_ids=IDS, **options), cached)
    assert calls == [(2, 5)]
    if beams == 1:
        ids = IDS
        for _ in range(4):  # as if there were no cache
            ids = torch.cat([ids, logits(model, PRIOR, ids)[:, -1].argmax(-1, keepdim=True)], 1)
        assert torch.equal(ids[:, : cached.shape[1]], cached)
