"""Eight omics tasks as cell sentences, and a small GPT-2 that has read such sentences but no label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

import infl
from panels import use_data_folder

LENGTH, WIDTH, LAYERS = 32, 64, 2
SPECIAL = ("[PAD]", "[UNK]")


@dataclass
class Task:
    """One task: sentences, classes, and which observations judge (never pretrained, trained or chosen on)."""

    name: str
    ids: Tensor
    mask: Tensor
    y: Tensor
    test: np.ndarray

    @property
    def n_classes(self) -> int:
        return int(self.y.max()) + 1

    def parts(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation observations of a seed: four fifths and one fifth of what is not for testing."""
        rest = np.random.default_rng(seed).permutation(np.flatnonzero(~self.test))
        return rest[len(rest) // 5 :], rest[: len(rest) // 5]


def tables() -> Iterator[tuple[str, AnnData, list[str]]]:
    """Data sets, each with the columns to learn."""
    use_data_folder()
    yield "khan", infl.datasets.khan(), ["tumour_class"]
    breast = infl.datasets.breast_tcga()
    for modality in ("rna", "mirna"):
        table = breast.mod[modality].copy()
        table.obs["subtype"] = breast.obs["subtype"].reindex(table.obs_names)
        yield f"breast {modality}", table, ["subtype"]
    yield "stem cells", infl.datasets.stemcells(), ["cell_type"]
    her2st = infl.datasets.her2st_labelled()
    yield "her2st", her2st[her2st.obs["region"] != "undetermined"].copy(), ["region", "section"]
    papalexi = infl.datasets.papalexi()
    few = np.random.default_rng(0).permutation(papalexi.n_obs)[:3000]
    papalexi = papalexi[np.sort(few)].copy()
    known = papalexi.obs["perturbation"].isin(["control", "IFNGR1", "IFNGR2", "JAK2", "STAT1", "STAT2"])
    papalexi.obs["stimulus"] = np.where(papalexi.obs["perturbation"] == "control", "control", "interferon pathway")
    papalexi.obs.loc[~known, "stimulus"] = np.nan
    yield "papalexi", papalexi, ["replicate", "stimulus"]


def suite() -> tuple[list[Task], Tensor, list[str]]:
    """Return the tasks, the sentences to pretrain on, and the vocabulary."""
    vocabulary = {word: i for i, word in enumerate(SPECIAL)}
    tasks, corpus = [], []
    for name, adata, columns in tables():
        test = np.random.default_rng(1).random(adata.n_obs) < 0.3
        tokens = np.asarray([vocabulary.setdefault(gene, len(vocabulary)) for gene in adata.var_names])
        ids, mask = _sentences(_centred(adata, ~test), tokens)
        corpus.append(ids[~test])
        for column in columns:
            labels = pd.Categorical(adata.obs[column])
            has = labels.codes >= 0
            y = torch.from_numpy(labels.codes[has].astype(np.int64))
            tasks.append(Task(f"{name}: {column}", ids[has], mask[has], y, test[has]))
    return tasks, torch.cat(corpus), list(vocabulary)


def _centred(adata: AnnData, train: np.ndarray) -> np.ndarray:
    """Each gene's deviation from its mean over the training part; of log-normalised values, for counts."""
    x = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    x = x.astype(np.float64)
    if x.min() >= 0 and np.array_equal(x, np.rint(x)):
        x = np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e3)
    return x - x[train].mean(0)


def _sentences(x: np.ndarray, tokens: np.ndarray) -> tuple[Tensor, Tensor]:
    best = np.argsort(-x, axis=1, kind="stable")[:, :LENGTH]
    high = np.take_along_axis(x, best, 1) > 0
    return torch.from_numpy(np.where(high, tokens[best], 0)), torch.from_numpy(high.astype(np.int64))


def pretrain(corpus: Tensor, n_words: int, *, steps: int = 200, seed: int = 0) -> torch.nn.Module:
    """Train a GPT-2 to say the next word (or gene) of a sentence, and return it without its head.

    Its word embeddings begin as those of a latent semantic analysis of the same sentences, which saves most of the steps.
    """
    from sklearn.decomposition import TruncatedSVD
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    length = corpus.shape[1]
    config = GPT2Config(
        vocab_size=n_words, n_positions=length, n_embd=WIDTH, n_layer=LAYERS, n_head=4, bos_token_id=1, eos_token_id=1
    )
    model = GPT2LMHeadModel(config).train()
    rows = np.repeat(np.arange(len(corpus)), length)
    bags = sparse.csr_matrix((np.ones(len(rows)), (rows, corpus.numpy().ravel())), shape=(len(corpus), n_words))
    bags = bags.multiply(1 / np.sqrt(np.maximum(bags.sum(0), 1))).tocsr()
    genes = TruncatedSVD(WIDTH, random_state=seed).fit(bags).components_.T
    model.transformer.wte.weight.data = torch.from_numpy(0.1 * genes / genes.std(0)).float()
    model.tie_weights()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    for _ in range(steps):
        ids = corpus[torch.randint(len(corpus), (32,))]
        loss = model(input_ids=ids, attention_mask=(ids > 0).long(), labels=ids.masked_fill(ids == 0, -100)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    print(f"pretrained on {len(corpus)} sentences: loss {float(loss):.2f}, uniform {np.log(n_words):.2f}", flush=True)
    return model.transformer.eval()


def save_base(model: torch.nn.Module, words: list[str], folder: Path) -> str:
    """Write the model and its tokenizer as ``model="adapter"`` takes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL[1]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=SPECIAL[0], unk_token=SPECIAL[1]).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)
