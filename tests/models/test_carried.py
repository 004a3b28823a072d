"""Weights are carried over to another panel by name."""

import pytest
import torch

from infl.errors import SettingsError
from infl.models.carried import AsTheOthers, carried


def test_rows_and_columns_go_by_name_and_only_new_inputs_are_zero() -> None:
    old = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    fresh = torch.full((3, 3), 9.0)
    new, was = {0: ["z", "y", "x"], 1: ["b", "c", "a"]}, {0: ["x", "y"], 1: ["a", "b"]}
    result = carried(fresh, old, "head.weight", new, was)
    assert result.tolist() == [[9.0, 0.0, 9.0], [4.0, 0.0, 3.0], [2.0, 0.0, 1.0]]
    assert (fresh == 9).all() and old.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_what_has_no_names_must_be_of_one_size() -> None:
    old = torch.arange(4.0)
    assert carried(torch.zeros(4), old, "norm.bias", {}, {}).tolist() == old.tolist()
    assert carried(torch.zeros(()), torch.ones(()), "log_scale", {}, {}).item() == 1
    for fresh in (torch.zeros(5), torch.zeros(4, 1)):
        with pytest.raises(SettingsError, match=r"has norm.bias as \(4,\), and this fit needs \("):
            carried(fresh, old, "norm.bias", {}, {})


def test_columns_that_are_as_the_others_begin_as_their_mean() -> None:
    old = torch.tensor([[1.0, 3.0], [2.0, 6.0]])
    fresh = torch.tensor([[7.0, 7.0, 7.0], [8.0, 8.0, 8.0], [9.0, 9.0, 9.0]])
    new, was = {0: ["x", "y", "z"], 1: AsTheOthers(["b", "c", "a"])}, {0: ["x", "y"], 1: AsTheOthers(["a", "b"])}
    result = carried(fresh, old, "px_r", new, was)
    assert result.tolist() == [[3.0, 2.0, 1.0], [6.0, 4.0, 2.0], [9.0, 9.0, 9.0]]
    strangers = carried(fresh[:2, :1], old, "px_r", {0: ["x", "y"], 1: AsTheOthers(["d"])}, was)
    assert strangers.tolist() == [[7.0], [8.0]]  # none to be like: fresh
