import copy
import doctest
import subprocess
import sys

import pytest
import torch
from tests.nn.trex.conftest import IDS, PRIOR, adapted, gpt2, logits
from torch import nn

from infl.errors import InflWarning, SettingsError
from infl.nn.trex import use_prior

pytestmark = [
    pytest.mark.needs("peft", "transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::FutureWarning"),
]


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    return BertForSequenceClassification(config).eval()


def test_examples_run():
    from infl.nn.trex import tuner

    found = doctest.testmod(tuner, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert found.attempted >= 7 and not found.failed


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", None])
def test_layers_add_their_experts_to_what_they_gave(task_type):
    model = adapted(task_type=task_type)
    layer = model.base_model.model.transformer.h[0].attn.c_attn
    seen = {}
    handle = layer.register_forward_hook(lambda module, args, out: seen.update(x=args[0], y=out))
    logits(model)
    handle.remove()
    wanted = layer.base_layer(seen["x"]) + layer.trex_experts["default"](seen["x"], PRIOR)
    torch.testing.assert_close(seen["y"], wanted)


def test_every_linear_layer_but_the_output_head_is_adapted():
    names = {key.split(".trex_experts")[0].rpartition(".")[2] for key, _ in adapted().named_modules() if "trex" in key}
    assert names == {"c_attn", "c_proj", "c_fc"}
    trained = [name for name, p in adapted().named_parameters() if p.requires_grad]
    assert trained and all("trex_experts" in name for name in trained)


def test_the_adapter_starts_as_nothing_and_can_be_switched_off():
    import peft

    from infl.nn.trex import TrexConfig

    base = logits(gpt2(), None)
    fresh = peft.get_peft_model(gpt2(), TrexConfig(task_type="CAUSAL_LM")).eval()
    torch.testing.assert_close(logits(fresh, torch.rand(2, 32)), base)
    model = adapted()
    assert (logits(model) - base).abs().max() > 1e-3
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), base)


def test_several_adapters(tmp_path):
    model = adapted(name="one")
    one = logits(model)
    adapted(model=model, name="two", seed=2, r1=1, r2=2, router="none")
    torch.testing.assert_close(logits(model), one)
    model.set_adapter("two")
    two = logits(model, torch.rand(2, 2))
    assert (one - two).abs().max() > 1e-3
    model.base_model.set_adapter(["one", "two"])
    both = logits(model, {"one": PRIOR, "two": torch.rand(2, 2)})
    assert min((both - one).abs().max(), (both - two).abs().max()) > 1e-3
    model.delete_adapter("two")
    model.set_adapter("one")
    torch.testing.assert_close(logits(model), one)


@pytest.mark.long
@pytest.mark.parametrize("options", [{"top_k": 4}, {"rank": 3, "anchors": 6}])
def test_a_saved_adapter_gives_the_same_logits_in_a_fresh_process(tmp_path, options):
    from transformers import GPT2LMHeadModel

    gpt2().save_pretrained(tmp_path / "base")
    base = GPT2LMHeadModel.from_pretrained(tmp_path / "base").eval()
    model = adapted(base, alpha=8.0, **options)
    model.save_pretrained(tmp_path / "adapter")
    for parameter in model.parameters():  # both processes compute on aligned memory; views of a file round otherwise
        parameter.data = parameter.data.clone()
    torch.save({"ids": IDS, "prior": PRIOR, "logits": logits(model)}, tmp_path / "wanted.pt")
    script = """
import sys, torch, peft, transformers, infl.nn.trex.tuner
folder = sys.argv[1]
base = transformers.GPT2LMHeadModel.from_pretrained(folder + "/base")
model = peft.PeftModel.from_pretrained(base, folder + "/adapter").eval()
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
wanted = torch.load(folder + "/wanted.pt")
with torch.no_grad():
    found = model(input_ids=wanted["ids"], trex_prior=wanted["prior"]).logits
assert model.peft_config["default"].alpha == 8.0
print(float((found - wanted["logits"]).abs().max()))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) == 0


@pytest.mark.parametrize("with_prior", [True, False])
def test_fixed_routing_merges_and_parts_again(with_prior):
    model = adapted(router="none", prior=with_prior)
    s = PRIOR[0] if with_prior else None
    given = s.expand(2, -1) if with_prior else None
    wanted, base = logits(model, given), logits(gpt2(), None)
    with use_prior(model, s if with_prior else {}):
        model.merge_adapter()
    torch.testing.assert_close(logits(model, None), wanted, atol=1e-5, rtol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model, given), wanted, atol=1e-5, rtol=1e-5)
    with use_prior(model, s if with_prior else {}):
        merged = model.merge_and_unload(safe_merge=True)
    assert type(merged).__name__ == "GPT2LMHeadModel"
    torch.testing.assert_close(logits(merged, None), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - base).abs().max() > 1e-3


def test_pairs_merge_for_one_prior():
    model = adapted(rank=3, anchors=6, router="none")
    wanted = logits(model, PRIOR[:1].expand(2, -1))
    with use_prior(model, PRIOR[0]):
        model.merge_adapter()
    torch.testing.assert_close(logits(model, None), wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - logits(gpt2(), None)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"anchors": 2}, "give their number too, rank="),
        ({"rank": 3, "top_k": 2}, "top_k: for the grid"),
        ({"rank": 3, "balance": 0.1}, "balance: for the grid"),
        ({"rank": 3, "router": "sequence"}, "gates of pairs are by 'token'"),
    ],
)
def test_options_of_the_other_layout_are_refused(options, words):
    from infl.nn.trex import TrexConfig

    with pytest.raises(SettingsError, match=words):
        TrexConfig(**options)


def test_token_routing_refuses_to_merge():
    model = adapted()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SettingsError, match="only router='none' can"), use_prior(model, PRIOR[0]):
        model.merge_adapter()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_runs_unchanged(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = adapted(bert(), task_type="SEQ_CLS")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    rows = []
    for label in (0, 1) * 8:
        ids = torch.randint(11, (5,), generator=generator)
        rows.append({"input_ids": ids, "labels": label, "trex_prior": torch.rand(6, generator=generator)})
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        report_to=[],
        remove_unused_columns=False,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    changed = {name.rpartition(".")[2] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"A", "B", "router", "omega", "gate"} <= changed
    kept = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert any("base_layer" in name for name in kept) and not any("trex_experts" in name for name in kept)


def test_frozen_parts_stay_frozen_when_adapters_change():
    model = adapted(frozen=("A", "router", "omega", "gate"), name="one")
    adapted(model=model, name="two", frozen=("A",))
    for name, parts in (("two", {"B", "router", "omega", "gate"}), ("one", {"B"})):
        model.set_adapter(name)
        trained = {key for key, p in model.named_parameters() if p.requires_grad}
        assert {key.rpartition(".")[2] for key in trained} == parts
        assert all(f".{name}." in key for key in trained)


def test_an_embedding_can_be_adapted_and_merged():
    model = adapted(target_modules=["wpe"], router="none", prior=False)
    wanted = logits(model, None)
    assert (wanted - logits(gpt2(), None)).abs().max() > 1e-4
    torch.testing.assert_close(logits(model.merge_and_unload(), None), wanted, atol=1e-5, rtol=1e-5)


def test_adapters_of_a_bfloat16_model_are_trained_in_float32():
    model = adapted(gpt2().bfloat16())
    assert {p.dtype for name, p in model.named_parameters() if "trex_experts" in name} == {torch.float32}
    found = logits(model)
    assert found.dtype == torch.bfloat16 and torch.isfinite(found).all()


def test_names_that_match_nothing_are_answered_with_those_there_are():
    with pytest.raises(SettingsError, match=r"match no layer of this GPT2LMHeadModel: it has c_attn, c_fc, c_proj"):
        adapted(target_modules=["q_proj"])


def test_experts_that_stay_one_are_warned_of():
    from infl.nn.trex import TrexConfig

    with pytest.warns(InflWarning, match="stay one expert"):
        TrexConfig(prior=False, router_init="zeros")


def test_a_causal_model_does_not_route_by_what_is_to_come():
    from infl.nn.trex import TrexConfig

    with pytest.raises(SettingsError, match="see the tokens to come"):
        TrexConfig(router="sequence", task_type="CAUSAL_LM")


class Encoder(nn.Module):
    """torch's own transformer, whose fast path skips adapters."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x, padding=None):
        return self.encoder(x, src_key_padding_mask=padding)


def test_the_fast_path_of_encoder_layers_is_found_and_switched_off():
    torch.manual_seed(0)
    base, x = Encoder().eval(), torch.randn(2, 4, 8)
    padding = torch.tensor([[False, False, False, True], [False] * 4])
    with pytest.warns(InflWarning, match=r"encoder.layers.0 is a TransformerEncoderLayer, whose fast path"):
        model = adapted(base, target_modules=["linear1", "linear2"], task_type=None)
    for kind in (None, padding):
        slow = model(x, kind, trex_prior=PRIOR)
        with torch.no_grad():
            quick = model(x, kind, trex_prior=PRIOR)
        torch.testing.assert_close(quick[:, :3], slow[:, :3])
        with model.disable_adapter(), torch.no_grad():
            assert (model(x, kind, trex_prior=PRIOR)[:, :3] - quick[:, :3]).abs().max() > 1e-3


def test_the_projection_that_attention_never_calls_is_left_out():
    torch.manual_seed(0)
    with pytest.warns(InflWarning) as said:
        model = adapted(Encoder(), target_modules=["linear1", "out_proj"], task_type=None)
    assert any("out_proj and never calls the layer" in str(w.message) for w in said)
    assert not any("out_proj.trex" in name for name, _ in model.named_modules())


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=11, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    )
    return T5ForConditionalGeneration(config).eval()


def test_a_base_with_encoder_and_decoder_is_adapted_trained_and_generates():
    from infl.nn.trex import TrexConfig

    model = adapted(t5(), task_type="SEQ_2_SEQ_LM")
    found = model(input_ids=IDS, labels=IDS[:, :3].clone().clone(), trex_prior=PRIOR)
    other = model(input_ids=IDS, labels=IDS[:, :3].clone().clone(), trex_prior=PRIOR.flip(0))
    assert (found.logits - other.logits).abs().max() > 1e-3
    found.loss.backward()
    grads = [p.grad for n, p in model.named_parameters() if n.endswith((".B", "router"))]
    assert grads and all(g is not None and g.abs().max() > 0 for g in grads)
    options = {"max_new_tokens": 4, "do_sample": False}
    written = model.generate(input_ids=IDS, trex_prior=PRIOR, **options)
    ids = torch.zeros(2, 1, dtype=torch.long)
    for _ in range(4):
        given = {"decoder_input_ids": ids, "trex_prior": PRIOR}
        ids = torch.cat([ids, model(input_ids=IDS, **given).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(ids[:, : written.shape[1]], written)
    with pytest.raises(SettingsError, match="tokens to come"):
        TrexConfig(task_type="SEQ_2_SEQ_LM", router="sequence")


def test_an_adapter_file_knows_its_base_and_no_folder(tmp_path):
    import peft
    from transformers import BertForSequenceClassification

    folder = tmp_path / "bases" / "small"
    bert().save_pretrained(folder)
    make = BertForSequenceClassification.from_pretrained
    model = adapted(make(folder), task_type="SEQ_CLS")
    model.save_pretrained(tmp_path / "adapter")
    for file in (tmp_path / "adapter").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert peft.PeftConfig.from_pretrained(tmp_path / "adapter").base_model_name_or_path == "small"
    again = make(folder)
    nn.init.normal_(again.classifier.weight)  # a head is new in every process, and was stored with the adapter
    again = peft.PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(again), logits(model))
    other = make(folder)
    nn.init.normal_(other.bert.encoder.layer[0].output.dense.weight)
    with pytest.raises(SettingsError, match="another base model"):
        peft.PeftModel.from_pretrained(other, tmp_path / "adapter")
    peft.PeftModel.from_pretrained(make(folder).bfloat16(), tmp_path / "adapter")  # the same in short


def test_a_configuration_serves_two_bases():
    import peft

    from infl.nn.trex import TrexConfig

    config = TrexConfig(task_type="CAUSAL_LM")
    digests = []
    for seed in (0, 1):
        peft.get_peft_model(gpt2(seed), config)
        digests.append(config.base_digest)
    assert digests[0] != digests[1]


class Packed(nn.Linear):
    """As a layer of bitsandbytes: two values in a byte, and a product of its own."""

    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features)
        self.whole = layer.weight.data
        self.weight = nn.Parameter(torch.zeros(self.whole.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x):
        return nn.functional.linear(x, self.whole, self.bias)


def test_experts_go_beside_packed_weights_and_are_not_merged_into_them():
    plain, base = adapted(bert(), task_type="SEQ_CLS", router="none"), bert()
    dense = base.bert.encoder.layer[0].intermediate
    dense.dense = Packed(dense.dense)
    model = adapted(base, task_type="SEQ_CLS", router="none")
    state = {n: p for n, p in plain.state_dict().items() if "trex" in n}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    torch.testing.assert_close(logits(model), logits(plain))
    with pytest.raises(SettingsError, match="quantised"), use_prior(model, PRIOR[0]):
        model.merge_adapter()
