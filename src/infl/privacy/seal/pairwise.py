"""The pairwise seal: a second layer of masks, so that a coordinator who conspires with a site opens nobody else's message.

All sites share the group seal's key, so a coordinator with one site's help could take the group masks off any message. On
top of them each site therefore adds masks that no other single party knows (Bonawitz et al. 2017, double masking):

1. *keys*: each site advertises an X25519 public key for this run.
2. *masked message*: site i adds PRG(sᵢⱼ) for every later site j of the cohort, takes PRG(sⱼᵢ) of every earlier one away,
   and adds a mask PRG(bᵢ) of its own. sᵢⱼ comes from the pair's key agreement and the exchange's context; bᵢ is fresh, and
   t-of-n shares of it travel along, each encrypted to one peer.
3. *reveal*: told who answered, each site gives, once, the shares of bⱼ of those who did and its own sᵢⱼ with those who did
   not. Never both for one site: that would open its message.
4. The coordinator takes these masks off the sum. What is left is the group-sealed sum, which it still cannot read.

t is a majority, so two lists of who answered cannot both be served. A site that is lost in step 3 costs one more attempt
only where another was lost in step 2.

Secrets bᵢ have 128 bits, what the secret sharing of PyCryptodome takes. Public keys carry a MAC under the group seal's key,
so a coordinator alone cannot put its own in between; a conspiring site could help it to do so, which is what enrolled
identities (mutual TLS between sites' messages) are for.

References
----------
Bonawitz et al., Practical secure aggregation for privacy-preserving machine learning, CCS 2017. Shamir, How to share a
secret, CACM 1979.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from infl.errors import FederationError, SealError
from infl.privacy.seal.context import Context, Words
from infl.privacy.seal.lanes import BLOCK
from infl.privacy.seal.masks import Stream

SECRET_BYTES = 16


def threshold(n: int) -> int:
    """Return how many shares open a secret: a majority of the cohort."""
    return n // 2 + 1


@dataclass(frozen=True)
class Revealed:
    """What one site gives after it was told who answered.

    Attributes
    ----------
    site
        Who gives it.
    shares
        For each site that answered: this site's share of that one's own mask.
    seeds
        For each site that did not: the seed of the mask between the two.
    """

    site: str
    shares: Mapping[str, bytes] = field(repr=False)
    seeds: Mapping[str, bytes] = field(repr=False)


class PairwiseSite:
    """A site's part: its private key for the run, and what it already revealed.

    Parameters
    ----------
    name
        The site.
    subkey
        The group seal's subkey; authenticates public keys.
    run
        Name of the run.
    """

    def __init__(self, name: str, subkey: bytes, run: str) -> None:
        self.name, self._subkey, self._run = name, subkey, run
        self._private = X25519PrivateKey.generate()
        self._peers: dict[str, bytes] = {}
        self._revealed: dict[bytes, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"PairwiseSite({self.name!r})"

    def advertise(self) -> bytes:
        """Return the public key and its MAC (64 bytes)."""
        public = self._private.public_key().public_bytes_raw()
        return public + self._mac(self.name, public)

    def meet(self, peers: Mapping[str, bytes]) -> None:
        """Agree on a secret with each peer.

        Raises
        ------
        SealError
            A public key is not of this run's key holders.
        """
        self._peers = {}
        for name, advertised in peers.items():
            public, mac = advertised[:32], advertised[32:]
            if not hmac.compare_digest(mac, self._mac(name, public)):
                raise SealError(f"the public key of {name!r} is not signed with the run's key; refused")
            if name != self.name:
                shared = self._private.exchange(X25519PublicKey.from_public_bytes(public))
                both = hashlib.sha256("\x1f".join(sorted((name, self.name))).encode()).digest()
                self._peers[name] = HKDF(SHA256(), 32, both, b"infl pair " + self._run.encode()).derive(shared)

    def cover(self, context: Context, words: Words) -> dict[str, bytes]:
        """Add this site's masks to a group-sealed message, in place; return the encrypted shares of its own mask.

        Raises
        ------
        FederationError
            A site of the cohort has not advertised a key.
        """
        from Crypto.Protocol.SecretSharing import Shamir

        missing = [s for s in context.cohort if s != self.name and s not in self._peers]
        if missing:
            raise FederationError(f"no public key of {missing[0]!r} for the pairwise seal: it must join before round 1")
        own, place = os.urandom(SECRET_BYTES), context.position(self.name)
        _mask(words, [_spread(own, context)], [])
        seeds = {s: self._seed(s, context) for s in context.cohort if s != self.name}
        later = [seeds[s] for s in context.cohort[place + 1 :]]
        _mask(words, later, [seeds[s] for s in context.cohort[:place]])
        n = len(context.cohort)
        shares = dict(Shamir.split(threshold(n), n, own, ssss=False))
        return {
            peer: _encrypt(self._box(peer, context, self.name), shares[i + 1], context)
            for i, peer in enumerate(context.cohort)
        }

    def reveal(self, context: Context, answered: Sequence[str], shares: Mapping[str, bytes]) -> Revealed:
        """Return the shares and seeds that take the masks off the sum of `answered`; for one list only.

        Parameters
        ----------
        context
            The exchange.
        answered
            Whose messages are in the sum.
        shares
            For each of them, its encrypted share for this site.

        Raises
        ------
        SealError
            Another list was served for this exchange, it is too short, or a share was altered.
        """
        answered = tuple(answered)
        before = self._revealed.setdefault(context.digest(), answered)
        if before != answered:
            raise SealError(
                f"{self.name}: refused; shares of this exchange were already given for another list of sites"
            )
        if len(answered) < threshold(len(context.cohort)) or not set(answered) <= set(context.cohort):
            raise SealError(f"{self.name}: refused; the pairwise seal opens sums of a majority of the cohort only")
        opened = {}
        for peer in answered:
            try:
                opened[peer] = _decrypt(self._box(peer, context, peer), shares[peer], context)
            except (InvalidTag, KeyError):
                raise SealError(
                    f"{self.name}: the share of {peer!r} was altered or is missing; round rejected"
                ) from None
        seeds = {s: self._seed(s, context) for s in context.cohort if s not in answered and s != self.name}
        return Revealed(self.name, opened, seeds)

    def _mac(self, name: str, public: bytes) -> bytes:
        message = b"infl pairwise key " + self._run.encode() + b"\x1f" + name.encode() + b"\x1f" + public
        return hmac.digest(self._subkey, message, "sha256")

    def _seed(self, peer: str, context: Context) -> bytes:
        return HKDFExpand(SHA256(), 32, b"mask" + context.digest()).derive(self._peers[peer])

    def _box(self, peer: str, context: Context, sender: str) -> ChaCha20Poly1305:
        """Return what encrypts the share that `sender` sends between this site and a peer (or keeps for itself)."""
        secret = self._private.private_bytes_raw() if peer == self.name else self._peers[peer]
        info = b"share of " + sender.encode() + b"\x1f" + context.digest()
        return ChaCha20Poly1305(HKDFExpand(SHA256(), 32, info).derive(secret))


def _encrypt(box: ChaCha20Poly1305, plain: bytes, context: Context) -> bytes:
    nonce = os.urandom(12)
    return nonce + box.encrypt(nonce, plain, context.digest())


def _decrypt(box: ChaCha20Poly1305, sealed: bytes, context: Context) -> bytes:
    return box.decrypt(sealed[:12], sealed[12:], context.digest())


def uncover(context: Context, total: Words, revealed: Sequence[Revealed], answered: Sequence[str]) -> Words:
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

    Raises
    ------
    FederationError
        Too few shares; or the seed between a lost site and one that was lost later: ask again.
    """
    from Crypto.Protocol.SecretSharing import Shamir

    n, given = len(context.cohort), {r.site: r for r in revealed}
    if len(given) < threshold(n):
        raise FederationError(
            f"{len(given)} of {n} sites gave shares, {threshold(n)} are needed to open the pairwise seal"
        )
    lost = [s for s in context.cohort if s not in answered]
    silent = [s for s in answered if s not in given]
    if lost and silent:
        raise FederationError(f"{silent[0]!r} was lost after {lost[0]!r}: the mask between them stays; ask again")
    own = []
    for site in answered:
        parts = [(context.position(r.site) + 1, r.shares[site]) for r in revealed][: threshold(n)]
        own.append(_spread(Shamir.combine(parts, ssss=False), context))
    _mask(total, [], own)
    for site in answered:
        for gone in lost:
            seed = given[site].seeds[gone]
            plus, minus = ([], [seed]) if context.position(site) < context.position(gone) else ([seed], [])
            _mask(total, plus, minus)
    return total


def _spread(secret: bytes, context: Context) -> bytes:
    """Return the seed of a site's own mask."""
    return HKDF(SHA256(), 32, context.digest(), b"infl own mask").derive(secret)


def _mask(words: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add and take away the streams of seeds, in place, in both lanes."""
    for lane, array in (("low", words.low), ("high", words.high)):
        for sign, seeds in ((1, plus), (-1, minus)):
            for seed in seeds:
                _add_stream(array, HKDFExpand(SHA256(), 32, lane.encode()).derive(seed), sign)


def _add_stream(array: np.ndarray, key: bytes, sign: int) -> None:
    stream = Stream(key, array.dtype.str)
    for start in range(0, len(array), BLOCK):
        block = array[start : start + BLOCK]
        (np.add if sign > 0 else np.subtract)(block, stream.read(len(block)), out=block)
