"""What really went over the loopback interface: tcpdump's capture, read without any library.

Payload counts once however often TCP sent it. Format: the classic pcap file, Ethernet frames, IPv4.
"""

import os
import shutil
import struct
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_FILE_HEADER = struct.Struct("<IHHiIII")
_RECORD_HEADER = struct.Struct("<IIII")
_PCAP_MAGIC = 0xA1B2C3D4
_ETHERNET, _IPV4, _TCP = 1, 0x0800, 6
_SYN = 0x02


def require_tools(*names: str) -> None:
    """Skip a test where a server or the right to capture is missing."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if "tcpdump" in names and os.geteuid() != 0:
        pytest.skip("a capture needs root")


@contextmanager
def capture(port: int, file: Path) -> Iterator[None]:
    """Capture one port's traffic on the loopback interface while the block runs."""
    process = subprocess.Popen(
        ["tcpdump", "-i", "lo", "-n", "-s", "0", "-B", "65536", "-U", "--immediate-mode",
         "-Z", "root", "-w", str(file), "tcp", "port", str(port)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    first = process.stderr.readline()
    if "listening" not in first:
        first += process.stderr.readline()
    if "listening" not in first:
        process.kill()
        process.wait()
        process.stderr.close()
        pytest.skip(f"no capture: {first.strip()}")
    try:
        yield
        _wait_until_still(file)
    finally:
        process.terminate()
        rest = process.stderr.read()
        process.wait()
        process.stderr.close()
    assert "0 packets dropped by kernel" in rest, rest


def _wait_until_still(file: Path) -> None:
    """Until the capture has not grown for a while: its packets are on disk."""
    size, still_since = -1, time.monotonic()
    while time.monotonic() - still_since < 0.3:
        if file.stat().st_size != size:
            size, still_since = file.stat().st_size, time.monotonic()
        time.sleep(0.05)


@dataclass
class Flow:
    """One direction of a connection."""

    first_sequence: int | None = None
    parts: dict[int, bytes] = field(default_factory=dict)

    def add(self, sequence: int, payload: bytes) -> None:
        if self.first_sequence is None:
            self.first_sequence = sequence
        place = (sequence - self.first_sequence) & 0xFFFFFFFF
        if len(payload) > len(self.parts.get(place, b"")):
            self.parts[place] = payload

    def stream(self) -> bytes:
        """The payload without retransmissions."""
        data = bytearray()
        for place in sorted(self.parts):
            assert place <= len(data), "the capture has a hole"
            data += self.parts[place][len(data) - place :]
        return bytes(data)


def read_flows(file: Path) -> dict[tuple[int, int], Flow]:
    """Return flows by (source port, destination port)."""
    data = file.read_bytes()
    magic, *_, link_type = _FILE_HEADER.unpack_from(data)
    assert (magic, link_type) == (_PCAP_MAGIC, _ETHERNET)
    flows: dict[tuple[int, int], Flow] = defaultdict(Flow)
    place = _FILE_HEADER.size
    while place < len(data):
        _, _, kept, sent = _RECORD_HEADER.unpack_from(data, place)
        place += _RECORD_HEADER.size
        assert kept == sent, "a packet was cut"
        _add_frame(flows, data[place : place + kept])
        place += kept
    return flows


def _add_frame(flows: dict[tuple[int, int], Flow], frame: bytes) -> None:
    if int.from_bytes(frame[12:14], "big") != _IPV4 or frame[23] != _TCP:
        return
    ip = frame[14:]
    ip_header = (ip[0] & 15) * 4
    length = int.from_bytes(ip[2:4], "big") or len(ip)
    tcp = ip[ip_header:length]
    source, target, sequence = struct.unpack_from(">HHI", tcp)
    payload = tcp[(tcp[12] >> 4) * 4 :]
    is_syn = bool(tcp[13] & _SYN)
    flow = flows[source, target]
    if is_syn:
        flow.first_sequence = (sequence + 1) & 0xFFFFFFFF
    elif payload:
        flow.add(sequence, payload)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer as it stood on the wire."""

    request_id: str
    status: int
    head_bytes: int
    body_bytes: int
    is_whole: bool

    @property
    def total_bytes(self) -> int:
        return self.head_bytes + self.body_bytes


def split_answers(stream: bytes, methods: list[str], id_header: str) -> list[Answer]:
    """Cut a server's stream into its answers to requests of these methods, in order."""
    answers = []
    for method in methods:
        end = stream.find(b"\r\n\r\n")
        if end < 0:
            break
        head, stream = stream[: end + 4], stream[end + 4 :]
        lines = head.decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        status = int(lines[0].split()[1])
        wanted = int(fields.get("content-length", "0"))
        if method == "HEAD" or status in {204, 304}:
            wanted = 0
        body, stream = stream[:wanted], stream[wanted:]
        request_id = fields.get(id_header, "").split(" ")[0]
        answers.append(Answer(request_id, status, len(head), len(body), len(body) == wanted))
    return answers
