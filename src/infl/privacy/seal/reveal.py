"""The pairwise seal's last step: what sites reveal once they know who answered, and how the masks come off a sum.

:mod:`pairwise` says how, and against whom. Sharing is Shamir's, from PyCryptodome, of 128-bit secrets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from infl.errors import FederationError
from infl.privacy.seal.context import Context, MaskedArrays
from infl.privacy.seal.lanes import LANE_BLOCK, in_parts
from infl.privacy.seal.masks import Stream

SECRET_BYTES, SEED_BYTES = 16, 32


def threshold(n: int) -> int:
    """Return how many sites must give their shares: more than two thirds of the cohort.

    Examples
    --------
    >>> [threshold(n) for n in (2, 3, 4, 5, 10, 64)]
    [2, 3, 3, 4, 7, 43]
    """
    return 2 * n // 3 + 1


@dataclass(frozen=True)
class Revealed:
    """What one site gives once it knows who answered; opens with that of :func:`threshold` sites for the same list.

    Attributes
    ----------
    site
        Who gives it.
    tokens
        For each peer: this site's part in opening what the peer gives.
    keys
        For each site: a share of the key of `box`, under that site's token (this site's own: in the clear).
    box
        Encrypted: this site's shares of the own masks of those who answered, its seeds with those who did not.

    Examples
    --------
    >>> given = Revealed("a", tokens={"b": bytes(32)}, keys={}, box=b"")
    >>> given.site, list(given.tokens)
    ('a', ['b'])
    """

    site: str
    tokens: Mapping[str, bytes] = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)
    box: bytes = field(repr=False)


def uncover(
    context: Context,
    total: MaskedArrays,
    revealed: Sequence[Revealed],
    answered: Sequence[str],
    joined: Iterable[str] | None = None,
) -> MaskedArrays:
    """Take the pairwise masks off a sum, at the coordinator, in place; what is left is the group-sealed sum.

    Parameters
    ----------
    context
        The exchange.
    total
        Sum of the messages of `answered`.
    revealed
        What sites gave in step 3.
    answered
        Whose messages are in the sum.
    joined
        Who advertised a key (default: the cohort).

    Returns
    -------
    MaskedArrays
        `total`, without the masks.

    Raises
    ------
    FederationError
        Too few shares, or some that fit no others; or the seed between a lost site and one that was lost later: ask
        again.

    Examples
    --------
    >>> import numpy as np
    >>> context = Context("run", 1, 0, ("a", "b", "c"), "train", "")
    >>> total = MaskedArrays(np.zeros(1, np.uint32), np.zeros(1, np.uint64))
    >>> uncover(context, total, [], ["a", "b", "c"])
    Traceback (most recent call last):
    infl.errors.FederationError: 0 of 3 sites gave shares, 3 are needed to open the pairwise seal
    """
    answered, n = tuple(answered), len(context.cohort)
    given = {r.site: r for r in revealed if r.site in answered}
    enough = threshold(n)
    if len(given) < enough:
        raise FederationError(f"{len(given)} of {n} sites gave shares, {enough} are needed to open the pairwise seal")
    keyed = set(context.cohort if joined is None else joined)
    lost = [s for s in context.cohort if s not in answered and s in keyed]
    silent = [s for s in answered if s not in given]
    if lost and silent:
        raise FederationError(f"{silent[0]!r} was lost after {lost[0]!r}: the mask between them stays; ask again")
    # Without a lost site, any `enough` of the boxes have all that is needed.
    opened = {s: _open(context, s, given, answered, len(lost)) for s in (given if lost else list(given)[:enough])}
    own = []
    for k in range(len(answered)):
        parts = {s: content[k * SECRET_BYTES : (k + 1) * SECRET_BYTES] for s, content in opened.items()}
        own.append(spread(combine(parts, context.cohort), context))
    mask(total, [], own, lanes=("low", "high", "of_all"))
    for site in answered if lost else ():
        seeds = opened[site][len(answered) * SECRET_BYTES :]
        for k, gone in enumerate(lost):
            seed = seeds[k * SEED_BYTES : (k + 1) * SEED_BYTES]
            plus, minus = ([], [seed]) if context.position(site) < context.position(gone) else ([seed], [])
            mask(total, plus, minus)
    return total


def _open(context: Context, site: str, given: Mapping[str, Revealed], answered: tuple[str, ...], n_lost: int) -> bytes:
    """Open what one site gave with the tokens of the others."""
    agreed = list_digest(context, answered)
    size = len(answered) * SECRET_BYTES + n_lost * SEED_BYTES
    try:
        keys = given[site].keys
        parts = {s: keys[s] if s == site else xor(keys[s], r.tokens[site]) for s, r in given.items()}
        content = once(combine(parts, context.cohort), agreed).decrypt(bytes(12), given[site].box, agreed)
    except (InvalidTag, KeyError, ValueError):
        content = b""
    if len(content) != size:
        raise FederationError(f"what {site!r} gave to open the pairwise seal does not fit what others gave; ask again")
    return content


def list_digest(context: Context, answered: Sequence[str]) -> bytes:
    """Return the digest of an exchange and the list of who answered."""
    return hashlib.sha256(context.digest() + json.dumps(list(answered)).encode()).digest()


def once(key: bytes, agreed: bytes) -> ChaCha20Poly1305:
    """Return the cipher of a key that encrypts one message (nonce 0)."""
    return ChaCha20Poly1305(HKDF(SHA256(), 32, agreed, b"infl reveal").derive(key))


def split(secret: bytes, cohort: Sequence[str]) -> dict[str, bytes]:
    """Return a share of a 128-bit secret for each site; :func:`threshold` of them give it back."""
    from Crypto.Protocol.SecretSharing import Shamir

    parts = dict(Shamir.split(threshold(len(cohort)), len(cohort), secret, ssss=False))
    return {s: parts[i] for i, s in enumerate(cohort, 1)}


def combine(parts: Mapping[str, bytes], cohort: Sequence[str]) -> bytes:
    """Inverse of :func:`split`, from the shares of enough sites."""
    from Crypto.Protocol.SecretSharing import Shamir

    chosen = [(i, parts[s]) for i, s in enumerate(cohort, 1) if s in parts][: threshold(len(cohort))]
    return Shamir.combine(chosen, ssss=False)


def xor(a: bytes, b: bytes) -> bytes:
    """Hide or show equally long bytes."""
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def spread(secret: bytes, context: Context) -> bytes:
    """Return the seed of a site's own mask."""
    return HKDF(SHA256(), 32, context.digest(), b"infl own mask").derive(secret)


def mask(
    words: MaskedArrays, plus: Sequence[bytes], minus: Sequence[bytes], *, lanes: Sequence[str] = ("low", "high")
) -> None:
    """Add and take away the streams of seeds, in place, in some lanes; large ones on several cores."""
    for lane in lanes:
        _change(
            getattr(words, lane),
            [
                (change, HKDFExpand(SHA256(), 32, lane.encode()).derive(seed))
                for change, seeds in ((np.add, plus), (np.subtract, minus))
                for seed in seeds
            ],
        )


def _change(array: np.ndarray, changes: Sequence[tuple[np.ufunc, bytes]]) -> None:
    """Change an array by streams of keys, all of them block by block, so that a block is read and written in cache."""

    def part(start: int, stop: int) -> int:
        streams = [(change, Stream(key, array.dtype.str, start)) for change, key in changes]
        for at in range(start, stop, LANE_BLOCK):
            block = array[at : min(at + LANE_BLOCK, stop)]
            for change, stream in streams:
                change(block, stream.read(len(block)), out=block)
        return 0

    in_parts(part, len(array), passes=len(changes))
