"""Shared by the tests of this folder."""

import torch
from torch import nn

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


PRIOR = torch.tensor([[1.0, 0, 0, 0, 0.5, 0], [0, 0.3, 0, 0.9, 0, 0]])


def gpt2(seed=0):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=11, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    return GPT2LMHeadModel(config).eval()


def adapted(base=None, seed=1, name="default", model=None, **options):
    """A model with an adapter that does something."""
    import peft

    from infl.nn.trex import TrexConfig

    config = TrexConfig(**{"r1": 2, "r2": 3, "task_type": "CAUSAL_LM"} | options)
    if model is None:
        model = peft.get_peft_model(gpt2() if base is None else base, config, adapter_name=name)
    else:
        model.add_adapter(name, config)
    torch.manual_seed(seed)
    for key, parameter in model.named_parameters():
        if f".{name}.B" in key:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def logits(model, prior=PRIOR, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, **({} if prior is None else {"trex_prior": prior})).logits
