"""Which salt a tensor gets, and what of files of infl 0.1."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from anndata import AnnData

import infl
from infl.errors import FileError, KeyringError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.federation.replica import Replica
from infl.keys import Keyring
from infl.models import Classifier
from infl.models.locked import FORMAT, LockedModel, content_of, lock_model, tensor_salt
from infl.models.locked.header import digest_of

VECTORS = Path(__file__).parents[2] / "vectors"
OLD = json.loads((VECTORS / "model-0.1.json").read_text())
KEY = Keyring._from_roots({1: bytes.fromhex(OLD["root"])})


@pytest.fixture(scope="module")
def sites() -> dict[str, AnnData]:
    return {name: a[:, ::40].copy() for name, a in infl.datasets.khan_sites().items()}


def fitted(sites: dict[str, AnnData], *, key: Keyring = KEY, task: Classifier | None = None, **settings: object):
    task = task or Classifier(target="tumour_class", width=8, n_blocks=1)
    agreement = Agreement.new(task, task.agree(sites), sites, key, **{"rounds": 2, **settings})
    return run_in_process(agreement, task, sites, key)


def salts(model: LockedModel) -> dict[str, str]:
    return model.header.salts


# -- of models without a run -------------------------------------------------------------------------------------------
def test_a_salt_is_a_keyed_function_of_name_and_content() -> None:
    import hashlib
    import hmac

    tensor = torch.arange(6.0).view(2, 3)
    made = hashlib.sha256(b"infl tensor torch.float32 (2, 3)\n" + tensor.numpy().tobytes()).digest()
    assert content_of(tensor) == content_of(tensor.T.contiguous().T) == made
    expected = hmac.digest(KEY.subkey("salt"), b"weight" + made, "sha256").hex()[:32]
    assert tensor_salt(KEY, 1, "weight", made) == expected
    others = [(Keyring.create(), "weight", tensor), (KEY, "weighs", tensor), (KEY, "weight", tensor + 1e-6)]
    others += [(KEY, "weight", tensor.view(3, 2)), (KEY, "weight", tensor.double())]
    found = {tensor_salt(k, 1, n, content_of(t)) for k, n, t in others}
    assert len(found) == 5
    assert expected not in found
    with pytest.raises(SettingsError, match="32 bytes"):
        tensor_salt(KEY, 1, "weight", b"short")


def test_what_did_not_change_keeps_its_salt_and_what_changed_never_does(sites: dict[str, AnnData]) -> None:
    model = fitted(sites).run.model
    again = model
    for _ in range(4):  # each time unlocked, and moved by a rounding error
        again = lock_model(again.header, again.effective(KEY), {}, KEY, salts=again.salts_of(again.effective(KEY), KEY))
        again = again.relock(KEY)
    assert salts(again) == salts(model)
    for name, tensor in again.stored.items():
        torch.testing.assert_close(tensor, model.stored[name], rtol=1e-6, atol=1e-6)
    weights = model.effective(KEY)
    weights["head.bias"] = weights["head.bias"] + 1e-3
    changed = lock_model(model.header, weights, {}, KEY, salts=model.salts_of(weights, KEY))
    assert {name for name in weights if salts(changed)[name] != salts(model)[name]} == {"head.bias"}
    same = lock_model(model.header, weights, {}, KEY, salts=model.salts_of(weights, KEY))
    assert salts(same) == salts(changed)
    assert not set(salts(lock_model(model.header, weights, {}, KEY)).values()) & set(salts(model).values())


def test_versions_and_strengths_share_a_salt_and_no_factor(sites: dict[str, AnnData]) -> None:
    ring = Keyring.create()
    model = fitted(sites, key=ring).run.model
    weaker, newer = model.relock(ring, strength=0.9), model.relock(ring, version=ring.rotate())
    assert salts(weaker) == salts(newer) == salts(model)
    terms = [
        m.header.field_of(m.secret(ring), "head.weight").factors("head.weight", (200, 200))
        for m in (model, weaker, newer)
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for one, other in zip(terms[i], terms[j], strict=True):
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.03


# -- of models of a run ------------------------------------------------------------------------------------------------
def test_the_same_run_again_has_the_same_salts_and_another_run_has_others(sites: dict[str, AnnData]) -> None:
    one, again = fitted(sites), fitted(sites)
    assert one.run.settings["run"] != again.run.settings["run"]
    assert salts(one.run.model) == salts(again.run.model)
    for name, tensor in one.run.model.stored.items():
        assert torch.equal(tensor, again.run.model.stored[name])
    fewer = {name: a[:-1].copy() if name == "site_1" else a for name, a in sites.items()}
    others = [fitted(sites, seed=1), fitted(fewer), fitted(sites, rounds=3), fitted(sites, key=Keyring.create())]
    found = [set(salts(other.run.model).values()) for other in (one, *others)]
    assert len(set.union(*found)) == sum(map(len, found))


def test_a_longer_run_whose_best_round_is_the_same_has_the_same_salts(sites: dict[str, AnnData]) -> None:
    long = fitted(sites, rounds=8, task=Classifier(target="tumour_class", width=8, n_blocks=1, lr=0.03))
    best = long.replica.best_round
    assert 0 < best < 8
    short = fitted(sites, rounds=best, task=Classifier(target="tumour_class", width=8, n_blocks=1, lr=0.03))
    assert salts(short.run.model) == salts(long.run.model)


def test_rounding_of_processors_gives_no_second_lock(sites: dict[str, AnnData]) -> None:
    outcome = fitted(sites)
    before = outcome.replica.model()
    outcome.replica.theta.mul_(1 + 2e-7)
    after = outcome.replica.model()
    assert salts(after) == salts(before)
    for name, tensor in after.stored.items():
        torch.testing.assert_close(tensor, before.stored[name], rtol=1e-5, atol=1e-5)


def test_sites_with_weights_of_their_own_lock_what_is_shared_once(sites: dict[str, AnnData]) -> None:
    options = {"aggregation": "partial", "aggregation_options": {"local": ["head"]}}
    task = Classifier(target="tumour_class", width=8, n_blocks=1)
    run = infl.tl.fit_federated(sites, task, key=KEY, rounds=2, progress=False, **options)
    shared = salts(run.model)
    own = [salts(model) for model in run.site_models.values()]
    assert len(own) == 5
    assert shared and not any(name.startswith("head") for name in shared)
    for one in own:
        assert {n: s for n, s in one.items() if n in shared} == shared
    for name in own[0].keys() - shared.keys():
        assert len({one[name] for one in own}) == 5


def test_what_no_sum_moved_has_one_salt_in_all_runs(sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk that stays as it is; else the files of many runs were as many locks of it."""

    def frozen(outcome) -> dict[str, str]:
        replica = outcome.replica
        views = replica.flat_model.shared.views(replica.theta)
        for name, view in views.items():
            if not name.startswith("head"):
                view.fill_(0.25)
                replica._initial[name] = content_of(view)
        return salts(replica.model())

    one, other = frozen(fitted(sites)), frozen(fitted(sites, seed=1))
    same = {name for name in one if one[name] == other[name]}
    assert same
    assert same == {name for name in one if not name.startswith("head")}


def test_the_offers_salt_is_on_no_file_and_in_no_lock(sites: dict[str, AnnData], tmp_path: Path) -> None:
    model = fitted(sites).run.model
    theirs = next(iter(salts(model).values()))
    offered = fitted(sites, salt=theirs)  # that of a file, or the same one twice
    assert salts(offered.run.model) == salts(model)  # it is the same run otherwise
    assert theirs not in salts(fitted(sites, salt=theirs, seed=1).run.model).values()
    path = fitted(sites, salt="5a17" * 8).run.save(tmp_path / "m.safetensors")
    assert b"5a17" * 8 not in path.read_bytes()


def test_updates_of_each_run_meet_a_multiplier_of_its_own(sites: dict[str, AnnData]) -> None:
    task = Classifier(target="tumour_class", width=8, n_blocks=1)
    offers = [Agreement.new(task, task.agree(sites), sites, KEY, seal="none", salt="00" * 16) for _ in range(2)]
    gains = [Replica(offer, KEY, task).gain for offer in offers]
    assert torch.equal(gains[0], Replica(offers[0], KEY, task).gain)  # all sites of a run have the same
    assert abs(torch.corrcoef(torch.stack(gains))[0, 1]) < 0.1
    file = lock_model(fitted(sites).run.model.header, fitted(sites).run.model.effective(KEY), {}, KEY)
    name = "head.weight"
    shape = tuple(file.stored[name].shape)
    m, _ = file.header.field_of(file.secret(KEY), name).factors(name, shape)
    view = Replica(offers[0], KEY, task).flat_model.shared.views(gains[0])[name]
    assert not torch.allclose(view.double().abs(), m.abs(), rtol=0.01)


# -- small vectors -----------------------------------------------------------------------------------------------------
def test_large_weights_get_a_wider_term(sites: dict[str, AnnData], tmp_path: Path) -> None:
    """The rank of a gene's dispersion could be read off its stored size."""
    model = fitted(sites).run.model
    n = model.stored["head.bias"].numel()
    large = {**model.effective(KEY), "head.bias": torch.randn(n, generator=torch.Generator().manual_seed(0))}
    locked = lock_model(model.header, large, {}, KEY)
    assert locked.header.widenings["head.bias"] == 2
    torch.testing.assert_close(locked.effective(KEY)["head.bias"], large["head.bias"], rtol=0, atol=4e-6)
    path = locked.save(tmp_path / "m.safetensors")
    assert infl.load_model(path).header == locked.header


@pytest.mark.parametrize(("size", "least"), [(1.0, 0.5), (30.0, 0.5)])
def test_stored_sizes_of_a_vector_do_not_rank_the_effective_ones(size: float, least: float) -> None:
    from infl.attacks._kit.statistics import rank_correlation
    from infl.nn.lock import Field, widening

    vector = size * torch.randn(2000, generator=torch.Generator().manual_seed(0))

    def told(steps: int) -> float:
        stored = Field(bytes(32), b"salt", widening=steps).lock("px_r", vector)
        return rank_correlation(stored.abs().numpy(), vector.abs().numpy())

    assert told(0) > least  # as it was
    assert told(widening(vector)) < 0.1


# -- files -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lock", ["field", "published"])
def test_a_file_of_infl_0_1_opens(lock: str, tmp_path: Path) -> None:
    model = infl.load_model(VECTORS / f"model-0.1-{lock}.infl.safetensors")
    assert model.header.format == 1
    for name, tensor in model.effective(KEY).items():
        torch.testing.assert_close(tensor.flatten(), torch.tensor(OLD["effective"][lock][name]), rtol=1e-6, atol=1e-7)
    assert {"center", "scale"} <= model.private_arrays(KEY).keys()
    model.module(KEY)
    with pytest.raises(KeyringError):
        model.module(Keyring.create())
    path = model.save(tmp_path / "again.safetensors")  # as it is, in the format that it has
    assert infl.load_model(path).header == model.header


def test_a_file_of_infl_0_1_is_locked_again_in_the_new_format(tmp_path: Path) -> None:
    model = infl.load_model(VECTORS / "model-0.1-field.infl.safetensors")
    again = infl.load_model(model.relock(KEY).save(tmp_path / "m.safetensors"))
    assert again.header.format == FORMAT
    assert again.header.salt == ""
    assert again.header.salts == model.relock(KEY).header.salts
    assert again.header.infl_version == infl.__version__
    for name, tensor in again.effective(KEY).items():
        torch.testing.assert_close(tensor, model.effective(KEY)[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"salts": {}},
        {"salts": {"head.bias": "00"}},
        {"widenings": {"nothing": 1}},
        {"widenings": {"head.bias": 17}},
        {"widenings": {"head.bias": True}},
    ],
)
def test_a_header_with_other_salts_is_refused(sites: dict[str, AnnData], tmp_path: Path, wrong: dict) -> None:
    model = fitted(sites).run.model
    if wrong.get("salts"):
        wrong = {"salts": model.header.salts | wrong["salts"]}
    header = dataclasses.replace(model.header, **wrong, digest="")
    header = dataclasses.replace(header, digest=digest_of(header, model.stored))
    path = LockedModel(header, model.stored, model.private).save(tmp_path / "m.safetensors")
    with pytest.raises(FileError, match="is not an infl model"):
        infl.load_model(path)


def test_salts_that_somebody_put_into_a_file_are_refused(sites: dict[str, AnnData]) -> None:
    """Else a key holder who locks it again would keep them."""
    model = fitted(sites).run.model
    header = dataclasses.replace(model.header, salts=dict.fromkeys(model.header.salts, "00" * 16), digest="")
    header = dataclasses.replace(header, digest=digest_of(header, model.stored))
    with pytest.raises(FileError, match="altered"):
        LockedModel(header, model.stored, model.private).relock(KEY)
