"""How a live stream does: delay, joining, stalls, offload, and the source's upload.

An HLS origin of the bench's own is indexed by a broadcaster's node; viewers are real processes that
follow it, metered. On loopback, or behind a shaper with delay and loss; viewers may be killed and
replaced meanwhile. A player is computed from the times at which segments became playable.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.bench.errors import BenchError
from ledger.bench.live_origin import LiveOrigin
from ledger.bench.live_player import Playable, percentile, play
from ledger.bench.processes import MeasuredProcess, engine_arguments
from ledger.bench.report import describe_machine, round_figure
from ledger.bench.shaped_network import Host, Shape, loopback_hosts, shaped_hosts
from ledger.bench.transport_stream import make_segments
from ledger.bench.usage import read_usage

_SEGMENTS = 10
_JOIN_TIMEOUT_S = 120.0
_SETTLE_S = 5.0
_BUFFERED = 3

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBench:
    """What is measured."""

    viewers: int
    seconds: float
    rate_kbps: int = 2000
    segment_s: float = 1.0
    stagger_s: float = 0.5
    """Between the starts of two viewers."""
    churn_share: float = 0.0
    """Share of viewers killed and replaced, per minute."""
    shape: Shape | None = None
    uses_cdn: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.viewers <= 120:
            raise ValueError(f"viewers: got {self.viewers}, want 1..120")


@dataclass(slots=True)
class _Run:
    """Processes of one run."""

    bench: LiveBench
    folder: Path
    stack: ExitStack
    tell: Tell
    viewers: list[MeasuredProcess] = field(default_factory=list)
    killed: list[MeasuredProcess] = field(default_factory=list)
    hosts: list[Host] = field(default_factory=list)
    started: int = 0

    def start_viewer(self, place: int) -> MeasuredProcess:
        """Start a viewer at a host's place."""
        host = self.hosts[2 + place]
        state = self.folder / f"viewer-{self.started}"
        self.started += 1
        arguments = engine_arguments(
            "watch",
            self.folder / "bench.stream",
            "--no-entitlement",
            "--listen",
            f"{host.address}:0",
            "--state",
            state,
            "--allow-local-web-seeds",
            "--tcp",
            "--json",
            *([] if self.bench.uses_cdn else ["--no-cdn"]),
        )
        return self.stack.enter_context(
            MeasuredProcess([*host.prefix, *arguments], state.with_suffix(".log"))
        )


def run_live_bench(bench: LiveBench, *, tell: Tell) -> dict[str, Any]:
    """Run a live stream and return the report.

    Raises:
        BenchError: A process failed, or a viewer did not join in time.
    """
    folder = Path(tempfile.mkdtemp(prefix="swarmledger-bench-"))
    try:
        with ExitStack() as stack, _hosts_of(bench, folder) as hosts:
            run = _Run(bench, folder, stack, tell, hosts=hosts)
            return _measure(run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _hosts_of(bench: LiveBench, folder: Path) -> Iterator[list[Host]]:
    count = bench.viewers + 2
    if bench.shape is None:
        yield loopback_hosts(count)
    else:
        with shaped_hosts(count, bench.shape, folder) as hosts:
            yield hosts


def _measure(run: _Run) -> dict[str, Any]:
    bench = run.bench
    segments = make_segments(_SEGMENTS, segment_s=bench.segment_s, rate_kbps=bench.rate_kbps)
    origin = run.stack.enter_context(LiveOrigin(segments, bench.segment_s, run.hosts[0].address))
    source = _start_source(run, origin)
    run.tell(f"source ready; starting {bench.viewers} viewers")
    for place in range(bench.viewers):
        run.viewers.append(run.start_viewer(place))
        time.sleep(bench.stagger_s)
    for viewer in run.viewers:
        viewer.wait_for("joined", timeout_s=_JOIN_TIMEOUT_S)
    time.sleep(_SETTLE_S)
    run.tell(f"all joined; measuring for {bench.seconds:.0f} s")
    begin_ms, begin_upload = _now_ms(), _uploaded(source)
    cpu_before = {viewer.pid: read_usage(viewer.pid).cpu_s for viewer in run.viewers}
    cdn_before = origin.served_bytes["range"]
    source_before_s = read_usage(source.pid).cpu_s
    _wait_with_churn(run)
    end_ms, end_upload = _now_ms(), _uploaded(source)
    source_cpu_s = read_usage(source.pid).cpu_s - source_before_s
    cdn_bytes = origin.served_bytes["range"] - cdn_before
    passed_s = (end_ms - begin_ms) / 1000
    cpu_s = [
        read_usage(viewer.pid).cpu_s - cpu_before[viewer.pid]
        for viewer in run.viewers
        if viewer.pid in cpu_before
    ]
    resident = [read_usage(viewer.pid).resident_bytes for viewer in run.viewers]
    figures = _figures_of(run, begin_ms, end_ms)
    stream_bytes = sum(
        event["bytes"]
        for event in source.list("segment")
        if begin_ms <= event["cut_at_ms"] < end_ms
    )
    taken = figures.pop("taken_bytes")
    figures |= {
        "source_upload_to_bitrate_ratio": (end_upload - begin_upload) / max(1, stream_bytes),
        "offload_share": 1 - cdn_bytes / max(1, taken),
        "viewer_cores_median": percentile(cpu_s, 0.5) / passed_s,
        "source_cores": source_cpu_s / passed_s,
        "viewer_resident_mib_median": percentile(resident, 0.5) / 2**20,
    }
    return _report(run, figures, passed_s)


def _start_source(run: _Run, origin: LiveOrigin) -> MeasuredProcess:
    host = run.hosts[1]
    arguments = engine_arguments(
        "broadcast",
        "--input",
        origin.url,
        "--listen",
        f"{host.address}:0",
        "--index",
        f"{host.address}:0",
        "--state",
        run.folder / "source",
        "--descriptor-out",
        run.folder / "bench.stream",
        "--tcp",
        "--json",
    )
    source = run.stack.enter_context(
        MeasuredProcess([*host.prefix, *arguments], run.folder / "source.log")
    )
    source.wait_for("segment")
    return source


def _wait_with_churn(run: _Run) -> None:
    bench = run.bench
    end_s = time.monotonic() + bench.seconds
    pause_s = 60 / (bench.churn_share * bench.viewers) if bench.churn_share else bench.seconds
    chance = random.Random(2)  # noqa: S311 - whom to kill, no secret
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, pause_s))
        if bench.churn_share and time.monotonic() < end_s:
            place = chance.randrange(bench.viewers)
            gone = run.viewers[place]
            gone.process.kill()
            run.killed.append(gone)
            run.viewers[place] = run.start_viewer(place)
    for viewer in run.viewers:
        if viewer.process.poll() is not None:
            raise BenchError(f"viewer {viewer.pid} ended by itself")


def _figures_of(run: _Run, begin_ms: int, end_ms: int) -> dict[str, float]:
    delays: list[float] = []
    joins: list[float] = []
    played_ms = stalled_ms = taken = gaps = 0
    for viewer in [*run.viewers, *run.killed]:
        events = [e for e in viewer.list("segment") if e["ready_at_ms"] < end_ms]
        seen = [event for event in events if event["ready_at_ms"] >= begin_ms]
        joined = viewer.find("joined")
        if joined is not None:
            joins.append(joined["join_ms"])
        shown = [
            Playable(
                number=event["number"],
                ready_ms=event["ready_at_ms"],
                media_ms=event["media_ms"],
                delay_ms=event["delay_ms"],
            )
            for event in events
        ]
        # The picture as it ran, joining included; so a stall of the first seconds counts too.
        playback = play(shown, buffered=_BUFFERED)
        played_ms, stalled_ms = played_ms + playback.played_ms, stalled_ms + playback.stalled_ms
        gaps += len(viewer.list("gap"))
        taken += sum(event["bytes"] for event in seen)
        # Segments that were old when the viewer joined say nothing about delay.
        first = events[_BUFFERED - 1]["number"] if len(events) >= _BUFFERED else 0
        delays += [event["delay_ms"] for event in seen if event["number"] > first]
    return {
        "delay_ms_p50": percentile(delays, 0.50),
        "delay_ms_p95": percentile(delays, 0.95),
        "delay_ms_max": max(delays, default=0.0),
        "join_ms_p50": percentile(joins, 0.50),
        "join_ms_p95": percentile(joins, 0.95),
        "rebuffer_ratio": stalled_ms / max(1, played_ms + stalled_ms),
        "segments_left_out": gaps,
        "taken_bytes": taken,
    }


def _report(run: _Run, figures: dict[str, float], passed_s: float) -> dict[str, Any]:
    bench = run.bench
    shape = bench.shape
    return {
        "bench": "live",
        "machine": describe_machine(),
        "parameters": {
            "runs": 1,
            "viewers": bench.viewers,
            "seconds": round(passed_s, 1),
            "rate_kbps": bench.rate_kbps,
            "segment_s": bench.segment_s,
            "churn_share_per_min": bench.churn_share,
            "delay_ms": shape.delay_ms if shape else 0,
            "loss_share": shape.loss if shape else 0,
            "cdn": bench.uses_cdn,
        },
        "figures": {key: round_figure(value) for key, value in figures.items()},
        "spreads": {},
    }


def _uploaded(source: MeasuredProcess) -> int:
    told = source.list("progress")
    return int(told[-1]["uploaded_bytes"]) if told else 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
