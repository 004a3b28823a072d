"""The tag against its formula, written out in Python's integers."""

import numpy as np
import pytest

from infl.privacy.seal.masks import Stream
from infl.privacy.seal.tag import FEW, TAG_PLACES, TAG_PRIME, Tag, as_words, from_words, split_high


def written_out(key: bytes, integers: np.ndarray) -> int:
    """Σ_b ρ_b Σ_j σ_j q_bj mod p, with 60 bits of σ and 61 of ρ from the stream in this order."""
    stream = Stream(key, "<u8")
    sigma = [int(word) >> 4 for word in stream.read(min(TAG_PLACES, len(integers))).tolist()]
    rho = [int(word) >> 3 for word in stream.read(-(-len(integers) // TAG_PLACES)).tolist()]
    numbers = integers.tolist()
    blocks = (numbers[start : start + TAG_PLACES] for start in range(0, len(numbers), TAG_PLACES))
    return (
        sum(r * sum(s * q for s, q in zip(sigma, block, strict=False)) for r, block in zip(rho, blocks, strict=True))
        % TAG_PRIME
    )


def by_blocks(key: bytes, integers: np.ndarray, at_once: int) -> int:
    tag, total = Tag(key, len(integers)), 0
    for first in range(0, -(-len(integers) // TAG_PLACES), at_once):
        part = integers[first * TAG_PLACES : (first + at_once) * TAG_PLACES].astype(np.float64)
        total += tag.outer(first, tag.inner(part))
    return total % TAG_PRIME


@pytest.mark.parametrize(
    "n", [1, 100, TAG_PLACES, TAG_PLACES + 1, (FEW - 1) * TAG_PLACES, FEW * TAG_PLACES, (FEW + 3) * TAG_PLACES + 7]
)
@pytest.mark.parametrize("at_once", [1, FEW, 100])
def test_few_and_many_blocks_give_the_formula(n: int, at_once: int) -> None:
    key, rng = bytes(range(32)), np.random.default_rng(n)
    integers = rng.integers(-(2**31) + 1, 2**31, n)
    integers[0] = 2**31 - 1
    assert by_blocks(key, integers, at_once) == written_out(key, integers)


def test_largest_integers_stay_exact() -> None:
    integers = np.full(2 * FEW * TAG_PLACES, -(2**31) + 1)
    assert by_blocks(bytes(32), integers, 2 * FEW) == written_out(bytes(32), integers)


def test_integers_of_64_bits_in_two_parts() -> None:
    integers = np.random.default_rng(0).integers(-(2**61), 2**61, 1000)
    low, high = split_high(integers)
    assert low.min() >= 0 and max(low.max(), np.abs(high).max()) < 2**31
    assert [int(a) + (int(b) << 31) for a, b in zip(low, high, strict=True)] == integers.tolist()


def test_words_of_many_tags_add_up() -> None:
    tags = [TAG_PRIME - 1, 0, 1, 2**31 - 1, 2**31, 2**60 + 5] * 1000
    words = np.sum([as_words(tag) for tag in tags], axis=0)
    assert words.max() < 2**63 and from_words(words) == sum(tags) % TAG_PRIME
