"""A model computes on a device as on the processor: the same batches, dropout and noise, numbers the same to rounding.

Machines without a GPU have the second device of :mod:`tests.second_device`, on which nothing that was left on the processor can be
computed with. With a GPU the same cases run there.
"""

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from tests import bits
from tests.conftest import _draw_keys
from tests.second_device import SECOND, SecondDevice
from torch import nn

import infl
from infl import _device
from infl._device import computing_on, device_named
from infl.errors import SettingsError

CASES = [
    "classifier lock field seal group",
    "classifier lock published seal none",
    "rule fedprox",
    "rule scaffold",
    "rule fedbn",
    "rule partial",
    "differential_privacy",
    "perturbation",
    "mosaic",
    "histology",
    "spatial",
    "scvi",
    "scanvi",
    "adapter",
    "comparison",
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: its cases were not run")


class Values(bits.Record):
    """Keeps the values, not their digests."""

    def add(self, name: str, value: Any) -> None:
        """Keep numbers of a value."""
        self.found[name] = value  # type: ignore[assignment]


def numbers(value: Any, where: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield all arrays of floating-point numbers in a value, by where they are."""
    if isinstance(value, AnnData):
        value = {"obs": value.obs, "obsm": dict(value.obsm), "layers": dict(value.layers)}
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, pd.DataFrame):
        value = {str(column): value[column].to_numpy() for column in value}
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        yield where, value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from numbers(one, f"{where} {name}")


def run(case: str) -> dict[str, np.ndarray]:
    record = Values()
    with bits.fixed_bytes(case), pytest.MonkeyPatch.context() as keys, warnings.catch_warnings():
        _draw_keys(keys, case)
        warnings.simplefilter("ignore")
        bits.CASES[case](record)
    return dict(numbers(record.found))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have a device chosen where nobody names one."""

    def choose(device: torch.device) -> None:
        monkeypatch.setattr(_device, "_automatic", lambda: device)

    return choose


@pytest.mark.parametrize("case", CASES)
def test_as_on_the_processor(case: str, on: Any) -> None:
    if case == "adapter":
        pytest.importorskip("tokenizers")
    expected = run(case)
    infl.settings.bases.pop("base", None)  # what is called so is in another folder each time
    on(SECOND)
    with SecondDevice():
        found = run(case)
    compared(expected, found)


@needs_cuda
@pytest.mark.parametrize("case", CASES)
def test_as_on_the_processor_with_cuda(case: str, on: Any) -> None:
    on(torch.device("cpu"))
    expected = run(case)
    on(torch.device("cuda", 0))
    compared(expected, run(case), metrics_alone=case not in ("rule fedprox",))


def compared(expected: dict[str, np.ndarray], found: dict[str, np.ndarray], *, metrics_alone: bool = False) -> None:
    assert expected.keys() == found.keys()
    assert any("history" in where or "table" in where for where in expected)
    for where, values in expected.items():
        if "stored" in where or "weights of" in where or (metrics_alone and "history" not in where):
            continue  # locked under salts of their own, which follow from the last bit
        np.testing.assert_allclose(found[where], values, rtol=1e-5, atol=1e-2 if metrics_alone else 1e-5, err_msg=where)


def test_what_is_left_on_the_processor_is_noticed() -> None:
    """The second device refuses what the cases above would hide if it did not."""
    with SecondDevice():
        layer, x = nn.Linear(2, 2).to(SECOND), torch.ones(1, 2)
        with pytest.raises(RuntimeError, match="two devices"):
            layer(x)
        with pytest.raises(RuntimeError, match="random numbers"):
            nn.Dropout(0.5)(layer(x.to(SECOND)))
        with computing_on(SECOND):
            nn.Dropout(0.5)(layer(x))


def test_random_numbers_are_those_of_the_processor() -> None:
    def drawn() -> list[np.ndarray]:
        torch.manual_seed(0)
        q = torch.randn(1, 2, 5, 4)
        parts = [torch.rand(3), torch.randperm(5), torch.normal(torch.zeros(3), 2.0), torch.empty(4).uniform_(1, 2)]
        attended = [
            nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=p, is_causal=True) for p in (0.0, 0.5)
        ]
        mask = torch.tensor([[True, False, True, True, True]])
        attended.append(nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask, dropout_p=0.5))
        dropped = nn.functional.dropout(torch.ones(20), 0.3)
        return [part.detach().numpy() for part in (*parts, *attended, dropped, torch.bernoulli(torch.full((9,), 0.5)))]

    expected = drawn()
    with SecondDevice(), computing_on(SECOND):
        assert torch.zeros(2).device == torch.tensor([1.0]).device == torch.rand(2).device == SECOND
        found = drawn()
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_results_are_written_where_they_are_kept() -> None:
    with SecondDevice(), computing_on(SECOND):
        there, here = torch.ones(2), torch.zeros(2, device="cpu")
        here += there
        assert here.device.type == "cpu"
        there += here
        assert there.device == SECOND
        assert np.asarray(there).tolist() == [2, 2]
        torch.add(here, there, out=here)
        assert here.tolist() == [3, 3]
        torch.stack([here, there])


def test_full_precision_while_a_model_computes_and_the_users_after_it() -> None:
    before = _device._precision()
    ours = (
        ("tf32", "tf32", "tf32", False, True, (False, False))
        if len(before) == 6
        else (True, True, False, True, (False, False))
    )
    try:
        _device._set_precision(ours)
        with computing_on(SECOND):
            *precisions, deterministic, benchmark, strict = _device._precision()
            assert set(precisions) <= {"ieee", False}
            assert (deterministic, benchmark, strict) == (True, False, (True, True))
        assert _device._precision() == ours
    finally:
        _device._set_precision(before)


def test_which_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert [str(device_named(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(SettingsError, match="torch sees 2 CUDA devices, from 'cuda:0' on"):
        device_named("cuda:2")
    monkeypatch.setattr(infl.settings, "device", "cuda:1")
    assert device_named() == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="device='cuda:1': torch sees no CUDA device here"):
        device_named()
    monkeypatch.setattr(infl.settings, "device", "auto")
    assert device_named() == torch.device("cpu")
    for name in ("gpu", "cuda:x"):
        with pytest.raises(SettingsError, match="give 'auto', 'cpu', 'cuda'"):
            device_named(name)


def test_no_device_is_said_before_any_work(khan_sites: dict[str, AnnData]) -> None:
    for call in (
        lambda: infl.tl.fit_federated(khan_sites, target="tumour_class", device="mps"),
        lambda: infl.tl.compare(khan_sites, target="tumour_class", device=torch.device("mps"), seeds=1),
    ):
        with pytest.raises(SettingsError, match="double precision"):
            call()


def test_where_it_was_trained(khan_sites: dict[str, AnnData], on: Any) -> None:
    on(SECOND)
    options: dict[str, Any] = {"target": "tumour_class", "rounds": 1, "width": 8, "n_blocks": 1, "progress": False}
    with SecondDevice():
        run = infl.tl.fit_federated(khan_sites, **options)
        assert run.history.attrs["device"] == str(SECOND)
        assert infl.tl.fit_federated(khan_sites, device="cpu", **options).history.attrs["device"] == "cpu"
        infl.tl.predict(khan_sites["site_1"], run)
    assert all(tensor.device.type == "cpu" for tensor in run.model.stored.values())


def test_arrays_on_a_gpu_are_refused(khan_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    array, of_anndata, on_gpu = type("csr_matrix", (), {"__module__": "cupyx.scipy.sparse"})(), AnnData.X, set()

    def read(adata: AnnData) -> Any:
        return array if id(adata) in on_gpu else of_anndata.fget(adata)

    monkeypatch.setitem(sys.modules, "cupy", object())
    monkeypatch.setattr(AnnData, "X", property(read, of_anndata.fset))
    on_gpu.add(id(khan_sites["site_2"]))
    with pytest.raises(infl.errors.DataError, match="site_2: X lies on the GPU .*anndata_to_CPU"):
        infl.tl.fit_federated(khan_sites, target="tumour_class")
    on_gpu.add(id(khan_sites["site_1"]))
    with pytest.raises(infl.errors.DataError, match="the data: X lies on the GPU"):
        infl.tl.predict(khan_sites["site_1"], "model")
