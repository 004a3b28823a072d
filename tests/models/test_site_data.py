"""A site's data: training rows in random order, and whether its labels can judge anything."""

import numpy as np
import pytest
import torch

from infl.models import SiteData


class Rows(SiteData):
    def __init__(self, labels=None):
        self.train, self.validation = np.arange(2, 9), np.array([0, 1])
        if labels is not None:
            self.labels = torch.tensor(labels)

    def batch(self, index):
        return index


def test_an_epoch_has_every_training_row_once_and_its_own_order():
    orders = [Rows().order(np.random.default_rng(seed)).tolist() for seed in (0, 1, 1)]
    assert all(sorted(order) == list(range(2, 9)) for order in orders)
    assert orders[0] != orders[1] == orders[2]


@pytest.mark.parametrize(
    ("labels", "one"),
    [
        ([0, 0, 0], True),
        ([0, -1, 0], True),
        ([0, 1, 0], False),
        ([-1, -1, -1], False),
        ([[0, 1], [0, 1]], True),
        ([[0, 1], [0, 0]], False),
        ([[0, -1], [0, -1]], True),
        (None, False),
    ],
)
def test_labels_of_one_class(labels, one):
    assert Rows(labels).one_class is one
