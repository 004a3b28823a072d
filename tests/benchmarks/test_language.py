import pytest
import torch
from torch import nn

import _language

pytestmark = [
    pytest.mark.needs("peft", "transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning"),
]


@pytest.mark.parametrize("method", ["heads alone", "LoRA", "T-REX", "pairs"])
def test_without_padding_the_numbers_are_those_of_the_model(method):
    import peft
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    upper = BertModel(config, add_pooling_layer=False).eval()
    upper.embeddings = _language.Through()
    made = {
        "heads alone": None,
        "LoRA": _language.lora(2)(1.0),
        "T-REX": _language.trex(2, 2)(1.0),
        "pairs": _language.pairs(2, anchors=4)(1.0),
    }
    net = _language.Net(upper, made[method], [3]).double().eval()
    for parameter in net.model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    hidden, prior = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    given = {"trex_prior": prior} if net.with_prior else {}
    whole = net.model(inputs_embeds=hidden, attention_mask=mask, **given).last_hidden_state
    weight = mask.double().unsqueeze(-1)
    wanted = (whole * weight).sum(1) / weight.sum(1)
    torch.testing.assert_close(net(hidden, mask, prior), wanted, atol=1e-10, rtol=0)
    assert (method == "heads alone") != isinstance(net.model, peft.PeftModel)
