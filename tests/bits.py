"""Digests of a fixed set of small runs: does a change of the code change a result by a single bit?

``python tests/bits.py compare REV`` runs the set in a worktree of a revision and here, and lists what differs; ``write FILE``
and ``check FILE`` keep the digests of one state and compare with them later. ``--flare`` adds a run between processes,
``--only WORD`` runs those whose name has the word. Digests depend on the processor and on the versions of libraries, so they
are compared on one machine and are not kept in the repository.

Keys, salts and names of runs come from a counter instead of the operating system (`fixed_bytes`).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
CASES: dict[str, Callable[[Record], None]] = {}
SMALL = {"target": "tumour_class", "rounds": 2, "width": 8, "n_blocks": 1}
RULES = {
    "fedavg": {},
    "fedprox": {"mu": 0.1},
    "fedadam": {},
    "fedyogi": {},
    "scaffold": {},
    "qfedavg": {},
    "afl": {},
    "fedbn": {},
    "partial": {"local": ["head"]},
}


# -- digests -----------------------------------------------------------------------------------------------------------
def digest(value: Any) -> str:
    """Return the SHA-256 of a value and of all that is in it, to the bit.

    Examples
    --------
    >>> digest({"x": np.float32([0.1])}) == digest({"x": np.float32([0.1])}) != digest({"x": np.float64([0.1])})
    True
    """
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Yield a value as bytes."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, pd.DataFrame):
        yield from _parts([list(map(str, value.columns)), np.asarray(value.index), *(value[c] for c in value)])
    elif isinstance(value, pd.Series):
        yield from _parts([str(value.dtype), value.to_numpy()])
    elif isinstance(value, MuData):
        yield from _parts([dict(value.mod), value.obs, value.obsm, value.uns])
    elif isinstance(value, AnnData):
        tables = (value.X, value.obs, value.var, value.layers, value.obsm, value.varm, value.obsp, value.uns)
        yield from _parts(list(tables))
    elif hasattr(value, "indptr"):
        yield from _parts([value.format, value.shape, value.data, value.indices, value.indptr])
    elif isinstance(value, Mapping):
        yield from _parts([[str(key), value[key]] for key in sorted(value, key=str)])
    elif isinstance(value, list | tuple | np.ndarray):
        yield f"{len(value)} items".encode()
        for item in value:
            yield from _parts(item)
    elif hasattr(value, "detach"):
        yield from _parts(value.detach().numpy())
    else:
        yield value if isinstance(value, bytes) else repr(value).encode()


@dataclass
class Record:
    """Collects the digests of one case."""

    found: dict[str, str] = field(default_factory=dict)
    fresh: bool = False
    """Whether seals are bound to keys that no seed fixes."""

    def add(self, name: str, value: Any) -> None:
        """Keep the digest of a value."""
        self.found[name] = digest(value)

    def run(self, run: Any, sites: Mapping[str, Any] | None = None, name: str = "") -> None:
        """Keep what is in the result of a fit, and what it wrote into the sites' objects."""
        stored = {key: tensor.detach() for key, tensor in run.model.stored.items()}
        self.add(f"{name}weights stored", stored)
        opens = run.key if run.model.header.fingerprint else None
        self.add(f"{name}weights opened", {key: tensor.detach() for key, tensor in run.model.effective(opens).items()})
        self.add(f"{name}private arrays", run.model.private_arrays(opens))
        self.add(f"{name}history", run.history)
        self.add(f"{name}settings", json.dumps(run.settings, sort_keys=True))
        ledger = run.ledger.drop(columns="time")
        ledger.loc[ledger["kind"] == "keys", ["context", "digest"]] = ""  # fresh public keys, which no seed fixes
        self.add(f"{name}ledger", ledger)
        self.add(f"{name}privacy", run.privacy or {})
        for site, model in run.site_models.items():
            self.add(f"{name}own weights of {site}", dict(model.stored))
        with tempfile.TemporaryDirectory() as folder:
            self.add(f"{name}file", run.save(Path(folder) / "m.infl.safetensors").read_bytes())
        for site, table in (sites or {}).items():
            self.add(f"{name}written at {site}", table)


def contents(path: Path) -> Any:
    """Return what is in a file; the order of names in the header of a safetensors file is another each time."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "numpy") as file:
        return [file.metadata(), {name: file.get_tensor(name) for name in file.keys()}]  # noqa: SIM118 - no mapping


@contextmanager
def fixed_bytes(name: str) -> Iterator[None]:
    """Let the operating system's random bytes follow from a name and a counter."""
    number = count()

    def drawn(length: int) -> bytes:
        return hashlib.shake_256(f"{name} {next(number)}".encode()).digest(length)

    with patch.object(os, "urandom", drawn):
        yield


@contextmanager
def contexts_of(record: Record) -> Iterator[None]:
    """Keep what the seals of a case were bound to, in order."""
    from infl.privacy.seal import Context

    seen, real = [], Context.digest

    def seeing(self: Context) -> bytes:
        seen.append(real(self))
        return seen[-1]

    with patch.object(Context, "digest", seeing):
        yield
    if not record.fresh:
        record.add("contexts of the seal", list(dict.fromkeys(seen)))


def case(function: Callable[[Record], None]) -> Callable[[Record], None]:
    """Enter a case under its function's name."""
    CASES[function.__name__] = function
    return function


def fit(record: Record, sites: Any, *args: Any, name: str = "", **options: Any) -> Any:
    """Fit, and keep the digests of what came out."""
    import infl

    key = infl.keys.Keyring.create() if options.get("lock", "field") else None
    run = infl.tl.fit_federated(sites, *args, key=key, progress=False, **options)
    record.run(run, sites if isinstance(sites, dict) else {"all": sites}, name)
    return run


# -- data --------------------------------------------------------------------------------------------------------------
def counts(seed: int, n_obs: int = 72, n_vars: int = 40) -> Any:
    """Return counts of spots in three stripes, with labels, donors and places."""

    rng = np.random.default_rng(seed)
    kind = np.arange(n_obs) * 3 // n_obs
    rate = rng.lognormal(0, 0.6, n_vars) * np.where(np.arange(n_vars) % 3 == kind[:, None], 4.0, 1.0)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.array(["B", "NK", "T"])[kind]),
            "donor": np.array(["x", "y"])[(np.arange(n_obs) + seed) % 2],
        },
        index=[f"{seed}_{i}" for i in range(n_obs)],
    )
    x = rng.poisson(rate * rng.lognormal(0, 0.3, (n_obs, 1))).astype(np.float32)
    x[:, 0] += 1
    adata = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene_{j}" for j in range(n_vars)]))
    adata.obsm["spatial"] = np.column_stack([np.arange(n_obs) // 6, np.arange(n_obs) % 6]).astype(float)
    return adata


def count_sites(sparse: bool = False) -> dict[str, Any]:
    """Return three sites of unequal size."""
    from scipy.sparse import csr_matrix

    sites = {f"s{i}": counts(i, 60 + 12 * i) for i in range(3)}
    if sparse:
        for adata in sites.values():
            adata.X = csr_matrix(adata.X)
    return sites


def logarithms() -> dict[str, Any]:
    """Return the same as logarithms."""
    sites = count_sites()
    for adata in sites.values():
        adata.X = np.log1p(adata.X)
    return sites


# -- the classifier under every protection and rule --------------------------------------------------------------------
def _protected(lock: str | None, seal: str) -> None:
    def run(record: Record) -> None:
        import infl

        fit(record, infl.datasets.khan_sites(), lock=lock, seal=seal, seed=3, **SMALL)

    CASES[f"classifier lock {lock} seal {seal}"] = run


for _lock in ("field", "published", None):
    for _seal in ("none", "group", "pairwise"):
        _protected(_lock, _seal)


def _ruled(rule: str, options: dict[str, Any]) -> None:
    def run(record: Record) -> None:
        import infl

        fit(record, infl.datasets.khan_sites(), aggregation=rule, aggregation_options=options, **SMALL)

    CASES[f"rule {rule}"] = run


for _rule, _options in RULES.items():
    _ruled(_rule, _options)


@case
def sampled_sites(record: Record) -> None:
    """Three of five sites a round, several passes, a metric that ends the run."""
    import infl

    options = SMALL | {"rounds": 4}
    fit(record, infl.datasets.khan_sites(), participation=0.6, local_epochs=2, patience=1, **options)


@case
def calibrated_classifier(record: Record) -> None:
    """Ranks, class weights and temperature; one object with a column of sites."""
    import anndata

    import infl

    together = anndata.concat(infl.datasets.khan_sites(), label="hospital")
    fit(record, together, site_key="hospital", standardise="rank", **SMALL)


@case
def differential_privacy(record: Record) -> None:
    """Records, and donors."""
    import infl

    options = SMALL | {"rounds": 3}
    dp = infl.privacy.DP(noise_multiplier=1.0, delta=1e-3, sample_rate=0.3)
    fit(record, infl.datasets.khan_sites(), privacy=dp, **options)
    dp = infl.privacy.DP(
        noise_multiplier=1.0, delta=1e-3, sample_rate=0.5, unit="donor", donor_key="donor", noise="local"
    )
    fit(record, logarithms(), privacy=dp, name="donors ", **options | {"target": "cell_type"})


@case
def checkpoints(record: Record) -> None:
    """Files of a run that is kept, and the run that goes on from them."""
    import infl

    with tempfile.TemporaryDirectory() as folder:
        key, options = infl.keys.Keyring.create(), {"checkpoint": folder, "progress": False, **SMALL}
        infl.tl.fit_federated(infl.datasets.khan_sites(), key=key, **options)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and "ledger" not in path.name:  # a ledger has the time in it
                record.add(f"file {path.relative_to(folder)}", contents(path))
        record.run(infl.tl.fit_federated(infl.datasets.khan_sites(), key=key, resume=True, **options), name="resumed ")


@case
def messages(record: Record) -> None:
    """Plans and answers as bytes on the wire, and the specification of the run."""
    import infl
    from infl.federation.agreement import Agreement
    from infl.federation.local import run_in_process
    from infl.federation.wire import encode

    sites, key = infl.datasets.khan_sites(), infl.keys.Keyring.create()
    task = infl.models.Classifier(**{k: v for k, v in SMALL.items() if k != "rounds"})
    agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2)
    record.add("agreement", agreement.to_json())
    seen: list[bytes] = []

    class Listening:
        def __init__(self, inner: Any) -> None:
            self.inner, self.holder = inner, inner.holder

        def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Any]) -> Iterator[Any]:
            seen.extend(encode(plan_for(site)) for site in cohort)
            for reply in self.inner.ask(cohort, plan_for):
                seen.append(encode(reply))
                yield reply

    outcome = run_in_process(agreement, task, sites, key, wrap=Listening)
    record.add("messages", seen)
    record.run(outcome.run)


# -- the other tasks ---------------------------------------------------------------------------------------------------
@case
def perturbation(record: Record) -> None:
    """Effects of genes that are measured, and of one that is not."""
    import infl

    sites = logarithms()
    for adata in sites.values():
        names = np.array(["control", "gene_1", "gene_2", "gene_3+gene_4"])[np.arange(adata.n_obs) % 4]
        adata.obs["perturbation"] = names
    graph = [("gene_1", "gene_2"), ("gene_2", "gene_5")]
    run = fit(record, sites, model="perturbation", rounds=2, graph=graph)
    record.add("predicted", infl.tl.predict_perturbations(run.model, ["gene_5", "gene_1+gene_2"], key=run.key))


@case
def mosaic(record: Record) -> None:
    """Three sites of which two lack a modality."""

    def table(seed: int, modality: str, n_vars: int) -> Any:
        adata = counts(seed, n_vars=n_vars)
        adata.var_names = [f"{modality}_{j}" for j in range(n_vars)]
        adata.obs = adata.obs[["cell_type"]]
        return adata

    def section(seed: int, **modalities: int) -> Any:
        mdata = MuData({m: table(seed, m, n) for m, n in modalities.items()})
        mdata.obsm["spatial"] = mdata[next(iter(modalities))].obsm["spatial"]
        return mdata

    sites = {"a": section(0, rna=18, adt=9), "b": section(1, rna=18), "c": section(2, adt=9)}
    options = {"n_domains": 3, "rounds": 2, "batch_size": 16, "width": 0, "n_latent": 4}
    fit(record, sites, model="mosaic", **options)


@case
def histology(record: Record) -> None:
    """Expression from patches of 8 × 8 pixels."""
    sites = count_sites()
    for i, adata in enumerate(sites.values()):
        rng = np.random.default_rng(i)
        shade = 60 + 40 * adata.obs["cell_type"].cat.codes.to_numpy()[:, None]
        adata.obsm["patches"] = np.clip(shade + rng.integers(-20, 20, (adata.n_obs, 192)), 1, 255).astype(np.uint8)
        adata.uns["patch_shape"] = np.array((8, 8, 3))
    fit(record, sites, model="histology", rounds=2)


@case
def spatial(record: Record) -> None:
    """Domains of sections."""
    fit(record, count_sites(True), model="spatial", n_domains=3, n_neighbors=4, rounds=3, steps=5)


@case
def scvi(record: Record) -> None:
    """The model of scvi-tools, and expression without noise from it."""
    import infl

    sites = count_sites(True)
    run = fit(record, sites, model="scvi", rounds=2, n_hidden=16, n_latent=4, batch_size=32)
    infl.tl.denoise(sites["s0"], run.model, key=run.key, site="s0")
    record.add("denoised", sites["s0"])


@case
def scanvi(record: Record) -> None:
    """Labels for a site without any."""
    sites = count_sites()
    sites["s2"].obs = sites["s2"].obs.drop(columns="cell_type")
    fit(record, sites, model="scanvi", target="cell_type", rounds=2, n_hidden=16, n_latent=4, batch_size=32)


@case
def adapter(record: Record) -> None:
    """Experts in a small language model, and text of each profile."""
    import tokenizers
    import torch
    import transformers

    import infl

    sites = infl.datasets.khan_sites()
    words = ["[PAD]", "[UNK]", "[BOS]", *sites["site_1"].var_names]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=24, n_embd=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=2
    )
    with tempfile.TemporaryDirectory() as folder:
        marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]"}
        base = f"{folder}/base"  # the run's specification has the name of the last folder
        transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **marks).save_pretrained(base)
        torch.manual_seed(0)
        transformers.GPT2Model(config).save_pretrained(base)
        options = {"length": 24, "r1": 2, "r2": 2, "intuition_rounds": 1, "base": base}
        fit(record, sites, "adapter", target=["tumour_class", "published_split"], rounds=2, **options)


# -- after a fit -------------------------------------------------------------------------------------------------------
@case
def tools(record: Record) -> None:
    """What is measured on a run, and what goes on from it."""
    import infl

    sites = infl.datasets.khan_sites()
    run = fit(record, sites, **SMALL)
    record.add("lock curve", infl.tl.lock_curve(run, sites, strengths=[0.2, 1.0], n_keys=2))
    record.add("site metrics", infl.tl.site_metrics(run, sites))
    personal = infl.tl.personalise(sites=sites, model=run, epochs=3)
    record.add("personal models", {site: dict(model.stored) for site, model in personal.models.items()})
    record.add("personal table", personal.table)
    record.add("strength", infl.tl.calibrate_lock(run, sites, no_key=0.4))
    for method in ("kmeans", "gmm", "leiden"):
        infl.tl.cluster(sites, None if method == "leiden" else 4, method=method, key=run.key, key_added=method)
    record.add("clusters", sites)


@case
def comparison(record: Record) -> None:
    """A table of methods."""
    import infl

    methods = ["infl", "infl_wrong_key", "infl_personal", "alone", "pooled", "published", "baseline"]
    sites = infl.datasets.khan_sites()
    table = infl.tl.compare(sites, seeds=1, methods=methods, progress=False, **SMALL)
    record.add("table", table.drop(columns=[c for c in table if "second" in c]))


@case
def attacks(record: Record) -> None:
    """An audit with some of the attacks; among them are machines, which make identities of their own."""
    import infl

    record.fresh = True

    sites = infl.datasets.khan_sites()
    run = infl.tl.fit_federated(sites, key=infl.keys.Keyring.create(), progress=False, **SMALL)
    names = [
        "wrong_key",
        "no_key",
        "analytic_leak",
        "ratio",
        "membership",
        "file_statistics",
        "downgrade",
        "extra_rounds",
    ]
    record.add(
        "audit", infl.tl.audit(run, sites, attacks=names, progress=False).drop(columns="seconds", errors="ignore")
    )


# -- before a fit ------------------------------------------------------------------------------------------------------
@case
def preprocessing_of_counts(record: Record) -> None:
    """Sums, totals and variable genes."""
    import infl

    for name, key in (("open ", None), ("sealed ", infl.keys.Keyring.create())):
        sites = count_sites(True)
        record.add(f"{name}quality", infl.pp.qc_summary(sites, key=key).__dict__)
        for flavor in ("seurat_v3", "seurat_v3_paper"):
            found = infl.pp.highly_variable_genes(sites, flavor=flavor, n_top_genes=10, inplace=False, key=key)
            record.add(f"{name}{flavor}", found)
        infl.pp.normalize_total(sites, key=key)
        record.add(f"{name}normalised", sites)
        infl.pp.log1p(sites)
        for flavor in ("seurat", "cell_ranger"):
            infl.pp.highly_variable_genes(sites, flavor=flavor, n_top_genes=10, key=key)
            record.add(f"{name}{flavor}", sites)
        donors = infl.pp.highly_variable_genes(sites, n_top_genes=10, batch_key="donor", inplace=False, key=key)
        record.add(f"{name}by donor", donors)


@case
def preprocessing_of_logarithms(record: Record) -> None:
    """Moments, components, scaling."""
    import infl

    for name, key in (("open ", None), ("sealed ", infl.keys.Keyring.create())):
        sites = logarithms()
        record.add(f"{name}moments", infl.pp.moments(sites, inplace=False, key=key))
        infl.pp.pca(sites, 5, key=key)
        record.add(f"{name}components", sites)
        infl.pp.pca(sites, 5, svd_solver="randomized", key_added="again", key=key)
        record.add(f"{name}randomised components", sites)
        infl.pp.scale(sites, max_value=3, key=key)
        record.add(f"{name}scaled", sites)


@case
def harmonised(record: Record) -> None:
    """Sites that differ in genes and labels, and one object that is dealt out."""
    import infl

    sites = infl.datasets.khan_sites()
    sites["site_1"] = sites["site_1"][:, 5:].copy()
    sites["site_2"] = sites["site_2"][:, ::-1].copy()
    for features in ("intersection", "union"):
        these = {site: adata.copy() for site, adata in sites.items()}
        infl.pp.harmonise(these, target="tumour_class", features=features)
        record.add(features, these)
    record.add("panel", infl.pp.panel_of(these, target="tumour_class").__dict__)
    record.add("split", infl.pp.split_sites(infl.datasets.khan(), 4, stratify="tumour_class", alpha=0.5, seed=3))


@case
def patches(record: Record) -> None:
    """Patches of an image."""
    import infl

    x, y = np.meshgrid(np.arange(200), np.arange(100))
    image = np.stack([x, y, np.full_like(x, 9)], 2).astype(np.uint8)
    adata = AnnData(np.ones((2, 2)), obsm={"spatial": np.array([[100.0, 100.0], [300.0, 60.0]])})
    factors = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 55.0}
    adata.uns["spatial"] = {"lib": {"images": {"hires": image}, "scalefactors": factors}}
    infl.pp.cut_patches(adata, size=40.0, pixels=16)
    record.add("patches", adata.obsm["patches"])


# -- between processes -------------------------------------------------------------------------------------------------
def between_processes(record: Record) -> None:
    """Three sites and a coordinator over mutual TLS; keys and names are the operating system's, so weights are unlocked."""
    import infl

    record.fresh = True
    from infl.federation.agreement import Agreement

    module = _first("infl.deploy.flare.local_consortium", "infl.deploy.flare.rehearsal")
    network_class = getattr(module, "LocalConsortium", None) or module.Rehearsal
    sites, key = logarithms(), infl.keys.Keyring.create()
    task = infl.models.Classifier(target="cell_type", width=8, n_blocks=1)
    policy = 'min_sites = 2\nask = false\ntargets = ["cell_type"]\npanels = ["*"]\nseals = ["group", "pairwise"]\n'
    with tempfile.TemporaryDirectory() as folder:
        network = network_class(Path(folder) / "network", sites, key)
        for site in sites:
            (network.root / site / "policy.toml").write_text(policy + 'locks = ["none"]\nmin_strength = 0\n')
        agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=2, lock=None, seal="group")
        run = network.begin("bits", agreement)
        with network.sites_up():
            network.supervise("bits")
        record.add("exchanges", [[row["seq"], row["responders"]] for row in run.exchanges()])
        for site in sites:
            model = infl.load_model(network.root / site / "runs" / agreement.run / "model.infl.safetensors")
            record.add(f"weights at {site}", dict(model.stored))


def _first(*modules: str) -> Any:
    """Import the first of some modules that is there: it was moved."""
    for name in modules[:-1]:
        with suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    return importlib.import_module(modules[-1])


# -- the set -----------------------------------------------------------------------------------------------------------
def digests(only: str = "", flare: bool = False) -> dict[str, dict[str, str]]:
    """Run the cases and return their digests; one that fails has the error instead."""
    import torch

    torch.set_num_threads(1)
    chosen = {name: run for name, run in CASES.items() if only in name}
    found = {}
    for name, run in chosen.items():
        record = Record()
        with fixed_bytes(name), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _try(record, run)
        found[name] = record.found
    if flare:
        _try(record := Record(), between_processes)
        found["between_processes"] = record.found
    return found


def _try(record: Record, run: Callable[[Record], None]) -> None:
    with contexts_of(record):
        try:
            run(record)
        except Exception as error:  # noqa: BLE001 - of whatever kind, it is what came out
            record.found["error"] = digest(f"{type(error).__name__}: {error}")
            print(f"{type(error).__name__}: {error}", file=sys.stderr)


def differences(before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return one line for each digest that is not the same, or is on one side only.

    Examples
    --------
    >>> differences({"a": {"x": "1", "y": "2"}}, {"a": {"x": "1", "y": "3"}, "b": {}})
    ['a: y differs', 'b: only after']
    """
    lines = [f"{name}: only {'after' if name in after else 'before'}" for name in sorted(before.keys() ^ after.keys())]
    for name in before.keys() & after.keys():
        one, other = before[name], after[name]
        lines += [f"{name}: {what} differs" for what in one.keys() | other.keys() if one.get(what) != other.get(what)]
    return sorted(lines)


def digests_of(revision: str, options: list[str]) -> dict[str, dict[str, str]]:
    """Run this file's set on the package of a revision, in a worktree that is taken away again."""
    with tempfile.TemporaryDirectory() as folder:
        tree, file = Path(folder) / "tree", Path(folder) / "digests.json"
        subprocess.run(
            ["git", "worktree", "add", "--detach", tree, revision], cwd=ROOT, check=True, capture_output=True
        )
        try:
            return _in_process(tree / "src", file, options)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def _in_process(source: Path, file: Path, options: list[str]) -> dict[str, dict[str, str]]:
    env = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    subprocess.run([sys.executable, __file__, "write", str(file), *options], env=env, check=True)
    return json.loads(file.read_text())


def main() -> int:
    """Write digests, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["write", "check", "compare"])
    parser.add_argument("what", help="a file for write and check, a revision for compare")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases whose name has this in it")
    parser.add_argument("--flare", action="store_true", help="also between processes (a minute more)")
    asked = parser.parse_args()
    if asked.action == "write":
        found = digests(asked.only, asked.flare)
        Path(asked.what).write_text(json.dumps(found, indent=1) + "\n")
        return 0
    options = ["--only", asked.only, *(["--flare"] if asked.flare else [])]
    with tempfile.TemporaryDirectory() as folder:
        after = _in_process(ROOT / "src", Path(folder) / "digests.json", options)
    if asked.action == "check":
        before = json.loads(Path(asked.what).read_text())
        before = {name: found for name, found in before.items() if name in after or not asked.only}
    else:
        before = digests_of(asked.what, options)
    lines = differences(before, after)
    print("\n".join(lines) or f"the same bits: {sum(map(len, after.values()))} digests of {len(after)} cases")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
