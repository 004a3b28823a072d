"""A fit neither depends on torch's defaults nor changes them."""

import threading
from collections.abc import Callable, Iterator

import pandas as pd
import pytest
import torch
from anndata import AnnData

import infl


def fitted(sites: dict[str, AnnData]) -> pd.DataFrame:
    run = infl.tl.fit_federated(
        {name: adata.copy() for name, adata in sites.items()},
        target="tumour_class", rounds=2, width=8, progress=False, min_sites=2,
    )  # fmt: skip
    return run.history


@pytest.fixture
def defaults() -> Iterator[None]:
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_device("meta"),
    ],
    ids=["dtype", "device"],
)
def test_defaults_of_the_user(khan_sites: dict[str, AnnData], defaults: None, change: Callable[[], None]) -> None:
    expected = fitted(khan_sites)
    change()
    before = torch.get_default_dtype(), torch.get_default_device()
    assert fitted(khan_sites).equals(expected)
    assert (torch.get_default_dtype(), torch.get_default_device()) == before


def test_without_gradients(khan_sites: dict[str, AnnData]) -> None:
    expected = fitted(khan_sites)
    with torch.inference_mode():
        assert fitted(khan_sites).equals(expected)


def test_two_fits_at_once(khan_sites: dict[str, AnnData], defaults: None) -> None:
    few = {name: khan_sites[name] for name in list(khan_sites)[:2]}  # too few for a stack: torch's own generator
    expected = fitted(khan_sites), fitted(few)
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    got: dict[int, pd.DataFrame] = {}
    begin = threading.Barrier(3)

    def work(number: int, sites: dict[str, AnnData]) -> None:
        begin.wait()
        got[number] = fitted(sites)

    workers = [threading.Thread(target=work, args=job) for job in enumerate((khan_sites, few, few))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, table in enumerate((expected[0], expected[1], expected[1])):
        assert got[number].equals(table)
    assert torch.get_default_dtype() == torch.float64
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
