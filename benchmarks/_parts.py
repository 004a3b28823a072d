"""Where a fit's time and memory go, for performance.py: ``python _parts.py MODEL time`` or ``python _parts.py MODEL memory``.

Parts are functions of the package, watched from outside. Time is processor time without that of a part inside a part; memory is
how far the resident size rose above what it was when a part began, most of all its calls (with ``MALLOC_MMAP_THRESHOLD_=65536``
freed memory goes back at once, and does not count for who had it first). A first fit is not counted, which loads what is loaded
late; one fit of one round and one of more give what a round takes, and what comes once.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch

import infl.federation.coordinator
import infl.federation.replica
from _backed import N_TYPES, counts
from _memory import resident
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.federation.stacked import _Losses
from infl.keys import Keyring
from infl.models.registry import make_task
from infl.models.task import SiteData
from infl.nn.steps import Stepper
from infl.privacy.seal import GroupSeal, Ledger

N_SITES, ROUNDS = 4, 6
REST = "engine: plans, messages, everything else"


class Parts:
    """What is spent in which part, now and inside."""

    def __init__(self, memory: bool) -> None:
        self.memory = memory
        self.seconds, self.bytes = Counter(), Counter()
        self.open = [(REST, self._now())]
        self._begun = time.process_time()

    def _now(self) -> int:
        return resident()[0] if self.memory else 0

    def _settle(self) -> None:
        """Count what was spent since the last call for the part that runs, and the peak for all parts that are open."""
        now = time.process_time()
        self.seconds[self.open[-1][0]] += now - self._begun
        self._begun = now
        if self.memory:
            peak = resident()[1]
            for name, before in self.open:
                self.bytes[name] = max(self.bytes[name], peak - before)
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here

    def watch(self, owner: object, name: str, part: str) -> None:
        function = getattr(owner, name)

        def watched(*arguments, **options):
            self._settle()
            self.open.append((part, self._now()))
            try:
                return function(*arguments, **options)
            finally:
                self._settle()
                self.open.pop()

        setattr(owner, name, watched)

    def forget(self) -> None:
        """Count memory from here."""
        self._settle()
        self.bytes.clear()
        self.open = [(REST, self._now())]

    def taken(self) -> dict[str, float]:
        self._settle()
        return dict(self.seconds)


def named(x, number: int, obs: dict, **more) -> anndata.AnnData:
    names = [f"{number}_{i}" for i in range(x.shape[0])]
    var = pd.DataFrame(index=[f"g{i}" for i in range(x.shape[1])])
    return anndata.AnnData(x, obs=pd.DataFrame(obs, index=names), var=var, **more)


def cells(n_genes: int, n_cells: int) -> dict[str, anndata.AnnData]:
    """Synthetic counts as those of the benchmark on disk."""
    rng, sites = np.random.default_rng(0), {}
    profiles = rng.gamma(0.25, size=n_genes) * rng.lognormal(0, 1.0, size=(N_TYPES, n_genes)) + 1e-3
    profiles /= profiles.sum(1, keepdims=True)
    for number in range(N_SITES):
        types = rng.integers(N_TYPES, size=n_cells)
        obs = {"type": pd.Categorical([f"t{t}" for t in types])}
        sites[f"site_{number}"] = named(counts(rng, profiles, types), number, obs)
    return sites


def sections(n_side: int, n_genes: int, size: int) -> dict[str, anndata.AnnData]:
    """Spots on a square with patches of noise and counts."""
    rng, sites = np.random.default_rng(0), {}
    for number in range(N_SITES):
        place = np.stack(np.indices((n_side, n_side)), -1).reshape(-1, 2)
        patches = rng.integers(60, 240, (len(place), size * size * 3)).astype(np.uint8)
        x = rng.poisson(5.0, (len(place), n_genes)).astype(np.float32)
        more = {
            "obsm": {"spatial": place * 100.0, "patches": patches},
            "uns": {"patch_shape": np.array([size, size, 3])},
        }
        sites[f"site_{number}"] = named(x, number, {"section": f"s{number}"}, **more)
    return sites


def base_model(folder: str, genes: list[str]) -> str:
    """Write a small language model over names of genes."""
    import tokenizers
    import transformers

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[BOS]", *genes])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4}
    config = transformers.GPT2Config(vocab_size=len(words), bos_token_id=2, eos_token_id=2, **shape)
    transformers.GPT2Model(config).save_pretrained(folder)
    return folder


def case(model: str, folder: str) -> tuple[object, dict[str, anndata.AnnData]]:
    """Return task and sites."""
    if model == "histology":
        return make_task(model, {"section_key": "section"}), sections(16, 250, 64)
    sites = cells(1000, 60 if model == "adapter" else 2000)
    options = {"classifier": {"target": "type", "batch_size": 128}, "scvi": {"batch_size": 128}}
    if model == "adapter":
        base = base_model(folder, list(sites["site_0"].var_names))
        options["adapter"] = {"target": ["type"], "base": base, "intuition_rounds": 1}
    return make_task(model, options[model]), sites


def kinds(parent: type) -> list[type]:
    return [parent, *(kind for child in parent.__subclasses__() for kind in kinds(child))]


def main(model: str, memory: bool) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        task, sites = case(model, folder)
        parts, key = Parts(memory), Keyring.create()
        for kind in kinds(SiteData):
            if "batch" in vars(kind):
                parts.watch(kind, "batch", "read a batch")
        own = type(task)
        for owner, name, part in (
            (own, "agree", "agree on features and classes"),
            (own, "read", "read the sites' data"),
            (own, "measure", "sums beside training"),
            (own, "loss", "forward pass"),
            (_Losses, "__call__", "forward pass"),
            (torch.Tensor, "backward", "backward pass"),
            (Stepper, "step", "step"),
            (own, "evaluate", "judge a round"),
            (own, "evaluate_each", "judge a round"),
            (GroupSeal, "seal", "seal"),
            (Ledger, "record", "ledger"),
            (infl.federation.coordinator, "add", "add"),
            (GroupSeal, "unseal", "open"),
            (infl.federation.replica, "lock_model", "lock"),
        ):
            if hasattr(owner, name):
                parts.watch(owner, name, part)
        taken, outcome = [], None
        for rounds in (1, 1, ROUNDS):
            before = parts.taken()
            agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=rounds)
            outcome = run_in_process(agreement, task, sites, key)
            after = parts.taken()
            taken.append({name: value - before.get(name, 0.0) for name, value in after.items()})
            if len(taken) == 1:
                parts.forget()
        names = list(parts.seconds)
        a_round = {name: (taken[2].get(name, 0.0) - taken[1].get(name, 0.0)) / (ROUNDS - 1) for name in names}
        once = {name: max(taken[1].get(name, 0.0) - a_round[name], 0.0) for name in names}
        weights = outcome.replica.flat_model.shared.total
    print(json.dumps({"round": a_round, "once": once, "bytes": parts.bytes, "weights": weights}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "memory")
