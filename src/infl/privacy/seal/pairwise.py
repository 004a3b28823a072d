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

**A coordinator that lies about who answered** could collect the shares of bⱼ from some sites and the seeds sᵢⱼ from the
others. So what a site gives in step 3 for a list L opens only together with what t − 1 others give for the same L: it is
encrypted under a fresh key whose t-of-n shares are each hidden under a token, PRF(secret of the pair, context, L), that
the peer gives with its own answer for L. This is the consistency check of the paper's active variant without its extra
round. With t = ⌊2n/3⌋ + 1 and c conspiring sites, two lists would both open only if 2 (t − c) ≤ n − c; so at most one
does while c < (n + 2) / 3: one conspirator among 3 or 4 sites, 2 among 5, 21 among 64.

**Sums of all sites or not at all** (losses, metrics: :attr:`MaskedArrays.of_all`) have pair masks of their own, of seeds that nobody
ever gives. They cancel where the whole cohort is in the sum, and stay on every smaller one; so whoever opens the update of some
of the sites gets no metric of them; else the next round's metric would give away the missing site's. A site that has not got every
other one's public key adds a mask that it alone can make: that sum cannot be of all.

Sites may be lost as long as t remain; one that is away in step 1 has no masks with the others, and counts as lost. Where
one is lost in step 2 and another in step 3, the mask between the two stays until that one gives its part after all.

**Who the peers are.** Public keys carry a MAC under the group seal's key: a coordinator alone cannot put its own in between,
but a conspiring site could help it to. With `identity` and `members` (Ed25519 keys of the key holder's grant trail) they are
signed, and nobody can. The key is made anew at each start of a site, its *epoch*, and the digest of all epochs is in every
exchange's context. So a site that was put back to an earlier state seals nothing under masks that it has used before.

**What remains.** A site that revealed for a list, was put back to a state before that, and reveals for another one counts
as a conspirator in the bound above.

Secrets bᵢ have 128 bits, what the secret sharing of PyCryptodome takes.

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
from typing import NoReturn, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from infl.errors import FederationError, KeyringError, SealError
from infl.privacy.seal.advertised import SIGNED, UNSIGNED, said_by
from infl.privacy.seal.context import Context, MaskedArrays
from infl.privacy.seal.narrow import reduce
from infl.privacy.seal.reveal import (
    SECRET_BYTES,
    SEED_BYTES,
    Revealed,
    list_digest,
    mask,
    once,
    split,
    spread,
    threshold,
    xor,
)


class Signer(Protocol):
    """An :class:`infl.keys.Identity`, or another Ed25519 key."""

    def sign(self, data: bytes, /) -> bytes:
        """Return an Ed25519 signature."""


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
    identity
        The site's own identity; signs its public key as well.
    members
        Ed25519 public keys (32 bytes each) by site; given, a peer's public key must be signed with its own.
    private
        X25519 private key of an earlier start, to open what was sealed in it (default: a fresh one).
    says
        What the others should know of the site at this start; signed with the public key by its identity.

    Examples
    --------
    >>> import numpy as np
    >>> from infl.privacy.seal import Field, GroupSeal, Packing, add, uncover
    >>> packing, cohort = Packing((Field("w", (2,), -20),)), ("a", "b", "c")
    >>> context = Context("run", 1, 0, cohort, "train", packing.digest())
    >>> group, sites = GroupSeal(bytes(32)), {s: PairwiseSite(s, bytes(32), "run") for s in cohort}
    >>> keys = {s: site.advertise() for s, site in sites.items()}
    >>> total, shares = None, {}
    >>> for s, site in sites.items():
    ...     site.meet(keys)
    ...     words = group.seal(context, s, np.array([0.5, -1.0]), np.empty(0), packing)
    ...     shares[s] = site.cover(context, words)
    ...     total = add(total, words)
    >>> revealed = [sites[s].reveal(context, cohort, {p: shares[p][s] for p in cohort}) for s in cohort]
    >>> (group.unseal(context, cohort, uncover(context, total, revealed, cohort), packing)[0] / 2**20).tolist()
    [1.5, -3.0]
    """

    def __init__(
        self,
        name: str,
        subkey: bytes,
        run: str,
        *,
        identity: Signer | None = None,
        members: Mapping[str, bytes] | None = None,
        private: bytes | None = None,
        says: bytes = b"",
    ) -> None:
        self.name, self._subkey, self._run, self._says = name, subkey, run, says
        self._identity, self._members = identity, members
        fresh = X25519PrivateKey.generate
        self._private = fresh() if private is None else X25519PrivateKey.from_private_bytes(private)
        self.met: dict[str, bytes] = {}
        """What the peers advertised, this site's own among it."""
        self._peers: dict[str, bytes] = {}
        self._covered: tuple[bytes, bytes, dict[str, bytes]] | None = None  # context, own mask, encrypted shares of it
        self._revealed: dict[bytes, tuple[tuple[str, ...], Revealed]] = {}

    def __repr__(self) -> str:
        return f"PairwiseSite({self.name!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise KeyringError("a seal holds a secret and is not pickled or copied: make it again from the key ring")

    def advertise(self) -> bytes:
        """Return the public key and its MAC (64 bytes); if the site has an identity, its signature (64 bytes) and what it says."""
        public = self._private.public_key().public_bytes_raw()
        says = self._says if self._identity else b""
        statement = self._statement(self.name, public, says)
        signature = self._identity.sign(statement) if self._identity else b""
        return public + hmac.digest(self._subkey, statement, "sha256") + signature + says

    @property
    def private(self) -> bytes:
        """The private key of this start: secret, for the site's own encrypted state."""
        return self._private.private_bytes_raw()

    def meet(self, peers: Mapping[str, bytes]) -> None:
        """Agree on a secret with each peer.

        Raises
        ------
        SealError
            A public key is not of this run's key holders, or not of the member of that name.
        FederationError
            This site's own key is not among them as it is since its last start (where `members` are given).
        """
        if peers == self.met:
            return
        secrets: dict[str, bytes] = {}
        mine = self._private.public_key().public_bytes_raw()
        if self._members is not None and peers.get(self.name, b"")[:32] != mine:
            raise FederationError(
                f"{self.name}: the keys are not those of its last start; they must be asked for again"
            )
        for name, advertised in peers.items():
            (public, says), mac, signature = said_by(advertised), advertised[32:UNSIGNED], advertised[UNSIGNED:SIGNED]
            statement = self._statement(name, public, says)
            if not hmac.compare_digest(mac, hmac.digest(self._subkey, statement, "sha256")):
                raise SealError(f"the public key of {name!r} is not signed with the run's key; refused")
            if self._members is not None:
                _check_identity(name, self._members.get(name), signature, statement)
            if name != self.name:
                try:
                    shared = self._private.exchange(X25519PublicKey.from_public_bytes(public))
                except ValueError:  # a point of small order: the secret would be zero
                    raise SealError(f"the public key of {name!r} is none; refused") from None
                both = hashlib.sha256("\x1f".join(sorted((name, self.name))).encode()).digest()
                secrets[name] = HKDF(SHA256(), 32, both, b"infl pair " + self._run.encode()).derive(shared)
        self.met, self._peers = dict(peers), secrets

    def cover(self, context: Context, words: MaskedArrays) -> dict[str, bytes]:
        """Add this site's masks to a group-sealed message, in place; return the encrypted shares of its own mask.

        Asked again for the same exchange, it adds the same masks and returns the same shares.

        Raises
        ------
        FederationError
            Too few sites of the cohort have advertised a key.
        """
        missing = [s for s in context.cohort if s != self.name and s not in self._peers]
        if len(context.cohort) - len(missing) < threshold(len(context.cohort)):
            raise FederationError(f"no public key of {missing[0]!r} for the pairwise seal: too few sites joined")
        place, digest = context.position(self.name), context.digest()
        if self._covered is None or self._covered[0] != digest:
            own = os.urandom(SECRET_BYTES)
            boxes = {
                peer: _encrypt(self._box(peer, context, self.name), share, context)
                for peer, share in split(own, context.cohort).items()
                if peer not in missing
            }
            self._covered = digest, own, boxes
        _, own, boxes = self._covered
        sides = context.cohort[place + 1 :], context.cohort[:place]
        later, earlier = ([self._seed(s, context) for s in side if s not in missing] for side in sides)
        mask(words, later, earlier)
        mask(words, [spread(own, context)], [], lanes=("low", "high", "of_all"))
        if len(words.of_all):
            later, earlier = ([self._seed_of_all(s, context) for s in side if s not in missing] for side in sides)
            nobodys = [self._seed_of_all(self.name, context)] if missing else []
            mask(words, later + nobodys, earlier, lanes=("of_all",))
        reduce(words.low, words.width)
        return dict(boxes)

    def reveal(self, context: Context, answered: Sequence[str], shares: Mapping[str, bytes]) -> Revealed:
        """Return what takes, with that of enough others, the masks off the sum of `answered`; for one list only.

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
            Another list was served for this exchange, it is too short or without this site, or a share was altered.
        """
        answered = tuple(answered)
        if context.digest() in self._revealed:
            before, given = self._revealed[context.digest()]
            if before != answered:
                raise SealError(
                    f"{self.name}: refused; shares of this exchange were already given for another list of sites"
                )
            return given
        enough = threshold(len(context.cohort))
        if len(set(answered) & set(context.cohort)) < max(enough, len(answered)):
            raise SealError(
                f"{self.name}: refused; the pairwise seal opens sums of at least {enough} of this round's "
                f"{len(context.cohort)} sites: ask again when more of them answer"
            )
        if self.name not in answered:
            raise SealError(f"{self.name}: refused; its own message is not in the sum that is to be opened")
        opened = [self._open_share(context, peer, shares) for peer in answered]
        lost = [s for s in context.cohort if s not in answered and s in self._peers]
        given = self._lock(context, answered, opened, [self._seed(s, context) for s in lost])
        self._revealed[context.digest()] = answered, given
        return given

    def _open_share(self, context: Context, peer: str, shares: Mapping[str, bytes]) -> bytes:
        try:
            return _decrypt(self._box(peer, context, peer), shares[peer], context)
        except (InvalidTag, KeyError):
            raise SealError(f"{self.name}: the share of {peer!r} was altered or is missing; round rejected") from None

    def _lock(self, context: Context, answered: tuple[str, ...], shares: list[bytes], seeds: list[bytes]) -> Revealed:
        """Encrypt what is given so that it opens with the tokens of others for the same list only."""
        key, agreed = os.urandom(SECRET_BYTES), list_digest(context, answered)
        box = once(key, agreed).encrypt(bytes(12), b"".join(shares + seeds), agreed)
        peers = [s for s in context.cohort if s in self._peers]
        parts = split(key, context.cohort)  # those of sites that are away leave with nobody
        keys = {peer: xor(parts[peer], self._token(peer, peer, agreed)) for peer in peers} | {
            self.name: parts[self.name]
        }
        return Revealed(self.name, {s: self._token(s, self.name, agreed) for s in peers}, keys, box)

    def _statement(self, name: str, public: bytes, says: bytes) -> bytes:
        return b"infl pairwise key " + self._run.encode() + b"\x1f" + name.encode() + b"\x1f" + public + says

    def _seed(self, peer: str, context: Context) -> bytes:
        return HKDFExpand(SHA256(), SEED_BYTES, b"mask" + context.digest()).derive(self._peers[peer])

    def _seed_of_all(self, peer: str, context: Context) -> bytes:
        """Return the seed, never given away, of a mask on what is opened of all sites only; with this site, it is its alone."""
        secret = self._private.private_bytes_raw() if peer == self.name else self._peers[peer]
        return HKDFExpand(SHA256(), SEED_BYTES, b"mask of all" + context.digest()).derive(secret)

    def _token(self, peer: str, giver: str, agreed: bytes) -> bytes:
        """Return what `giver` (this site or the peer) gives for a list so that what the other one gave opens."""
        info = b"token of " + giver.encode() + b"\x1f" + agreed
        return HKDFExpand(SHA256(), SECRET_BYTES, info).derive(self._peers[peer])

    def _box(self, peer: str, context: Context, sender: str) -> ChaCha20Poly1305:
        """Return what encrypts the share that `sender` sends between this site and a peer (or keeps for itself)."""
        secret = self._private.private_bytes_raw() if peer == self.name else self._peers[peer]
        info = b"share of " + sender.encode() + b"\x1f" + context.digest()
        return ChaCha20Poly1305(HKDFExpand(SHA256(), 32, info).derive(secret))


def _check_identity(name: str, member: bytes | None, signature: bytes, statement: bytes) -> None:
    if member is None:
        raise SealError(f"{name!r} is not a member in this site's grant trail, so its public key is refused")
    try:
        Ed25519PublicKey.from_public_bytes(member).verify(signature, statement)
    except (InvalidSignature, ValueError):
        raise SealError(f"the public key of {name!r} is not signed with its member's identity; refused") from None


def _encrypt(box: ChaCha20Poly1305, plain: bytes, context: Context) -> bytes:
    nonce = os.urandom(12)
    return nonce + box.encrypt(nonce, plain, context.digest())


def _decrypt(box: ChaCha20Poly1305, sealed: bytes, context: Context) -> bytes:
    return box.decrypt(sealed[:12], sealed[12:], context.digest())
