"""How a site reaches the others in one step of a study: the channel of its consortium, bound to all that was said before.

Sums go under the seal. Names go encrypted under a key that all sites have and the coordinator has not. What is said goes as a digest
under such a key, since it may follow from names: the coordinator sees whether sites say the same, and cannot try what. All is bound to a chain
over the study, the step, what each site drew at random at its beginning, and every exchange since. So sites that were told
different things open nothing together, and no two attempts share a mask unless they send the same bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from infl._files import parse_json
from infl.errors import FederationError
from infl.federation.messages import Heard, Said
from infl.privacy.seal import Context, MaskedArrays

if TYPE_CHECKING:
    from infl.deploy.study.specification import Study
    from infl.keys import Keyring
    from infl.privacy.seal import Ledger

BEGIN, DONE, END = "begin", "done", "end"
"""First and last exchange of a step: what each site drew, and that it has written its new working object; the study's last one."""
NAMES, KINDS = b"names of a study", b"kinds of a study"
"""Set the keys of names, and of digests of what is said, apart from those of masks and tags."""
BLOCK = 256
"""Names are padded to multiples of this many bytes, so that their size tells less of them."""


class StudyChannel:
    """A channel of :class:`infl.data.consortium.Consortium`.

    Parameters
    ----------
    study, site, step
        Which step of what, at which site.
    drawn
        Random bytes of this site, drawn once for the step and kept before they are used.
    key
        Key ring of the study.
    ledger
        Where a message is written down before it is sent.
    exchange
        Sends a message and returns what came of it; asked again, the same.
    """

    def __init__(
        self,
        study: Study,
        site: str,
        step: int,
        drawn: bytes,
        *,
        key: Keyring,
        ledger: Ledger,
        exchange: Callable[[Said], Heard],
    ) -> None:
        self.members, self._study, self._site, self._step = study.sites, study, site, step
        self._ledger, self._send = ledger, exchange

        def subkey(purpose: bytes) -> bytes:
            return key.subkey("seal", version=study.key_version, salt=purpose + bytes.fromhex(study.run))

        self._cipher, self._kinds = AESSIV(subkey(NAMES)), subkey(KINDS)
        self._number = 0
        self.run = _digest(study.digest, str(step))
        self.agree(BEGIN if step < len(study.steps) else END, {site: drawn.hex()})

    def number(self) -> int:
        """Return the number of the next exchange."""
        return self._number

    def add(self, kind: str, share: Any) -> Any:
        """Return the sum of all members' masked shares."""
        context = Context(self._study.run, self._step + 1, 0, self.members, self._place(shown(kind)), kind)
        self._ledger.record(context, share, sealed=True)
        heard = self._exchange(kind, share, b"")
        if heard.words.lanes != share.lanes or heard.names:
            raise FederationError(
                f"{self._site}: the coordinator answered {heard.words.lanes} words, {share.lanes} are due"
            )
        self._link(kind, heard.words.digest())
        return heard.words

    def agree(self, kind: str, names: Mapping[str, Any]) -> dict[str, Any]:
        """Return what all members say, in the order of members."""
        if [*names] != [self._site]:
            raise FederationError(f"{self._site}: names of {', '.join(names) or 'no site'} are not its own to say")
        text = json.dumps(names[self._site]).encode()
        text += b" " * (-len(text) % BLOCK)
        sealed = self._cipher.encrypt(text, [self._bound(kind, self._site)])
        self._ledger.record_other(self._study.run, self._number, f"step {self._step + 1}, names: {shown(kind)}", sealed)
        heard = self._exchange(kind, MaskedArrays(np.zeros(0, np.uint32), np.zeros(0, np.uint64)), sealed)
        if {*heard.names} != {*self.members} or heard.names[self._site] != sealed:
            raise FederationError(f"{self._site}: the coordinator passed on other names than those of all sites")
        said = {member: self._opened(kind, member, heard.names[member]) for member in self.members}
        self._link(kind, *(heard.names[member].hex() for member in self.members))
        return said

    def _opened(self, kind: str, member: str, sealed: bytes) -> Any:
        try:
            return parse_json(self._cipher.decrypt(sealed, [self._bound(kind, member)]))
        except (InvalidTag, ValueError):
            raise FederationError(
                f"{self._site}: what {member} said was altered on the way, or the sites were told different things before"
            ) from None

    def _exchange(self, kind: str, words: MaskedArrays, names: bytes) -> Heard:
        study = self._study
        said = Said(self._site, study.run, self._step, self._number, self._kind(kind), words, names)
        heard = self._send(said)
        if (heard.run, heard.step, heard.number) != (said.run, said.step, said.number):
            raise FederationError(f"{self._site}: the coordinator answered another exchange than the one that is due")
        return heard

    def _kind(self, kind: str) -> str:
        """Return a digest of what is said that only who has the key can compare with a guess."""
        return hmac.new(self._kinds, self._bound(kind, ""), "sha256").hexdigest()

    def _place(self, kind: str) -> str:
        return f"{self._number}:step {self._step + 1}, {kind}"

    def _bound(self, kind: str, site: str) -> bytes:
        return json.dumps([self.run, self._number, kind, site]).encode()

    def _link(self, kind: str, *heard: str) -> None:
        self.run = _digest(self.run, str(self._number), kind, *heard)
        self._number += 1


def shown(kind: str) -> str:
    """Return what a ledger says of an exchange: its kind without a digest.

    Examples
    --------
    >>> shown("pca: sums " + 64 * "0"), shown("features")
    ('pca: sums', 'features')
    """
    return re.sub(r" [0-9a-f]{64}$", "", kind)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
