"""Small models are trained on one thread, whatever the user or another library has set."""

from collections.abc import Iterator

import pytest
import torch
from anndata import AnnData
from torch import Tensor

import infl._threads
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.models import Classifier

seen_threads: set[int] = set()


class Watched(Classifier):
    """Notes how many threads a loss is computed on."""

    def losses(self, module: torch.nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        seen_threads.add(torch.get_num_threads())
        return super().losses(module, batch)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    seen_threads.clear()
    try:
        torch.set_num_threads(3)
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(("largest", "expected"), [(infl._threads.SMALL, 1), (10, 3)])
def test_threads_of_a_fit(
    small_sites: dict[str, AnnData],
    three_threads: None,
    monkeypatch: pytest.MonkeyPatch,
    stacked: bool,
    largest: int,
    expected: int,
) -> None:
    monkeypatch.setattr(infl._threads, "SMALL", largest)
    task = Watched(target="label", width=8, n_blocks=1)
    agreement = Agreement.new(
        task, task.agree(small_sites), small_sites, None, rounds=2, lock=None, seal="none", min_sites=3
    )
    run_in_process(agreement, task, small_sites, None, stacked=stacked)
    assert seen_threads == {expected}
    assert torch.get_num_threads() == 3


def test_threads_are_given_back_after_an_error(three_threads: None) -> None:
    with pytest.raises(RuntimeError, match="on purpose"), infl._threads.threads_for(1):
        assert torch.get_num_threads() == 1
        raise RuntimeError("on purpose")
    assert torch.get_num_threads() == 3
