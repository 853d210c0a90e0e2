"""Cuts an MPEG transport stream into segments before key frames; changes no packet.

Every packet that goes in comes out in exactly one segment, in order. A segment whose first packet
is not the program's tables gets the latest ones in front, so that it plays alone. Cuts fall where a
video key frame begins (`random_access_indicator`, or an IDR or CRA picture in H.264 and H.265), at
the first one after the wanted length; without video they fall where an audio frame begins.

Not here: making a transport stream of other containers (`remuxing`), sockets and files.

Spec: ISO/IEC 13818-1, sections 2.4.3 (packets, PES) and 2.4.4 (tables).
"""

from dataclasses import dataclass, field

PACKET_BYTES = 188
SYNC_BYTE = 0x47
TICKS_PER_MS = 90
_TIMESTAMP_TICKS = 1 << 33
_PAT_PID = 0
_VIDEO_TYPES = {0x01, 0x02, 0x10, 0x1B, 0x24, 0x33, 0x42}
_AUDIO_TYPES = {0x03, 0x04, 0x0F, 0x11, 0x81, 0x87, 0x06}
_H264, _H265 = 0x1B, 0x24
_JUMP_TICKS = 10_000 * TICKS_PER_MS
"""A step of the timestamps over ten seconds, or backwards, starts media time anew."""

SEGMENT_BYTES_MAX = 48 << 20
"""A segment is cut here at the latest, even without a key frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSegment:
    """One segment as it was cut."""

    data: bytes = field(repr=False)
    media_ms: int
    """Media time to the next segment; ≥ 1."""
    is_discontinuous: bool
    """Whether its timestamps do not follow those before."""


@dataclass(slots=True)
class _Open:
    """The segment that is being filled."""

    packets: bytearray = field(default_factory=bytearray)
    first_ticks: int | None = None
    last_ticks: int | None = None
    frame_ticks: int = 0
    is_discontinuous: bool = False


class TsCutter:
    """Takes bytes of a transport stream, gives segments."""

    def __init__(self, segment_ms: int) -> None:
        """Begin a stream.

        Args:
            segment_ms: Wanted media time of a segment, ≥ 1; key frames decide the true one.
        """
        self._segment_ticks = segment_ms * TICKS_PER_MS
        self._rest = bytearray()
        self._in_rhythm = False
        self._open = _Open()
        self._pmt_pid = -1
        self._lead_pid = -1
        self._lead_type = 0
        self._has_video = False
        self._tables: dict[int, bytes] = {}
        self._pending_tables = bytearray()
        self.skipped_bytes = 0
        """Bytes that were no packets: the stream lost its rhythm."""

    def feed(self, data: bytes) -> list[CutSegment]:
        """Take more bytes; return the segments that they complete."""
        self._rest += data
        done: list[CutSegment] = []
        at, end = 0, len(self._rest)
        while end - at >= PACKET_BYTES:
            is_alone = end - at > PACKET_BYTES and self._rest[at + PACKET_BYTES] != SYNC_BYTE
            # In rhythm one sync byte is enough; to find the rhythm again it takes two.
            if self._rest[at] != SYNC_BYTE or (is_alone and not self._in_rhythm):
                at += 1
                self.skipped_bytes += 1
                self._in_rhythm = False
                continue
            self._in_rhythm = True
            cut = self._take(bytes(self._rest[at : at + PACKET_BYTES]))
            if cut is not None:
                done.append(cut)
            at += PACKET_BYTES
        del self._rest[:at]
        return done

    def finish(self) -> list[CutSegment]:
        """Return what is left as a last segment; the cutter then begins a new stream."""
        self._open.packets += self._pending_tables
        self._pending_tables.clear()
        last = self._open
        rest = len(self._rest)
        self.skipped_bytes += rest
        self._rest.clear()
        self._open = _Open(is_discontinuous=True)
        if not last.packets:
            return []
        # The last frame lasts as long as the one before it.
        end = None if last.last_ticks is None else last.last_ticks + last.frame_ticks
        return [self._close(last, end)]

    def mark_discontinuity(self) -> None:
        """Say that what comes next does not follow what came; call it after `finish`."""
        self._open.is_discontinuous = True

    def _take(self, packet: bytes) -> CutSegment | None:
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid in {_PAT_PID, self._pmt_pid}:
            self._read_table(pid, packet)
            # Tables belong in front of the key frame that may follow them.
            self._pending_tables += packet
            return None
        cut = None
        if pid == self._lead_pid and packet[1] & 0x40:
            ticks = read_timestamp(packet)
            if ticks is not None:
                cut = self._cut_before(packet, ticks)
        self._open.packets += self._pending_tables
        self._pending_tables.clear()
        self._open.packets += packet
        if cut is None and len(self._open.packets) >= SEGMENT_BYTES_MAX:
            full, self._open = self._open, _Open(first_ticks=self._open.last_ticks)
            return self._close(full, full.last_ticks)
        return cut

    def _cut_before(self, packet: bytes, ticks: int) -> CutSegment | None:
        current = self._open
        is_start = not self._has_video or is_key_frame(packet, self._lead_type)
        if current.first_ticks is None or current.last_ticks is None:
            if is_start:
                current.first_ticks = current.last_ticks = ticks
            return None
        since = (ticks - current.first_ticks) % _TIMESTAMP_TICKS
        step = (ticks - current.last_ticks) % _TIMESTAMP_TICKS
        backwards = step >= _TIMESTAMP_TICKS - _JUMP_TICKS
        jumped = not backwards and step > _JUMP_TICKS
        if not backwards:
            current.last_ticks = ticks
            if not jumped:
                current.frame_ticks = step
        # Half a frame early is on time: timestamps are rounded.
        if not is_start or (since + 20 * TICKS_PER_MS < self._segment_ticks and not jumped):
            return None
        self._open = _Open(first_ticks=ticks, last_ticks=ticks, is_discontinuous=jumped)
        self._start_with_tables()
        end = current.first_ticks + self._segment_ticks if jumped else ticks
        return self._close(current, end)

    def _start_with_tables(self) -> None:
        if not self._pending_tables:
            for pid in (_PAT_PID, self._pmt_pid):
                self._open.packets += self._tables.get(pid, b"")

    def _close(self, done: _Open, end_ticks: int | None) -> CutSegment:
        ticks = self._segment_ticks
        if done.first_ticks is not None and end_ticks is not None:
            ticks = (end_ticks - done.first_ticks) % _TIMESTAMP_TICKS
        return CutSegment(
            data=bytes(done.packets),
            media_ms=max(1, ticks // TICKS_PER_MS),
            is_discontinuous=done.is_discontinuous,
        )

    def _read_table(self, pid: int, packet: bytes) -> None:
        section = _section_of(packet)
        if section is None:
            return
        self._tables[pid] = packet
        if pid == _PAT_PID and section[0] == 0x00:
            for at in range(8, len(section) - 4 - 3, 4):
                program = section[at] << 8 | section[at + 1]
                if program:
                    self._pmt_pid = (section[at + 2] & 0x1F) << 8 | section[at + 3]
                    return
        elif pid == self._pmt_pid and section[0] == 0x02:
            self._read_streams(section)

    def _read_streams(self, section: bytes) -> None:
        found: dict[int, int] = {}
        at = 12 + ((section[10] & 0x0F) << 8 | section[11])
        while at + 5 <= len(section) - 4:
            pid = (section[at + 1] & 0x1F) << 8 | section[at + 2]
            found[pid] = section[at]
            at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
        for kinds in (_VIDEO_TYPES, _AUDIO_TYPES):
            leads = [pid for pid, kind in found.items() if kind in kinds]
            if leads:
                self._lead_pid = leads[0]
                self._lead_type = found[leads[0]]
                self._has_video = kinds is _VIDEO_TYPES
                return


def is_transport_stream(head: bytes) -> bool:
    """Tell whether bytes begin like a transport stream: sync bytes in rhythm."""
    return len(head) > 2 * PACKET_BYTES and all(
        head[at] == SYNC_BYTE for at in (0, PACKET_BYTES, 2 * PACKET_BYTES)
    )


def _payload_of(packet: bytes) -> bytes:
    control = packet[3] >> 4 & 3
    if control == 1:
        return packet[4:]
    if control == 3:
        return packet[5 + packet[4] :]
    return b""


def _section_of(packet: bytes) -> bytes | None:
    """Return a table section that begins and ends in this packet."""
    payload = _payload_of(packet)
    if not packet[1] & 0x40 or not payload:
        return None
    section = payload[1 + payload[0] :]
    if len(section) < 12:
        return None
    length = 3 + ((section[1] & 0x0F) << 8 | section[2])
    return section[:length] if length <= len(section) else None


def read_timestamp(packet: bytes) -> int | None:
    """Return the decoding or presentation timestamp of a PES packet's start, in 90 kHz ticks.

    The decoding timestamp if there is one: it rises from frame to frame. None without either.
    """
    pes = _payload_of(packet)
    if len(pes) < 14 or pes[:3] != b"\0\0\1" or not pes[7] & 0x80:
        return None
    at = 14 if pes[7] & 0x40 and len(pes) >= 19 else 9
    stamp = pes[at : at + 5]
    return (
        (stamp[0] >> 1 & 7) << 30
        | stamp[1] << 22
        | (stamp[2] >> 1) << 15
        | stamp[3] << 7
        | stamp[4] >> 1
    )


def is_key_frame(packet: bytes, stream_type: int) -> bool:
    """Tell whether the packet that starts a video PES starts a key frame.

    Args:
        packet: 188 bytes with `payload_unit_start_indicator`.
        stream_type: As the program map names it.
    """
    if packet[3] & 0x20 and packet[4] and packet[5] & 0x40:
        return True
    payload = _payload_of(packet)
    at = payload.find(b"\0\0\1", 9)
    while at >= 0 and at + 3 < len(payload):
        unit = payload[at + 3]
        if stream_type == _H264 and unit & 0x1F == 5:
            return True
        if stream_type == _H265 and 16 <= (unit >> 1 & 0x3F) <= 21:
            return True
        at = payload.find(b"\0\0\1", at + 3)
    return False
