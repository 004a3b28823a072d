"""Every model's panel can be written at each site, joined, and read again as that of all sites together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from infl.cli.app import app
from infl.cli.options import MODEL_NAMES
from infl.deploy.runfile import RunFile, read_panel
from infl.errors import SettingsError
from infl.models.registry import TASKS, make_task

N = 64
GENES = [f"g{i}" for i in range(12)]
SITES = ("a", "b")


def counts(site: str, genes: list[str] = GENES) -> ad.AnnData:
    """Spots on a square with counts, patches and columns of all kinds; the second site has its own labels."""
    rng, second = np.random.default_rng(SITES.index(site)), site == "b"
    adata = ad.AnnData(
        rng.poisson(4.0, (N, len(genes))).astype(np.float32),
        obs=pd.DataFrame(
            {"kind": list("xyzu" if second else "xyvw") * (N // 4)}, index=[f"{site}{i}" for i in range(N)]
        ),
        obsm={"spatial": np.indices((8, 8)).reshape(2, -1).T * 100.0},
    )
    adata.var_names = genes
    adata.obs["perturbation"] = ["control", "g1", "g2", "g3+g4" if second else "g1+g5"] * (N // 4)
    adata.obs["batch"] = [f"{site}{i % 2}" for i in range(N)]
    adata.obs["age"], adata.obs["months"] = rng.normal(60, 9, N), rng.exponential(20, N)
    adata.obs["died"] = np.arange(N) % 2
    adata.obsm["patches"] = rng.integers(1, 255, (N, 8 * 8 * 3)).astype(np.uint8)
    adata.uns["patch_shape"] = np.array([8, 8, 3])
    return adata


def logs(site: str) -> ad.AnnData:
    adata = counts(site, GENES if site == "a" else GENES[::-1][:-1])
    adata.X = np.log1p(adata.X)
    return adata


def several(site: str) -> md.MuData:
    """Site a has transcripts and proteins, site b transcripts and open chromatin."""
    rna, other = counts(site), counts(site, [f"p{i}" for i in range(6)] if site == "a" else [f"o{i}" for i in range(9)])
    other.X = other.X if site == "a" else (other.X > 4).astype(np.float32)
    both = md.MuData({"rna": rna, "adt" if site == "a" else "atac": other})
    both.obsm["spatial"] = rna.obsm["spatial"]
    return both


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "classifier": (logs, {"target": "kind"}),
    "perturbation": (logs, {"target": "perturbation", "validation": 0.4}),
    "scvi": (counts, {"categorical_covariates": ["batch"]}),
    "scanvi": (counts, {"target": "kind"}),
    "spatial": (counts, {"n_domains": 2, "n_latent": 4}),
    "mosaic": (several, {}),
    "histology": (counts, {}),
    "regressor": (logs, {"target": "age"}),
    "survival": (logs, {"time": "months", "event": "died"}),
    "labels": (logs, {"target": ["kind", "batch"]}),
    "adapter": (counts, {"target": ["kind", "batch"], "base": ""}),
}


def written(folder: Path, model: str) -> dict[str, Any]:
    """Write the sites' data; return them, and the model's base where it has one."""
    make, _ = CASES[model]
    for site in SITES:
        data = make(site)
        data.write(folder / f"{site}.{'h5mu' if model == 'mosaic' else 'h5ad'}")
    return {site: make(site) for site in SITES}


def write_base(folder: Path) -> str:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[BOS]", *GENES])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained(folder)
    config = transformers.GPT2Config(vocab_size=len(words), n_positions=24, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2Model(config).save_pretrained(folder)
    return str(folder)


def typed(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_all_models_are_named_in_the_help() -> None:
    assert MODEL_NAMES.replace(" or", ",").split(", ") == sorted(TASKS) == sorted(CASES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", CASES)
def test_a_panel_is_written_at_each_site_joined_and_read_again(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, options = written(tmp_path, model), dict(CASES[model][1])
    if model == "adapter":
        options["base"] = write_base(tmp_path / "base")
    typed_options = []
    for name, value in options.items():
        if name == "target" and isinstance(value, str):
            typed_options += ["--target", value]
        else:
            typed_options += ["--option", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    suffix = "h5mu" if model == "mosaic" else "h5ad"
    for site in SITES:
        done = typed("run", "panel", f"{site}.{suffix}", "--model", model, *typed_options, "--out", f"{site}.json")
        assert done.exit_code == 0, done.exception
        assert " features" in done.output
    done = typed("run", "panel", "a.json", "b.json", "--model", model, *typed_options)
    assert done.exit_code == 0, done.exception
    together = make_task(model, options).agree(data)
    together = json.loads(json.dumps(together))
    joined = read_panel(tmp_path / "panel.json")
    assert set(joined) == set(together)
    for kind in together:
        if kind == "features":
            assert sorted(joined[kind]) == sorted(together[kind])
        else:
            assert joined[kind] == together[kind], kind


def test_the_panel_names_the_sites_of_the_run(tmp_path: Path) -> None:
    counts("a").write_h5ad(tmp_path / "cohort.h5ad")
    out = tmp_path / "panel.json"
    done = typed("run", "panel", tmp_path / "cohort.h5ad", "--model", "scvi", "--site", "hospital_a", "--out", out)
    assert done.exit_code == 0, done.exception
    assert read_panel(out)["sites"] == ["hospital_a"]
    (tmp_path / "run.toml").write_text(RunFile.template("scvi").replace('fingerprint = ""', 'fingerprint = "abcd"'))
    with pytest.raises(SettingsError, match=r"panel\.json is of the sites hospital_a: name them as in sites"):
        RunFile.read(tmp_path / "run.toml").agreement()


def test_options_that_are_none(tmp_path: Path) -> None:
    done = typed("run", "panel", "a.h5ad", "--option", "width")
    assert isinstance(done.exception, SettingsError) and "write it as NAME=VALUE" in str(done.exception)
    done = typed("run", "panel", "a.json", "--site", "x", "--target", "y")
    assert isinstance(done.exception, SettingsError) and "--site names one site" in str(done.exception)
