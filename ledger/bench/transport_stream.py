"""A made MPEG transport stream of a given rate: real packets, tables and timestamps, no picture.

Enough for whoever cuts, shares and counts it; a decoder would show nothing.

Spec: ISO/IEC 13818-1, sections 2.4.3 and 2.4.4.
"""

import random

PACKET_BYTES = 188
FRAMES_PER_S = 25
_TICKS_PER_S = 90_000
_PMT_PID, _VIDEO_PID = 0x1000, 0x100


def make_segments(count: int, *, segment_s: float, rate_kbps: int, seed: int = 1) -> list[bytes]:
    """Return consecutive segments, each beginning with tables and a key frame.

    Args:
        count: Segments, ≥ 1.
        segment_s: Media time of each, a multiple of 1/25 s.
        rate_kbps: Thousand bits per second.
        seed: Same seed, same bytes.
    """
    source = random.Random(seed)  # noqa: S311 - filler, no secret
    frames = round(segment_s * FRAMES_PER_S)
    per_frame = rate_kbps * 1000 // 8 // FRAMES_PER_S
    segments: list[bytes] = []
    for number in range(count):
        packets = [_table_packet(0, _PAT), _table_packet(_PMT_PID, _PMT)]
        for frame in range(frames):
            ticks = (number * frames + frame + 1) * _TICKS_PER_S // FRAMES_PER_S
            packets += _frame_packets(source, per_frame, ticks, is_key=frame == 0)
        segments.append(b"".join(packets))
    return segments


def _frame_packets(source: random.Random, size: int, ticks: int, *, is_key: bool) -> list[bytes]:
    pes = b"\0\0\1\xe0\0\0\x80\x80\x05" + _timestamp(ticks) + source.randbytes(max(1, size))
    packets: list[bytes] = []
    at = 0
    while at < len(pes):
        is_first = not at
        field = b"\x40" if is_first and is_key else b""
        room = PACKET_BYTES - 4 - (1 + len(field) if field else 0)
        payload = pes[at : at + room]
        at += len(payload)
        packets.append(_packet(_VIDEO_PID, payload, field, is_first=is_first))
    return packets


def _packet(pid: int, payload: bytes, field: bytes, *, is_first: bool) -> bytes:
    head = bytes((0x47, (0x40 if is_first else 0) | pid >> 8, pid & 0xFF))
    missing = PACKET_BYTES - 4 - len(payload)
    if not missing:
        return head + b"\x10" + payload
    # An adaptation field fills what the payload leaves: its length, flags, stuffing.
    flags = field or b"\0"
    if missing == 1:
        return head + b"\x30\0" + payload
    stuffing = b"\xff" * (missing - 1 - len(flags))
    return head + b"\x30" + bytes((missing - 1,)) + flags + stuffing + payload


def _timestamp(ticks: int) -> bytes:
    return bytes(
        (
            0x21 | (ticks >> 30 & 7) << 1,
            ticks >> 22 & 0xFF,
            (ticks >> 15 & 0x7F) << 1 | 1,
            ticks >> 7 & 0xFF,
            (ticks & 0x7F) << 1 | 1,
        )
    )


def _crc(data: bytes) -> bytes:
    """CRC-32 of MPEG-2 tables."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc.to_bytes(4, "big")


def _table(table: int, body: bytes) -> bytes:
    section = bytes((table, 0xB0, len(body) + 4)) + body
    return section + _crc(section)


def _table_packet(pid: int, section: bytes) -> bytes:
    payload = b"\0" + section
    return bytes((0x47, 0x40 | pid >> 8, pid & 0xFF, 0x10)) + payload.ljust(184, b"\xff")


_PAT = _table(0, b"\0\1\xc1\0\0\0\1" + (0xE000 | _PMT_PID).to_bytes(2, "big"))
_PMT = _table(
    2,
    b"\0\1\xc1\0\0"
    + (0xE000 | _VIDEO_PID).to_bytes(2, "big")
    + b"\xf0\0\x1b"
    + (0xE000 | _VIDEO_PID).to_bytes(2, "big")
    + b"\xf0\0",
)
