"""Relay: how two session keys that cannot reach each other pass bytes through the collector.

A frame carries a piece of one direction of a stream; its payload is encrypted between the two keys,
so who relays it learns keys, sizes and times, and no content. A fetch is the recipient's signed
wish for what waits for it, and says what it has received. Not here: storing (`ledger.store`), and
what the bytes mean (the engine's side channel). Source: FORMATS.md, "Relay".
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ledger.evidence.encoding import (
    TAG_SIZE,
    Layout,
    Reader,
    RecordCode,
    RecordType,
    Signed,
    format_counted,
    format_tag,
    parse_tag,
)
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.keys import SEAL_SIZE, SIGNATURE_SIZE, sign, verify

CHANNEL_ID_SIZE: Final = 16
ADDRESS_SIZE: Final = 16
"""An IPv6 address, or an IPv4 address mapped into it; zeros: unknown."""

PAYLOAD_SIZE_MAX: Final = 64 * 1024
"""Most bytes of a frame's payload, sealed."""

_HEAD = Layout(
    "relay",
    [
        ("from_key", "bytes32"),
        ("to_key", "bytes32"),
        ("channel_id", "bytes16"),
        ("sequence", "u32"),
    ],
)
RELAY_HEAD = _HEAD
"""The fixed part after the tag, for the format document's test."""

_COUNT_SIZE = 4
_EMPTY_SIZE = SIGNATURE_SIZE + TAG_SIZE + _HEAD.size + _COUNT_SIZE
FRAME_SIZE_MIN: Final = _EMPTY_SIZE + SEAL_SIZE
FRAME_SIZE_MAX: Final = _EMPTY_SIZE + PAYLOAD_SIZE_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayFrame:
    """One piece of one direction of a relayed stream."""

    network_id: bytes
    """32 bytes."""

    from_key: bytes
    """Session key of the sender, 32 bytes; signer."""

    to_key: bytes
    """Session key of the recipient, 32 bytes."""

    channel_id: bytes
    """Random, chosen by whoever opened the stream; the same in both directions; 16 bytes."""

    sequence: int
    """Number of the frame in its direction, from 0, without gaps."""

    payload: bytes
    """Sealed between the two keys; nothing sealed ends the direction."""

    def __post_init__(self) -> None:
        if not SEAL_SIZE <= len(self.payload) <= PAYLOAD_SIZE_MAX:
            raise MalformedRecordError(
                "relay.payload",
                got=f"{len(self.payload)} bytes",
                want=f"{SEAL_SIZE} to {PAYLOAD_SIZE_MAX}",
            )
        if self.from_key == self.to_key:
            raise MalformedRecordError("relay.to_key", got=self.to_key, want="another key")


def format_relay_body(frame: RelayFrame) -> bytes:
    """Return the bytes that the sender signs.

    Raises:
        MalformedRecordError: A value does not fit its field.
    """
    head = format_tag(RecordCode.RELAY, frame.network_id) + _HEAD.pack(frame)
    return head + format_counted(frame.payload)


def sign_relay(frame: RelayFrame, seed: bytes) -> Signed[RelayFrame]:
    """Return the frame signed by the sender's seed.

    Raises:
        MalformedRecordError: A value does not fit its field.
    """
    body = format_relay_body(frame)
    signature = sign(seed, body)
    return Signed(frame, signature + body, (signature,))


def parse_relay(raw: bytes) -> Signed[RelayFrame]:
    """Return the frame in these bytes; its signature is not verified yet.

    Raises:
        MalformedRecordError: Too short, too long, or a field is not canonical.
    """
    if not FRAME_SIZE_MIN <= len(raw) <= FRAME_SIZE_MAX:
        raise MalformedRecordError(
            "relay", got=f"{len(raw)} bytes", want=f"{FRAME_SIZE_MIN} to {FRAME_SIZE_MAX}"
        )
    signature, body = bytes(raw[:SIGNATURE_SIZE]), bytes(raw[SIGNATURE_SIZE:])
    _, network_id = parse_tag(RecordCode.RELAY, body)
    head_end = TAG_SIZE + _HEAD.size
    values = _HEAD.unpack(body[TAG_SIZE:head_end])
    reader = Reader("relay", body[head_end:])
    payload = reader.counted("payload", limit=PAYLOAD_SIZE_MAX)
    reader.finish()
    frame = RelayFrame(network_id=network_id, payload=payload, **values)
    return Signed(frame, bytes(raw), (signature,))


def is_signed_by_sender(signed: Signed[RelayFrame]) -> bool:
    """Tell whether the frame's signature is valid under the key it names as sender."""
    return verify(signed.value.from_key, signed.body, signed.signatures[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayFetch:
    """A recipient's wish for the frames that wait for it."""

    network_id: bytes
    """32 bytes."""

    key: bytes
    """Session key of the recipient, 32 bytes; signer."""

    ledger_ms: int
    """Ledger time of the asking, so that the wish cannot be used again later."""

    acknowledged: int
    """Number of the last frame received; frames up to it are dropped. 0: none."""


RELAY_FETCH = RecordType(
    RelayFetch,
    RecordCode.RELAY_FETCH,
    [("key", "bytes32"), ("ledger_ms", "u64"), ("acknowledged", "u64")],
)
"""Signed by the session key whose frames it asks for."""


@dataclass(frozen=True, slots=True)
class RelayedFrame:
    """A frame as the relay hands it out."""

    number: int
    """Ascending for one recipient; what a fetch acknowledges. n ≥ 1."""

    raw: bytes


def format_answer(address: bytes, frames: Iterable[RelayedFrame]) -> bytes:
    """Return the relay's answer: the asker's address, then numbered frames.

    Args:
        address: 16 bytes.
        frames: In ascending order.
    """
    parts = [address]
    for frame in frames:
        parts += [frame.number.to_bytes(8, "little"), format_counted(frame.raw)]
    return b"".join(parts)


def parse_answer(raw: bytes) -> tuple[bytes, list[RelayedFrame]]:
    """Return the address and the frames of an answer; the frames are not looked into.

    Raises:
        MalformedRecordError: It is cut short, or numbers do not ascend.
    """
    reader = Reader("relay answer", raw)
    address = reader.take(ADDRESS_SIZE, "address")
    return address, list(_parse_frames(reader, len(raw) - ADDRESS_SIZE))


def _parse_frames(reader: Reader, left: int) -> Iterator[RelayedFrame]:
    last = 0
    while left > 0:
        number = reader.integer(8, "number")
        if number <= last:
            raise MalformedRecordError("relay answer.number", got=number, want=f"over {last}")
        last = number
        raw = reader.counted("frame", limit=FRAME_SIZE_MAX)
        left -= 12 + len(raw)
        yield RelayedFrame(number, raw)
