"""What colours and texture of patches say, and how stains are made alike."""

import numpy as np
import pytest
import torch
from tests.models.histology.conftest import STAINS, section

from infl.models.histology.patches import Patches, stain_transform, stain_vectors, statistics
from infl.nn.histology import dihedral


def test_statistics_do_not_change_when_patches_are_turned_or_mirrored():
    density = np.random.default_rng(0).gamma(2, 0.3, (4, 8, 8, 3)).astype(np.float32)
    images = torch.from_numpy(density.transpose(0, 3, 1, 2))
    for number in range(8):
        turned = dihedral(images, number).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(statistics(turned), statistics(density), rtol=1e-4, atol=1e-5)
    assert len({dihedral(images, n).numpy().tobytes() for n in range(8)}) == 8


@pytest.mark.parametrize("stain", ["reinhard", "macenko"])
def test_a_stain_of_other_strength_gives_the_same_image(stain):
    thin, thick = (Patches(section(0, tint=tint), site="a") for tint in (0.7, 1.1))
    rows = np.arange(49)
    first, second = (stain_transform(p, rows, stain)(p.density(rows)) for p in (thin, thick))
    plain = np.abs(thin.density(rows) - thick.density(rows)).mean() / thin.density(rows).std()
    assert np.abs(first - second).mean() / first.std() < 0.25 * plain


def test_stain_vectors_are_found():
    amounts = np.random.default_rng(0).gamma(1.0, 0.5, (20_000, 2))
    found = stain_vectors(amounts @ STAINS)
    for vector, true in zip(found, STAINS, strict=False):
        assert vector @ true / np.linalg.norm(true) > 0.99
