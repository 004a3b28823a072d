import numpy as np
import pytest
import torch

from infl.errors import DataError, FileError
from infl.nn.trex.semantic_prior import SemanticPrior, TaskPrior, TokenPrior

DIRECTIONS = {"cat": [5.0, 0.0, 0.0], "dog": [0.0, 0.1, 0.0], "yeast": [0.0, 0.0, -3.0]}


def embedder(texts):
    """Three topics in three directions, of any length."""
    return [np.asarray(DIRECTIONS[text.split()[0]]) * (1 + len(text)) for text in texts]


def test_centroids_are_directions_and_the_prior_says_which_is_near():
    texts = ["cat", "dog", "yeast", "cat", "cat sat"]
    semantic = SemanticPrior.fit(texts, embedder, n_experts=3)
    prior = semantic(["dog that runs", "yeast"])
    torch.testing.assert_close(semantic.centroids.norm(dim=1), torch.ones(3))
    dog, yeast = prior.argmax(1)
    assert dog != yeast
    torch.testing.assert_close(prior.max(1).values, torch.ones(2))
    torch.testing.assert_close(prior.sum(1), torch.ones(2))  # at right angles to the others


def test_one_seed_gives_one_set_of_centroids(khan):
    khan.obsm["X_half"] = khan.X[:, :20]
    first, again = (SemanticPrior.fit(khan, "X_half", n_experts=8, seed=3) for _ in range(2))
    assert torch.equal(first.centroids, again.centroids)


def test_centroids_survive_a_file(tmp_path):
    semantic = SemanticPrior.fit(["cat", "dog", "yeast"], embedder, n_experts=2)
    semantic.save(tmp_path / "centroids.safetensors")
    back = SemanticPrior.load(tmp_path / "centroids.safetensors", embedder)
    assert torch.equal(back(["cat"]), semantic(["cat"]))
    with pytest.raises(FileError, match="has no centroids"):
        SemanticPrior.load(tmp_path / "nothing.safetensors", embedder)


def test_what_cannot_work_is_said(khan):
    with pytest.raises(DataError, match="3 different inputs cannot make 4 centroids"):
        SemanticPrior.fit(["cat", "dog", "yeast", "cat"], embedder, n_experts=4)
    with pytest.raises(DataError, match=r"no obsm\['X_pca'\]"):
        SemanticPrior.fit(khan, "X_pca")


def test_the_mean_of_tokens_leaves_padding_out():
    semantic = TokenPrior(torch.eye(4), torch.eye(4)[:3])
    ids, mask = torch.tensor([[0, 1, 3], [0, 1, 2]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    found = semantic({"input_ids": ids, "attention_mask": mask})
    torch.testing.assert_close(found, torch.tensor([[2**-0.5, 2**-0.5, 0], [3**-0.5] * 3]))


def topics(tasks, seed=0):
    """Embeddings in which a small part says the task, and much else varies more."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(len(tasks), 6))
    found[:, :3] += 8 * np.eye(3)[tasks]
    return found


@pytest.mark.parametrize("n", [2, 3])
def test_the_prior_of_tasks_tells_them_apart_and_is_standardised(n):
    tasks = np.arange(300) % n
    prior = TaskPrior.fit(topics(tasks), lambda x: x, tasks=tasks)
    found = prior(topics(tasks))
    torch.testing.assert_close(found.mean(0), torch.zeros(n), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(0), torch.ones(n), atol=1e-5, rtol=0)
    new = np.arange(90) % n
    assert (prior(topics(new, seed=1)).argmax(1).numpy() == new).mean() > 0.95


def test_a_prior_of_tasks_survives_a_file(tmp_path):
    tasks = np.arange(30) % 3
    prior = TaskPrior.fit(topics(tasks), lambda x: x, tasks=tasks)
    prior.save(tmp_path / "tasks.safetensors")
    back = TaskPrior.load(tmp_path / "tasks.safetensors", lambda x: x)
    assert torch.equal(back(topics(tasks, seed=2)), prior(topics(tasks, seed=2)))
    with pytest.raises(FileError, match="has no prior of tasks"):
        TaskPrior.load(tmp_path / "nothing.safetensors", lambda x: x)


def test_a_prior_of_one_task_is_refused():
    with pytest.raises(DataError, match="two tasks or more"):
        TaskPrior.fit(topics([0, 0, 0]), lambda x: x, tasks=[0, 0, 0])
    with pytest.raises(DataError, match="3 inputs and 2 tasks"):
        TaskPrior.fit(topics([0, 1, 0]), lambda x: x, tasks=[0, 1])
