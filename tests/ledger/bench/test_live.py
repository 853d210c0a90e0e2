"""The made stream is a stream, the origin publishes by the clock, and the bench measures one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from engine_plugin.live.ts_cutter import TsCutter
from ledger.bench.live_origin import LiveOrigin
from ledger.bench.shaped_network import Shape, shaped_hosts
from ledger.bench.transport_stream import PACKET_BYTES, make_segments


def test_made_stream_is_cut_where_its_segments_meet() -> None:
    made = make_segments(4, segment_s=1.0, rate_kbps=500)
    cutter = TsCutter(1000)
    cut = cutter.feed(b"".join(made)) + cutter.finish()
    assert [segment.data for segment in cut] == made
    assert [segment.media_ms for segment in cut] == [1000] * 4
    assert cutter.skipped_bytes == 0
    assert all(len(segment) % PACKET_BYTES == 0 for segment in made)
    assert 0.9 < len(made[0]) * 8 / 500_000 < 1.1


def test_origin_serves_what_is_published_and_counts_ranges() -> None:
    made = make_segments(2, segment_s=0.2, rate_kbps=500)
    with LiveOrigin(made, 0.2, "127.0.0.1") as origin:
        while origin.published < 3:
            pass
        base = origin.url.rpartition("/")[0]
        assert "0.ts" in httpx.get(origin.url).text
        assert httpx.get(f"{base}/0.ts").content == made[0]
        part = httpx.get(f"{base}/1.ts", headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, made[1][10:20])
        assert httpx.get(f"{base}/999.ts").status_code == 404
        assert dict(origin.served_bytes) == {"whole": len(made[0]), "range": 10}


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists() or not shutil.which("ip"),
    reason="needs root, TUN devices and iproute2",
)
def test_shaped_hosts_reach_each_other_with_the_delay_asked_for(tmp_path: Path) -> None:
    ping = (
        "import socket,sys,time;"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
        "t=time.monotonic();s.sendall(b'x');s.recv(1);"
        "print(time.monotonic()-t)"
    )
    echo = (
        "import socket,sys;"
        "s=socket.create_server((sys.argv[1],0));print(s.getsockname()[1],flush=True);"
        "c,_=s.accept();c.sendall(c.recv(1));c.recv(1)"
    )
    with shaped_hosts(3, Shape(delay_ms=40, loss=0.0), tmp_path) as hosts:
        server = subprocess.Popen(
            [*hosts[1].prefix, sys.executable, "-c", echo, hosts[1].address],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        answered = subprocess.run(
            [*hosts[2].prefix, sys.executable, "-c", ping, hosts[1].address, port],
            capture_output=True,
            text=True,
            check=True,
        )
        assert server.wait(10) == 0
        server.stdout.close()
    assert float(answered.stdout) >= 0.08


@pytest.mark.swarm
@pytest.mark.process
def test_bench_measures_a_stream_and_prints_its_figures() -> None:
    program = "from ledger.bench.command import main; main()"
    arguments = ["live", "--viewers", "2", "--seconds", "5", "--rate-kbps", "400", "--json"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    report = json.loads(ended.stdout)
    assert report["parameters"]["viewers"] == 2
    assert report["figures"]["delay_ms_p95"] > 0
    assert report["figures"]["source_upload_to_bitrate_ratio"] > 0
