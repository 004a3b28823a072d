"""Laws of the lock."""

import torch

from infl.nn.lock import Field, lock_module, unlock_module

FIELD = Field(subkey=bytes(range(32)), salt=b"salt of a test")


def test_lock_and_unlock_a_module():
    module = torch.nn.Linear(4, 3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    lock_module(module, FIELD)
    assert not torch.allclose(module.parametrizations.weight.original, before["weight"])
    torch.testing.assert_close(module.weight, before["weight"], atol=1e-6, rtol=0)
    unlock_module(module)
    torch.testing.assert_close(dict(module.state_dict()), before, atol=1e-6, rtol=0)
