import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.models.adapter.conftest import OPTIONS, TASKS, fit

import infl
from infl.errors import DataError, InflError, InflWarning, SettingsError
from infl.federation.seeds import generator
from infl.models.registry import make_task
from infl.models.task import Step
from infl.nn.flat import FlatModule
from infl.privacy.dp import clipped_gradients
from infl.sums import SiteView

pytestmark = [
    pytest.mark.needs("peft", "transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]


def accuracy(sites, run, key, task="tumour_class"):
    hits = []
    for adata in sites.values():
        adata = infl.tl.predict(adata, run.model, key=key, copy=True)
        hits += list(adata.obs[f"infl_{task}_prediction"].astype(str) == adata.obs[task].astype(str))
    return np.mean(hits)


def test_a_fit_learns_and_its_file_is_worthless_without_the_key(khan_sites, base, tmp_path):
    run, key = fit(khan_sites, base, rounds=8, local_epochs=4, batch_size=8, lr=0.03)
    assert accuracy(khan_sites, run, key) > 0.7  # the largest class has 0.35
    run.save(tmp_path / "model.infl.safetensors")
    run.model = infl.load_model(tmp_path / "model.infl.safetensors")
    assert accuracy(khan_sites, run, key) > 0.7
    stolen = [run.model.module(infl.keys.Keyring.create(), verify=False) for _ in range(5)]
    task, panel = run.model.header.build_task(), run.model.header.panel
    y = np.concatenate([adata.obs["tumour_class"].astype(str) for adata in khan_sites.values()])
    for module in stolen:
        outputs = [
            task.infer(module, task.read(a, panel, site="thief", keyless=True), {})["probability.tumour_class"]
            for a in khan_sites.values()
        ]
        called = np.asarray(panel["tasks"]["tumour_class"])[np.concatenate(outputs).argmax(1)]
        assert (called == y).mean() < 0.6


def test_only_b_and_the_heads_are_stored_and_averaged(khan_sites, base):
    run, _ = fit(khan_sites, base)
    assert {name.rpartition(".")[2] for name in run.model.stored if "trex" in name} == {"B"}
    assert {name for name in run.model.stored if "trex" not in name} == {
        f"heads.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")
    }
    naive, _ = fit(khan_sites, base, average="naive")
    assert {name.rpartition(".")[2] for name in naive.model.stored if "trex" in name} == {
        "A", "B", "router", "omega", "gate"
    }  # fmt: skip


def update_of(task, panel, stored, x, s):
    """What the experts of one layer add to its output."""
    module = task.build(panel)
    module.load_state_dict(stored, strict=False)
    layer = module.adapted.base_model.model.h[0].mlp.c_fc.trex_experts["default"]
    return layer.eval()(x, s).detach()


@pytest.mark.parametrize("average", ["exact", "naive"])
def test_the_average_of_exact_adapters_is_the_average_of_their_updates(khan_sites, base, average):
    task = make_task("adapter", {"target": TASKS, "base": base, "average": average} | OPTIONS)
    panel = task.agree(khan_sites)
    torch.manual_seed(0)
    start = task.build(panel).state_dict()
    changed = [{n: t + 0.1 * torch.randn_like(t) for n, t in start.items()} for _ in range(3)]
    mean = {n: sum(c[n] for c in changed) / 3 for n in start}
    x, s = torch.randn(4, 6, 16), torch.rand(4, 4)
    wanted = sum(update_of(task, panel, c, x, s) for c in changed) / 3
    error = (update_of(task, panel, mean, x, s) - wanted).norm() / wanted.norm()
    assert error < 1e-5 if average == "exact" else error > 0.1


TURNS = ({"B", "weight", "bias"}, {"A"}, {"router", "omega", "gate"})


@pytest.mark.parametrize("turn", [1, 2, 3, 4])
def test_parts_are_trained_in_turn_and_averages_are_those_of_updates(khan_sites, base, turn):
    task = make_task("adapter", {"target": TASKS, "base": base, "train": "alternating"} | OPTIONS)
    panel = task.agree(khan_sites)
    module, parts = task.build(panel), TURNS[(turn - 1) % 3]
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.1 * torch.randn_like(p)
    data = task.read(khan_sites["site_1"], panel, site="site_1", rng=np.random.default_rng(0))
    task.loss(module, data.batch(np.arange(4)), Step(turn, 9, 0, 1)).backward()
    moved = {n for n, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {n.rpartition(".")[2] for n in moved} == parts
    module.double()
    start = module.state_dict()
    changed = [{n: t + torch.randn_like(t) if n in moved else t for n, t in start.items()} for _ in range(3)]
    x, s = torch.randn(4, 6, 16, dtype=torch.float64), torch.rand(4, 4, dtype=torch.float64)

    def updates(state):
        module.load_state_dict(state, strict=False)
        layers = [m for m in module.modules() if type(m).__name__ == "RankOneExperts" and m.in_features == 16]
        assert len(layers) == 3
        return torch.cat([layer.eval()(x, s).detach() for layer in layers], -1)

    wanted = sum(map(updates, changed)) / 3
    error = (updates({n: sum(c[n] for c in changed) / 3 for n in start}) - wanted).norm() / wanted.norm()
    assert error < 1e-12 if turn != 3 else error > 1e-3


def test_what_waits_for_its_turn_stays_what_it_was(khan_sites, base):
    def parts(**options):
        run, key = fit(khan_sites, base, validation=0.0, weight_decay=0.1, **{"train": "alternating", **options})
        state = run.model.module(key).state_dict()
        return {
            part: torch.cat([t.flatten() for n, t in state.items() if n.endswith(part)])
            for part in ("B", "A", "router")
        }

    first, second = parts(rounds=1), parts(rounds=2)
    task = make_task("adapter", {"target": TASKS, "base": base, "train": "alternating"} | OPTIONS)
    start = task.build(task.agree(khan_sites)).state_dict()
    assert first["B"].abs().max() > 1e-3
    for part in ("A", "router"):
        wanted = torch.cat([t.flatten() for n, t in start.items() if n.endswith(part)])
        torch.testing.assert_close(first[part], wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(second["B"], first["B"], atol=1e-6, rtol=0)
    torch.testing.assert_close(second["router"], first["router"], atol=1e-6, rtol=0)
    assert (second["A"] - first["A"]).abs().max() > 1e-3


def test_turns_and_all_at_once_exclude_each_other(khan_sites, base):
    with pytest.raises(SettingsError, match="leave one of them out"):
        make_task("adapter", {"target": TASKS, "base": base, "train": "alternating", "average": "naive"})
    turns = make_task("adapter", {"target": TASKS, "base": base, "train": "alternating"})
    assert turns.for_dp().train == "b"


def test_the_base_model_is_left_as_it_was(khan_sites, base):
    from transformers import GPT2Model

    run, key = fit(khan_sites, base)
    weights = GPT2Model.from_pretrained(base).state_dict()
    trained = run.model.module(key).adapted.base_model.model
    buffers = dict(trained.named_buffers())
    assert torch.equal(buffers["wte.weight"], weights["wte.weight"])
    assert torch.equal(buffers["h.0.attn.c_attn.base_layer.weight"], weights["h.0.attn.c_attn.weight"])


def test_sealed_centroids_are_those_of_k_means_on_pooled_data(khan_sites, base, plainly_added):
    task = make_task("adapter", {"target": TASKS, "base": base, "validation": 0.0} | OPTIONS)
    panel = task.agree(khan_sites)
    module = task.build(panel)
    reads = {s: task.read(a, panel, site=s, rng=generator(0, s)) for s, a in khan_sites.items()}
    embedded = torch.cat([module.intuition.embed(d.ids, d.mask) for d in reads.values()])
    centroids = module.intuition.centroids.clone()
    (rounds,), state = task.before(panel), {}
    for _ in range(rounds.steps):
        state = plainly_added([replace(rounds, steps=1)], [SiteView(d, module) for d in reads.values()], state)
        task.configure(module, state)
        nearest = (embedded @ centroids.T).argmax(1)
        for k in range(4):
            if (nearest == k).any():
                centroids[k] = torch.nn.functional.normalize(embedded[nearest == k].mean(0), dim=0)
    torch.testing.assert_close(module.intuition.centroids, centroids, atol=1e-5, rtol=1e-5)


def test_a_site_may_lack_tasks_and_labels(khan_sites, base):
    del khan_sites["site_1"].obs["published_split"]
    khan_sites["site_2"].obs["tumour_class"] = khan_sites["site_2"].obs["tumour_class"].astype(object)
    khan_sites["site_2"].obs.iloc[0, khan_sites["site_2"].obs.columns.get_loc("tumour_class")] = np.nan
    run, _ = fit(khan_sites, base)
    assert list(run.model.header.panel["tasks"]["tumour_class"]) == [f"class_{i}" for i in (1, 2, 3, 4)]
    assert khan_sites["site_1"].obs["infl_published_split_prediction"].isin(["train", "test"]).all()
    assert np.isfinite(run.history.filter(like="loss").to_numpy()).all()


def test_results_go_where_scanpy_finds_them(khan_sites, base, tmp_path):
    fit(khan_sites, base)
    adata = khan_sites["site_1"]
    assert adata.obsm["X_infl"].shape == (adata.n_obs, 16)
    assert adata.obs["infl_tumour_class_probability"].between(0.25, 1).all()
    adata.write_h5ad(tmp_path / "site.h5ad")


def test_heads_keep_their_tasks_when_a_panel_travels(khan_sites, base):
    """As data, the entries of a panel come back in the order of their names."""
    task = infl.models.Adapter(target=TASKS, base=str(base), **OPTIONS)
    panel = task.agree(khan_sites)
    travelled = json.loads(json.dumps(panel, sort_keys=True))
    assert list(travelled["tasks"]) != list(panel["tasks"])
    adata = khan_sites["site_1"]
    read = [task.read(adata, p, site="site_1", rng=np.random.default_rng(0)) for p in (panel, travelled)]
    assert torch.equal(read[0].labels, read[1].labels)
    assert task.metric_shapes(travelled) == task.metric_shapes(panel)
    nets = [task.build(p) for p in (panel, travelled)]
    assert [net.n_classes for net in nets] == [[4, 2], [4, 2]]
    outputs = task.infer(nets[1], read[1], {})
    assert outputs["probability.tumour_class"].shape == (adata.n_obs, 4)


def test_methods_can_be_compared(khan_sites, base):
    table = infl.tl.compare(
        khan_sites, "adapter", target=TASKS, base=base, seeds=1, rounds=1, methods=["fedavg", "baseline"], **OPTIONS
    )
    values = table.set_index(["method", "metric"])["mean"]
    assert values["baseline", "accuracy_tumour_class"] > 0.8
    assert 0 <= values["fedavg", "mean_accuracy"] <= 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"base": ""}, SettingsError, "needs base="),
        ({"base": "nowhere"}, SettingsError, "is not known here"),
        ({"target": []}, SettingsError, "needs target="),
        ({"target": ["colour"]}, DataError, "no site has the column 'colour'"),
        ({"average": "mean"}, SettingsError, "one of 'exact', 'naive'"),
        ({"r1": 0}, SettingsError, "whole number of at least 1"),
    ],
)
def test_what_a_user_can_get_wrong_is_said(khan_sites, base, options, error, words):
    with pytest.raises(error, match=words):
        infl.tl.fit_federated(
            khan_sites, "adapter", progress=False, rounds=1, **{"target": TASKS, "base": base} | OPTIONS | options
        )


def test_names_outside_the_tokenizer_are_refused(khan_sites, base):
    for adata in khan_sites.values():
        adata.var_names = [f"gene {i}" for i in range(adata.n_vars)]
    with pytest.raises(DataError, match="tokenizer knows 0 of 2308 features, not 'gene 0'"):
        fit(khan_sites, base)


def test_a_sentence_names_the_highest_features_first(khan_sites, base):
    from transformers import AutoTokenizer

    task = make_task("adapter", {"target": TASKS, "base": base} | OPTIONS)
    adata = khan_sites["site_1"]
    panel = task.agree(khan_sites)
    data = task.read(adata, panel, site="site_1")
    tokenizer = AutoTokenizer.from_pretrained(base)
    wanted = adata.var_names[np.argsort(-adata.X[0], kind="stable")[:23]]
    assert tokenizer.decode(data.ids[0]).split() == ["[BOS]", *wanted]


def test_an_adapter_learns_under_differential_privacy(khan_sites, base):
    private = infl.privacy.DP(noise_multiplier=0.02, delta=1e-4, sample_rate=0.3, accountant="rdp")
    run, key = fit(khan_sites, base, rounds=8, privacy=private, lr=0.1)
    assert run.privacy["rounds"] == 8
    assert accuracy(khan_sites, run, key) > 0.5


def test_gradients_of_an_adapter_are_clipped_one_record_at_a_time(khan_sites, base):
    task = make_task("adapter", {"target": TASKS, "base": base} | OPTIONS)
    panel = task.agree(khan_sites)
    flat = FlatModule(task.build(panel))
    with torch.no_grad():
        flat.flat += 0.1 * torch.randn_like(flat.flat)  # B is 0 at the start, and hides what is before it
    data = task.read(khan_sites["site_1"], panel, site="site_1", rng=np.random.default_rng(0))
    data.labels[0] = -1  # nothing is known of it
    data.labels[1, 1] = -1
    step, expected = Step(1, 1, 0, 1), torch.zeros(flat.shared.total)
    for i in range(5):
        flat.flat.grad.zero_()
        task.loss(flat.module, data.batch(np.array([i])), step).backward()
        gradient = flat.flat.grad.clone()
        expected += gradient * min(1.0, 0.5 / max(float(gradient.norm()), 1e-9))
    records = [np.array([i]) for i in range(5)]
    got = clipped_gradients(flat.module, lambda i: task.loss(flat.module, data.batch(i), step), records, 0.5, -30)
    torch.testing.assert_close(torch.from_numpy(got * 2.0**-30).float(), expected, rtol=1e-4, atol=1e-6)


def test_a_site_with_one_class_is_a_warning(khan_sites, base):
    adata = khan_sites["site_2"]
    khan_sites["site_2"] = adata[adata.obs["tumour_class"] == "class_2"].copy()
    with pytest.warns(InflWarning) as said:
        table = infl.tl.compare(
            khan_sites,
            "adapter",
            target="tumour_class",
            base=base,
            seeds=1,
            rounds=1,
            methods=["alone", "infl", "baseline"],
            progress=False,
            **OPTIONS,
        )
    assert table["mean"].notna().all()
    texts = [str(w.message) for w in said if issubclass(w.category, InflWarning)]
    assert any("'site_2 (class_2)'" in text and "learn the site" in text for text in texts)
    assert any("'alone' is without site_2" in text for text in texts)


def test_many_numbers_are_no_classes_and_few_come_back_as_numbers(khan_sites, base):
    for adata in khan_sites.values():
        adata.obs["age"] = np.linspace(3, 90, adata.n_obs)
        adata.obs["grade"] = np.where(np.arange(adata.n_obs) < 2, np.nan, np.arange(adata.n_obs) % 2)
        adata.obs["relapse"] = np.arange(adata.n_obs) % 2 == 0
    for column in (np.linspace(3, 90, 16), np.arange(16)):
        khan_sites["site_1"].obs["age"] = column
        with pytest.raises(InflError, match=r"'age' is numeric at site_1 \(16 values\) where classes are due"):
            infl.tl.fit_federated(khan_sites, "adapter", target="age", base=base, progress=False)
    infl.tl.fit_federated(
        khan_sites, "adapter", target=["grade", "relapse"], base=base, rounds=1, progress=False, **OPTIONS
    )
    adata = khan_sites["site_1"]
    assert adata.obs["infl_grade_prediction"].dtype == np.int64
    assert adata.obs["infl_relapse_prediction"].dtype == bool
    assert (adata.obs["infl_relapse_prediction"] == adata.obs["relapse"]).mean() > 0


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_encoders_are_adapted_where_it_is_of_use(khan_sites, base, tmp_path, kind):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(tmp_path)
    size = {"vocab_size": len(tokenizer)}
    if kind == "bert":
        size |= {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        transformers.BertModel(transformers.BertConfig(**size)).save_pretrained(tmp_path)
    else:
        size |= {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        transformers.T5Model(transformers.T5Config(**size)).save_pretrained(tmp_path)
    task = make_task("adapter", {"target": TASKS, "base": str(tmp_path)} | OPTIONS)
    panel = task.agree(khan_sites)
    module = task.build(panel)
    data = task.read(khan_sites["site_1"], panel, site="site_1", rng=np.random.default_rng(0))
    task.loss(module, data.batch(np.arange(4)), Step(1, 1, 0, 1)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
