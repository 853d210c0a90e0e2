"""Logs of real servers held against what a capture on the interface shows, to the byte."""

import random
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from other_clients import free_port
from packet_capture import Answer, capture, read_flows, require_tools, split_answers

from ledger.cdnlogs.contents import Contents
from ledger.cdnlogs.field_map import load_field_map, parse_field_map
from ledger.cdnlogs.reading import Job, read_log, request_key
from ledger.cdnlogs.rows import LogRow
from ledger.cdnlogs.tally import Tally

pytestmark = pytest.mark.process
SMALL, LARGE = 300_007, 64_000_000
SID = "6e2fb550-c457-11e9-bb97-0800200c9a66"
QUERY = f"CMCD=sid%3D%22{SID}%22"

NGINX = """
user root; pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off;
events {{ worker_connections 64; }}
http {{
  log_format swarmledger '$remote_addr - $remote_user [$time_local] "$request" $status '
    '$body_bytes_sent "$http_referer" "$http_user_agent" $request_id $bytes_sent '
    '"$request_completion" $host';
  access_log {folder}/access.log swarmledger;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  default_type video/mp2t;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/root; if_modified_since before;
    add_header X-Request-ID $request_id always;
    location /slow/ {{ alias {folder}/root/; limit_rate 300k; }}
  }}
}}
"""

VARNISH_MAP = """
title = "Varnish by varnishncsa"
layout = "quoted"
columns = ["host_ip", "time", "request", "status", "body", "xid", "total", "length", "host"]
nulls = ["-", ""]
[time]
fields = ["time"]
format = "common-log"
[fields]
request_id = "xid"
request = "request"
status = "status"
body_bytes = "body"
total_bytes = "total"
content_length = "length"
host = "host"
"""
VARNISH_FORMAT = '%h %t "%r" %s %b %{Varnish:vxid}x %O "%{Content-Length}o" %{Host}i'


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on port {port}")


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """An nginx with two files; yields its port."""
    root = folder / "root"
    root.mkdir(parents=True)
    rng = random.Random(1)
    (root / "small.ts").write_bytes(rng.randbytes(SMALL))
    (root / "large.ts").write_bytes(rng.randbytes(1000) * (LARGE // 1000))
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    with running(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]):
        wait_for_port(port)
        yield port


class Client:
    """Speaks HTTP over raw sockets and remembers which methods it used on which local port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.methods: dict[int, list[str]] = {}

    def talk(self, *requests: tuple[str, str, str], leave_after: int = 0) -> None:
        """Send requests on one connection; read each answer whole, or leave early."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            if leave_after:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            own = self.methods.setdefault(connection.getsockname()[1], [])
            for number, (method, path, fields) in enumerate(requests, start=1):
                own.append(method)
                last = "Connection: close\r\n" if number == len(requests) else ""
                head = f"{method} {path} HTTP/1.1\r\nHost: cdn.example\r\n{fields}{last}\r\n"
                connection.sendall(head.encode())
                if leave_after:
                    self._read(connection, leave_after)
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    return
                if number < len(requests):
                    self._read_answer(connection, method)
            while connection.recv(65_536):
                pass

    @staticmethod
    def _read(connection: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size and (part := connection.recv(min(65_536, size - len(data)))):
            data += part
        return data

    def _read_answer(self, connection: socket.socket, method: str) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(connection, 1)
        text = head.decode("latin-1").lower()
        length = next(
            (int(line.split(":")[1]) for line in text.split("\r\n") if "content-length" in line), 0
        )
        if method != "HEAD" and " 304 " not in text:
            self._read(connection, length)


def visit(client: Client) -> None:
    """Ranges, keep-alive, HEAD, 304, 404, an empty range, answers that are left."""
    path = f"/small.ts?{QUERY}"
    client.talk(("GET", path, ""))
    client.talk(
        ("GET", path, "Range: bytes=0-99999\r\n"),
        ("GET", path, "Range: bytes=100000-\r\n"),
        ("GET", path, "Range: bytes=-7\r\n"),
        ("GET", path, "Range: bytes=900000-\r\n"),
        ("HEAD", path, ""),
        ("GET", path, "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n"),
        ("GET", "/missing.ts", ""),
    )
    client.talk(("GET", f"/large.ts?{QUERY}", "Range: bytes=0-2999999\r\n"))


def answers_on_wire(file: Path, client: Client, id_header: str) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    for (source, target), flow in read_flows(file).items():
        if source == client.port and target in client.methods:
            for answer in split_answers(flow.stream(), client.methods[target], id_header):
                found[answer.request_id] = answer
    return found


def wait_for_lines(log: Path, count: int) -> bytes:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= count:
            return log.read_bytes()
        time.sleep(0.05)
    raise AssertionError(f"log: got {log.read_bytes() if log.exists() else b''!r}, want {count}")


def rows_by_id(data: bytes, job: Job) -> dict[bytes, LogRow]:
    rows = list(read_log([data], job))
    assert all(isinstance(row, LogRow) for row in rows), rows
    return {row.key: row for row in rows if isinstance(row, LogRow)}


def require_same_bytes(rows: dict[bytes, LogRow], wire: dict[str, Answer], left: int) -> None:
    """Whole answers: equal to the byte. Left ones: marked, and logged with what was handed out."""
    assert len(rows) == len(wire)
    seen_left = 0
    for request_id, answer in wire.items():
        row = rows[request_key(request_id)]
        assert (row.status, row.host) == (answer.status, "cdn.example")
        if answer.is_whole:
            assert not row.is_aborted, row
            assert (row.body_bytes or 0, row.total_bytes) == (
                answer.body_bytes,
                answer.total_bytes,
            ), row
        else:
            seen_left += 1
            assert row.is_aborted, row
            assert row.body_bytes is not None
            # The server counts what its socket took; the rest of it never left the machine.
            assert answer.body_bytes <= row.body_bytes < LARGE
    assert seen_left == left


def test_nginx_log_states_what_the_wire_carried(tmp_path: Path) -> None:
    require_tools("nginx", "tcpdump")
    pcap = tmp_path / "capture.pcap"
    with nginx(tmp_path / "nginx") as port:
        client = Client(port)
        with capture(port, pcap):
            visit(client)
            client.talk(("GET", f"/slow/large.ts?{QUERY}", ""), leave_after=100_000)
            client.talk(("GET", f"/large.ts?{QUERY}", ""), leave_after=400_000)
            data = wait_for_lines(tmp_path / "nginx" / "access.log", 11)
    wire = answers_on_wire(pcap, client, "x-request-id")
    assert sorted({answer.status for answer in wire.values()}) == [200, 206, 304, 404, 416]
    job = Job(field_map=load_field_map("nginx"), hosts=frozenset({"cdn.example"}))
    require_same_bytes(rows_by_id(data, job), wire, left=2)
    tally = Tally(contents=Contents.of({}))
    tally.add("access.log", read_log([data, data], job))
    groups, counters = tally.finish()
    assert (counters.accepted, counters.duplicate, counters.sum) == (11, 11, 22)
    known = next(totals for key, totals in groups.items() if key.session_id)
    whole = [answer for answer in wire.values() if answer.is_whole and answer.status != 404]
    assert known.payload_bytes - known.aborted_bytes == sum(a.body_bytes for a in whole)
    assert known.aborted_lines == 2


def test_varnish_log_states_what_the_wire_carried(tmp_path: Path) -> None:
    require_tools("nginx", "varnishd", "varnishncsa", "tcpdump")
    pcap, log, work = tmp_path / "capture.pcap", tmp_path / "varnish.log", tmp_path / "varnish"
    work.mkdir()
    with ExitStack() as stack:
        origin = stack.enter_context(nginx(tmp_path / "nginx"))
        port = free_port()
        stack.enter_context(
            running(
                [shutil.which("varnishd") or "", "-F", "-j", "none", "-n", str(work),
                 "-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{origin}", "-s", "malloc,64m"]
            )
        )  # fmt: skip
        wait_for_port(port)
        stack.enter_context(
            running(["varnishncsa", "-n", str(work), "-w", str(log), "-F", VARNISH_FORMAT])
        )
        probe = Client(port)
        deadline = time.monotonic() + 20
        while not (log.exists() and log.read_bytes()) and time.monotonic() < deadline:
            probe.talk(("GET", "/small.ts", ""))
            time.sleep(0.2)
        probed = len(log.read_bytes().splitlines())
        client = Client(port)
        with capture(port, pcap):
            visit(client)
            client.talk(("GET", f"/large.ts?{QUERY}", ""), leave_after=400_000)
            data = wait_for_lines(log, probed + 10)
    wire = answers_on_wire(pcap, client, "x-varnish")
    field_map = parse_field_map(VARNISH_MAP, name="varnish")
    rows = rows_by_id(data, Job(field_map=field_map))
    own = {request_key(request_id) for request_id in wire}
    require_same_bytes({key: row for key, row in rows.items() if key in own}, wire, left=1)
