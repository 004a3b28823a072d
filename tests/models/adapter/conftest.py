"""Shared by the tests of this folder."""

import pytest
import torch
from sklearn.decomposition import PCA

import infl

TASKS = ["tumour_class", "published_split"]


OPTIONS = {"length": 24, "r1": 2, "r2": 2, "intuition_rounds": 2, "lr": 0.01}


def write_base(folder, *, seed=0):
    """A small model whose gene embeddings are those of a principal component analysis; it knows no labels."""
    import tokenizers
    import transformers

    adata = infl.datasets.khan()
    genes = adata.var_names
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[BOS]", *genes])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=len(vocabulary), n_positions=24, n_embd=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=2
    )
    model = transformers.GPT2Model(config)
    loadings = PCA(16, random_state=0).fit(adata.X).components_.T
    model.wte.weight.data[3:] = torch.from_numpy(loadings / loadings.std()).float()
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


def fit(sites, base, **options):
    key = infl.keys.Keyring.create()
    run = infl.tl.fit_federated(
        sites, "adapter", target=TASKS, key=key, base=base, progress=False, **{"rounds": 2} | OPTIONS | options
    )
    return run, key
