"""Query surgery: the columns of a new site are those of scvi-tools, depend on its cells alone, and nothing else changes."""

import anndata as ad
import numpy as np
import pytest
import torch
from tests.models.scvi.conftest import SMALL, hospital, three_hospitals

import infl
from infl.errors import DataError, SettingsError
from infl.models.scvi.surgery import epochs_of, fit_columns, with_site
from infl.models.task import SITE

pytestmark = pytest.mark.needs("scvi")

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
GROUPS = np.arange(120) % 2


def recorded(module) -> list:
    """What each training step of a module of scvi-tools is given from now on, and the generator's state before."""
    steps = []

    def note(module, args, kwargs) -> None:
        steps.append((args[0], float(kwargs["loss_kwargs"]["kl_weight"]), torch.get_rng_state()))

    module.register_forward_pre_hook(note, with_kwargs=True)
    return steps


def replayed(steps):
    for batch, weight, state in steps:
        torch.set_rng_state(state)
        yield batch, weight


def reference(model="scvi", sites=None, **options):
    return infl.tl.fit_federated(
        sites or three_hospitals(), model, rounds=3, **SMALL | {"n_layers": 2, "encode_covariates": True} | options
    )


@pytest.fixture(scope="module")
def run():
    return reference()


def scvi_of(run):
    return infl.tl.to_scvi(run, ad.concat(three_hospitals().values()), site_key="hospital")


def scanvi_of(run):
    """The same of scANVI, which has no function of its own."""
    from scvi.model import SCANVI

    cells = ad.concat(three_hospitals().values())
    cells.obs["group"] = cells.obs["group"].astype(str)
    cells.obs[SITE] = cells.obs["hospital"].astype("category")
    SCANVI.setup_anndata(cells, batch_key=SITE, labels_key="group", unlabeled_category="unknown")
    theirs = SCANVI(cells, **run.model.header.build_task().module_options())
    missing = theirs.module.load_state_dict(run.model.module(run.key).state_dict(), strict=False)
    assert not missing.unexpected_keys
    theirs.is_trained_ = True
    return theirs


@pytest.mark.parametrize(("model", "of"), [("scvi", scvi_of), ("scanvi", scanvi_of)])
def test_columns_are_those_of_scvi_tools_on_the_same_batches(model, of) -> None:
    run = reference(model, **({"target": "group"} if model == "scanvi" else {}))
    query = hospital(7, GROUPS)
    query.obs[SITE], query.obs["group"] = "h7", "unknown"
    torch.manual_seed(5)
    atlas = of(run)
    theirs = type(atlas).load_query_data(query, atlas)
    before = {name: weight.clone() for name, weight in theirs.module.state_dict().items()}
    steps = recorded(theirs.module)
    theirs.train(max_epochs=4, plan_kwargs={"weight_decay": 0.0}, train_size=1.0, batch_size=50, **QUIET)
    assert len(steps) == 12 and all(weight < 0.01 for _, weight, _ in steps)

    task, panel = run.model.header.build_task(), run.model.header.panel
    opened = run.model.module(run.key)
    ours, wider, columns = with_site(task, opened, panel, "h7", seed=5)
    assert wider["sites"] == ["h0", "h1", "h2", "h7"] and set(columns.values()) <= {63, 35, 7}
    assert len(columns) == 4 and sum(name.startswith("z_encoder") for name in columns) == 2
    for name in columns:  # a fresh module begins where theirs does
        weight = ours.get_parameter(name)
        with torch.no_grad():
            weight[:, columns[name]] = before[name][:, columns[name]]
    fit_columns(ours, columns, replayed(steps))
    after, old = theirs.module.state_dict(), opened.state_dict()
    for name, at in columns.items():
        weight = ours.get_parameter(name).detach()
        np.testing.assert_allclose(weight[:, at], after[name][:, at], atol=1e-5)
        assert (weight[:, at] - before[name][:, at]).abs().max() > 1e-3, "they were learned"
        assert torch.equal(weight[:, :at], old[name])
    for name, weight in ours.state_dict().items():
        assert name in columns or torch.equal(weight, old[name])


def test_a_mapped_site_is_in_the_locked_reference_which_stays_as_it_is(run) -> None:
    query, stored = hospital(7, GROUPS), {name: t.clone() for name, t in run.model.stored.items()}
    mapped = infl.tl.map_to(run.model, query, key=run.key, site="h7", epochs=5)
    assert all(torch.equal(t, stored[name]) for name, t in run.model.stored.items())
    grown = mapped.model
    assert grown.header.panel["sites"] == ["h0", "h1", "h2", "h7"] and grown.header.fingerprint == run.key.fingerprint()
    kept = [name for name in stored if grown.header.salts[name] == run.model.header.salts[name]]
    assert len(kept) == len(stored) - 4 and all(torch.equal(grown.stored[name], stored[name]) for name in kept)
    for name, t in grown.effective(None).items():
        if name not in kept:  # stored is not effective
            assert not torch.allclose(t, grown.effective(run.key)[name], atol=0.1)
    again = hospital(7, GROUPS)
    infl.tl.predict({"h7": again}, grown, key=run.key)
    np.testing.assert_allclose(again.obsm["X_infl"], query.obsm["X_infl"], atol=1e-5)
    old = hospital(0, GROUPS)
    infl.tl.predict({"h0": old}, grown, key=run.key)
    infl.tl.predict({"h0": (before := hospital(0, GROUPS))}, run)
    np.testing.assert_allclose(old.obsm["X_infl"], before.obsm["X_infl"], atol=1e-5)
    assert infl.tl.to_scvi(grown, query, key=run.key, site="h7").get_latent_representation().shape == (120, 4)


def test_columns_depend_on_the_cells_of_their_site_alone(run) -> None:
    first = infl.tl.map_to(run, hospital(7, GROUPS), site="h7", epochs=3).model
    both = infl.tl.map_to(first, hospital(8, GROUPS), key=run.key, site="h8", epochs=3).model
    alone = infl.tl.map_to(run, hospital(8, GROUPS), site="h8", epochs=3).model
    name = "decoder.px_decoder.fc_layers.Layer 0.0.weight"
    theirs, own = (m.effective(run.key)[name] for m in (both, alone))
    # a module of one column more begins elsewhere: with the same start they would be equal to the bit
    task = run.model.header.build_task()
    assert theirs.shape[1] == own.shape[1] + 1
    ends = []
    for reference in (run.model, first):
        module, panel, columns = with_site(task, reference.module(run.key), reference.header.panel, "h8", seed=1)
        with torch.no_grad():
            for weight, at in columns.items():
                module.get_parameter(weight)[:, at] = 0.01
        data = task.read(hospital(8, GROUPS), panel, site="h8")
        torch.manual_seed(0)
        fit_columns(module, columns, epochs_of(data, 32, 3, np.random.default_rng(0)))
        ends.append([module.get_parameter(weight).detach()[:, at] for weight, at in columns.items()])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_surgery_brings_a_new_site_nearer_to_the_reference_and_a_thief_no_head_start() -> None:
    sites = three_hospitals()
    run = infl.tl.fit_federated(sites, "scvi", rounds=10, kl_warmup=1.0, encode_covariates=True, **SMALL)
    task, panel = run.model.header.build_task(), run.model.header.panel
    late = hospital(9, GROUPS)
    late.X = late.X.multiply(np.where(np.arange(60) % 4 == 1, 4.0, 1.0)).tocsr().astype(np.float32)

    def bound(reference, epochs: int) -> float:
        module, wider, columns = with_site(task, reference, panel, "h9", seed=0)
        data = task.read(late, wider, site="h9")
        torch.manual_seed(0)
        fit_columns(module, columns, epochs_of(data, 32, epochs, np.random.default_rng(0)))
        return task.summarise(task.evaluate(module, data, np.arange(120)))["loss"]

    opened = run.model.module(run.key)
    assert (learned := bound(opened, 40)) < bound(opened, 0) - 1
    torch.manual_seed(1)
    scratch = bound(task.build(panel), 40)
    assert learned < scratch - 1 and bound(run.model.module(None), 40) > scratch


def test_without_the_key_the_columns_are_of_no_use(run) -> None:
    query = hospital(7, GROUPS)
    with pytest.warns(infl.errors.InflWarning, match="no key"):
        mapped = infl.tl.map_to(run.model, query, site="h7", epochs=1)
    assert mapped.model is None and query.obsm["X_infl"].shape == (120, 4)


def test_what_cannot_be(run) -> None:
    query = hospital(7, GROUPS)
    with pytest.raises(
        DataError, match=r"the data is no site of the fit \(h0, h1, h2\), and this model's encoder reads"
    ):
        infl.tl.predict(query, run)
    with pytest.raises(DataError, match="h7 is no site of the fit"):
        infl.tl.map_to(run, query, site="h7", epochs=0)
    with pytest.raises(SettingsError, match="which site_effect='local' keeps: choose one"):
        infl.models.Scvi(encode_covariates=True, site_effect="local")
    infl.tl.map_to(run, hospital(1, GROUPS), site="h1")  # a site of the fit: no column is learned


def test_a_model_of_scvi_tools_that_encodes_covariates_is_locked_and_mapped_to() -> None:
    from scvi.model import SCVI

    cells = ad.concat(three_hospitals().values())
    SCVI.setup_anndata(cells, batch_key="hospital")
    theirs = SCVI(cells, n_hidden=16, n_latent=3, encode_covariates=True, use_batch_norm="none", use_layer_norm="both")
    theirs.train(max_epochs=1, **QUIET)
    key = infl.keys.Keyring.create()
    locked = infl.tl.from_scvi(theirs, key=key)
    query = hospital(7, GROUPS)
    mapped = infl.tl.map_to(locked, query, key=key, site="h7", epochs=2)
    assert locked.header.options["encode_covariates"] and mapped.model.header.panel["sites"][-1] == "h7"
