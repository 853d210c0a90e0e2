"""Keys of one side channel: what both sides share, and the seals on its short records.

Each side's hello carries an X25519 key made for this channel only, and each side's proof signs
both hellos. So the secret the two agree on is known to the holders of both session keys and to
nobody between them. From it come two keys, one per direction: a record that its sender did not
sign carries 16 bytes of keyed BLAKE2b over its place in the direction's sequence, its type and
its bytes. A record that is repeated, reordered, dropped, sent back or made up does not fit.

Not here: signatures (`ledger.evidence.keys`), what the records say (`wire`).
Source: FORMATS.md, "Side channel"; RFC 7748, RFC 7693.
"""

import hmac
from dataclasses import dataclass
from hashlib import blake2b

SEAL_SIZE = 16
"""Bytes of a seal."""

_KEY_PERSON = b"swarmledger key\0"
_SEAL_PERSON = b"swarmledger seal"


class Sealer:
    """One direction of one channel: seals records, or opens them, strictly in order."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0

    def seal(self, code: int, record: bytes) -> bytes:
        """Return the seal of the direction's next sealed record."""
        seal = self._compute(code, record)
        self._count += 1
        return seal

    def opens(self, code: int, record: bytes, seal: bytes) -> bool:
        """Tell whether a seal is that of the direction's next record; if so it is used up."""
        is_good = hmac.compare_digest(self._compute(code, record), seal)
        self._count += is_good
        return is_good

    def _compute(self, code: int, record: bytes) -> bytes:
        place = self._count.to_bytes(8, "little") + code.to_bytes(1, "little")
        return blake2b(
            place + record, digest_size=SEAL_SIZE, key=self._key, person=_SEAL_PERSON
        ).digest()


@dataclass(frozen=True, slots=True)
class ChannelSealers:
    """Both directions, named by who sends."""

    dialler: Sealer
    answerer: Sealer


def derive_sealers(secret: bytes, dialler_hello: bytes, answerer_hello: bytes) -> ChannelSealers:
    """Return the sealers of a channel.

    Args:
        secret: What the two exchange keys agree on; 32 bytes.
        dialler_hello: Body of the hello of whoever dialled.
        answerer_hello: Body of the other's.
    """

    def key(role: bytes) -> bytes:
        transcript = role + dialler_hello + answerer_hello
        return blake2b(transcript, digest_size=32, key=secret, person=_KEY_PERSON).digest()

    return ChannelSealers(Sealer(key(b"\1")), Sealer(key(b"\2")))
