"""One flat buffer for all weights: views write through, what stays at a site lies behind, and names survive JSON."""

import torch
from torch import nn

from infl.nn.flat import FlatModule, Layout


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_the_module_computes_with_the_buffer_and_its_gradients_are_there():
    before = net()
    flat = FlatModule(net())
    x = torch.randn(5, 3)
    torch.testing.assert_close(flat.module(x), before(x))
    flat.module(x).square().sum().backward()
    assert torch.count_nonzero(flat.flat.grad) > 0
    with torch.no_grad():
        flat.flat.zero_()
    assert flat.module(x).abs().max() == 0


def test_what_stays_at_the_site_lies_behind_what_is_shared():
    flat = FlatModule(net(), is_local=lambda name: name.startswith("1."))
    assert [entry.name for entry in flat.local.entries] == ["1.weight", "1.bias"]
    assert flat.shared.total + flat.local.total == len(flat.flat) == 12 + 4 + 8 + 8 + 2
    own = flat.copy_local()
    flat.load(torch.ones(flat.shared.total))
    assert (flat.copy_shared() == 1).all() and torch.equal(flat.copy_local(), own)
    copied = flat.copy_shared()
    flat.load(torch.zeros(flat.shared.total), torch.zeros(flat.local.total))
    assert (copied == 1).all() and (flat.flat == 0).all()


def test_a_layout_comes_back_from_json_and_views_take_leading_axes():
    layout = Layout.of(net())
    assert Layout.from_json(layout.to_json()) == layout
    values = torch.arange(2.0 * layout.total).reshape(2, -1)
    views = layout.views(values)
    assert views["0.weight"].shape == (2, 4, 3)
    views["2.bias"].fill_(-1)
    assert (values[:, -2:] == -1).all()
    assert Layout.of(nn.Identity()).total == 0


def test_weights_become_single_and_units_stay_double():
    module = net().double()
    module[0].register_buffer("unit", torch.tensor([0.1], dtype=torch.float64), persistent=False)
    flat = FlatModule(module)
    assert flat.flat.dtype == module[1].running_mean.dtype == torch.float32
    assert module[0].unit.tolist() == [0.1]
    assert "0.unit" not in module.state_dict()
