"""What an engine's metering costs, against plain libtorrent on the same machine at the same time.

Metered runs are whole `swarmledger engine` processes at both ends, receipted ones sign for every
byte besides; unmetered ones are plain libtorrent sessions with the least alerts. Runs alternate, so
that a busy minute hits all alike, and the comparison is with the fastest of the unmetered ones.
Everything goes over loopback, with both ends on the same cores: the rates say what the processors
allow, not what a network does.

Checked on the way: the metered receiver's bytes add up to the content, with nothing unexplained by
libtorrent's own counters.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ledger.bench.errors import BenchError
from ledger.bench.idle_peers import IdlePeers
from ledger.bench.operator import BenchOperator
from ledger.bench.processes import (
    MeasuredProcess,
    engine_arguments,
    run_both,
    unmetered_arguments,
)
from ledger.bench.report import Series, describe_machine, round_figure
from ledger.bench.transfer import fill_file, measure_paced, measure_transfer
from ledger.bench.usage import read_usage

METERED = "metered"
RECEIPTED = "receipted"
"""Metered, and signed for: under terms, with an entitlement and a collector."""

BACKENDS = ("pread", "posix")
"""libtorrent's disk backends that an unmetered session is tried with; pread is its default."""

UNMETERED = tuple(f"unmetered_{backend}" for backend in BACKENDS)
MODES = (METERED, RECEIPTED, *UNMETERED)
KINDS = ("v1", "v2", "hybrid")
PACE_BYTES_PER_S = 12_500_000
"""100 Mb/s."""

_PACE_SETTLE_S = 2.0
_REST_S = 2.0
_CROWD_LOOKS = 5
_PIECE_BYTES = 1 << 20
_MIB = 1 << 20

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBench:
    """What to measure.

    Raises:
        ValueError: a field is out of range.
    """

    size_bytes: int
    """Content of each transfer at full speed; 32 MiB or more."""
    runs: int
    """Of each kind; n ≥ 1."""
    kinds: tuple[str, ...] = KINDS
    pace_seconds: float = 10.0
    """How long a transfer at 100 Mb/s is watched."""
    peers: int = 500
    """Idle peers of the engine whose memory is measured; 1 to 1,000."""
    torrents: int = 20
    """Torrents of that engine; n ≥ 1."""

    def __post_init__(self) -> None:
        if self.size_bytes < 32 * _MIB:
            raise ValueError(f"size: got {self.size_bytes} bytes, want 32 MiB or more")
        for name in ("runs", "peers", "torrents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want n >= 1")
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"kinds: got {sorted(unknown)}, want some of {list(KINDS)}")


def run_engine_bench(bench: EngineBench, *, tell: Tell) -> dict[str, Any]:
    """Measure everything and return the report.

    Raises:
        BenchError: A process failed, or bytes do not add up.
        OSError: The scratch folder cannot be used.
    """
    machine = describe_machine()
    series = Series()
    with tempfile.TemporaryDirectory(prefix="swarmledger-bench-") as scratch:
        terms = Path(scratch) / "terms"
        with BenchOperator(terms) as operator:
            scene = _Scene(Path(scratch), bench, series, tell, terms=terms, operator=operator)
            scene.measure_speed()
            scene.measure_pace()
            scene.measure_start()
            scene.measure_memory()
    return {
        "bench": "engine",
        "machine": machine,
        "parameters": asdict(bench),
        "figures": {**_compare(series, bench.kinds), **series.medians()},
        "spreads": series.spreads(),
    }


def _compare(series: Series, kinds: Sequence[str]) -> dict[str, float]:
    """Return what the medians say about metering: the figures that have a target."""
    figures: dict[str, float] = {}
    for kind in kinds:
        rates = {name: series.median(f"throughput_{kind}_{name}_mb_per_s") for name in MODES}
        fastest = max(rates[name] for name in UNMETERED)
        figures[f"throughput_{kind}_ratio"] = rates[METERED] / fastest
        figures[f"throughput_{kind}_receipted_ratio"] = rates[RECEIPTED] / fastest
        for name in UNMETERED:
            figures[f"throughput_{kind}_to_{name}_ratio"] = rates[METERED] / rates[name]
    for end in ("receiver", "sender"):
        shares = {name: series.median(f"{end}_100_mbit_{name}_core_share") for name in MODES}
        least = min(shares[name] for name in UNMETERED)
        figures[f"{end}_100_mbit_added_core_share"] = shares[METERED] - least
        figures[f"{end}_100_mbit_receipted_added_core_share"] = shares[RECEIPTED] - least
        # Part of that is the disk backend's: the engine's own, unmetered, is told apart.
        for name in UNMETERED:
            figures[f"{end}_100_mbit_added_to_{name}_core_share"] = shares[METERED] - shares[name]
            figures[f"{end}_100_mbit_receipted_added_to_{name}_core_share"] = (
                shares[RECEIPTED] - shares[name]
            )
    return {key: round_figure(value) for key, value in figures.items()}


class _Scene:
    """A scratch folder with contents, and the measurements made in it."""

    def __init__(
        self,
        folder: Path,
        bench: EngineBench,
        series: Series,
        tell: Tell,
        *,
        terms: Path,
        operator: BenchOperator,
    ) -> None:
        self._folder = folder
        self._terms = terms
        self._issuer_url = operator.url
        self._bench = bench
        self._series = series
        self._tell = tell
        self._source = folder / "source"
        self._source.mkdir()
        self._count = 0

    def measure_speed(self) -> None:
        """Measure whole transfers at full speed."""
        bench = self._bench
        content = self._source / "film.bin"
        fill_file(content, bench.size_bytes)
        for kind in bench.kinds:
            self._make_torrent(content, kind)
        for run in range(bench.runs):
            # Every other run goes backwards: whoever comes first has no advantage.
            modes = MODES if run % 2 == 0 else MODES[::-1]
            for kind in bench.kinds:
                for mode in modes:
                    self._run_transfer(kind, mode)
                    self._tell(f"full speed: run {run + 1}/{bench.runs}, {kind}, {mode}")

    def measure_pace(self) -> None:
        """Measure the share of a core at 100 Mb/s."""
        size = int(PACE_BYTES_PER_S * (self._bench.pace_seconds + _PACE_SETTLE_S + 6))
        content = self._source / "paced.bin"
        fill_file(content, size)
        torrent = self._make_torrent(content, "hybrid")
        for run in range(self._bench.runs):
            for mode in MODES if run % 2 == 0 else MODES[::-1]:
                self._run_paced(torrent, mode)
                self._tell(f"100 Mb/s: run {run + 1}/{self._bench.runs}, {mode}")
        content.unlink()

    def measure_start(self) -> None:
        """Measure the time from starting a process to its being ready."""
        content = self._source / "small.bin"
        fill_file(content, _MIB)
        torrent = self._make_torrent(content, "hybrid")
        for _ in range(max(3, self._bench.runs)):
            for mode in (METERED, UNMETERED[0]):
                arguments = self._arguments(mode, "seed", torrent, self._source, 0)
                with MeasuredProcess(arguments, self._folder / "start.log") as process:
                    process.wait_for("ready")
                    elapsed_s = time.monotonic() - process.started_s
                    process.stop()
                self._series.add(f"start_{mode.partition('_')[0]}_s", elapsed_s)
        self._tell("start-up")

    def measure_memory(self) -> None:
        """Measure the memory of an engine with many torrents and many peers."""
        bench = self._bench
        names = [f"clip-{number}" for number in range(bench.torrents)]
        for name in names:
            fill_file(self._source / name, 4 * _MIB)
        arguments = engine_arguments(
            *("seed", *(self._source / name for name in names)),
            *("--listen", "127.0.0.1:0", "--state", self._fresh_folder("state"), "--json"),
        )
        with ExitStack() as stack:
            engine = stack.enter_context(MeasuredProcess(arguments, self._folder / "memory.log"))
            ready = engine.wait_for("ready", timeout_s=120)
            infohashes = [bytes.fromhex(entry["content_id"])[:20] for entry in ready["contents"]]
            if len(infohashes) != bench.torrents:
                raise BenchError(f"contents: got {len(infohashes)}, want {bench.torrents}")
            time.sleep(_REST_S)
            alone = read_usage(engine.pid).resident_bytes
            self._series.add(f"memory_{bench.torrents}_torrents_mib", alone / _MIB)
            peers = stack.enter_context(IdlePeers())
            host, _, port = str(ready["listen"]).rpartition(":")
            peers.connect(host, int(port), infohashes, bench.peers)
            self._watch_crowd(engine, peers)
            engine.stop()
        self._tell("memory")

    def _watch_crowd(self, engine: MeasuredProcess, peers: IdlePeers) -> None:
        begin, started_s = read_usage(engine.pid), time.monotonic()
        samples = []
        for _ in range(_CROWD_LOOKS):
            peers.listen(1.0)
            peers.keep_alive()
            samples.append(read_usage(engine.pid).resident_bytes)
        used_s = read_usage(engine.pid).cpu_s - begin.cpu_s
        share = used_s / (time.monotonic() - started_s)
        if (count := peers.count_shaken()) < self._bench.peers:
            raise BenchError(f"idle peers: got {count} that stayed, want {self._bench.peers}")
        name = f"{self._bench.peers}_peers_{self._bench.torrents}_torrents"
        self._series.add(f"memory_{name}_mib", statistics.median(samples) / _MIB)
        self._series.add(f"idle_{name}_core_share", share)

    def _run_transfer(self, kind: str, mode: str) -> None:
        torrent, size = self._folder / f"film.bin.{kind}.torrent", self._bench.size_bytes
        with self._run_pair(torrent, mode, 0) as (sender, receiver):
            figures = measure_transfer(sender, receiver, size)
            if mode not in UNMETERED:
                self._require_sums(receiver, size, is_signed=mode == RECEIPTED)
        add = self._series.add
        add(f"throughput_{kind}_{mode}_mb_per_s", figures.mb_per_s)
        add(f"receiver_cpu_{kind}_{mode}_s_per_gib", figures.receiver_cpu_s_per_gib)
        add(f"sender_cpu_{kind}_{mode}_s_per_gib", figures.sender_cpu_s_per_gib)

    def _run_paced(self, torrent: Path, mode: str) -> None:
        with self._run_pair(torrent, mode, PACE_BYTES_PER_S) as (sender, receiver):
            receiver.wait_for("ready")
            figures = measure_paced(
                sender, receiver, settle_s=_PACE_SETTLE_S, seconds=self._bench.pace_seconds
            )
        add = self._series.add
        add(f"rate_100_mbit_{mode}_mbit_per_s", figures.mbit_per_s)
        # A busy machine may not reach the rate: the shares are those of 100 Mb/s all the same.
        scale = PACE_BYTES_PER_S * 8 / 1e6 / figures.mbit_per_s
        add(f"receiver_100_mbit_{mode}_core_share", figures.receiver_core_share * scale)
        add(f"sender_100_mbit_{mode}_core_share", figures.sender_core_share * scale)

    @contextmanager
    def _run_pair(
        self, torrent: Path, mode: str, limit: int
    ) -> Iterator[tuple[MeasuredProcess, MeasuredProcess]]:
        saved = self._fresh_folder("saved")
        sender = self._arguments(mode, "seed", torrent, self._source, limit)
        receiver = self._arguments(mode, "fetch", torrent, saved, 0)
        try:
            with run_both(sender, receiver, self._folder) as pair:
                yield pair
        finally:
            shutil.rmtree(saved)

    def _arguments(
        self, mode: str, role: str, torrent: Path, folder: Path, limit: int
    ) -> list[str]:
        listen = "127.0.0.1:0"
        if mode in UNMETERED:
            return unmetered_arguments(
                *(role, torrent, "--folder", folder, "--listen", listen),
                *("--backend", mode.removeprefix("unmetered_"), "--upload-limit", limit),
            )
        options: list[object] = ["--listen", listen, "--state", self._fresh_folder("state")]
        options += ["--save", folder, "--json", "--tcp", "--upload-limit", limit]
        if mode == RECEIPTED:
            options += ["--terms", self._terms]
        if role == "seed":
            return engine_arguments("seed", torrent, *options)
        how = ["--entitlement-url", self._issuer_url]
        return engine_arguments(
            "view", torrent, *options, *(how if mode == RECEIPTED else ["--no-entitlement"])
        )

    def _require_sums(self, receiver: MeasuredProcess, size: int, *, is_signed: bool) -> None:
        end = receiver.stop() or {}
        classes = end.get("bytes", {})
        got = classes.get("p2p_attested" if is_signed else "p2p_unattested", 0)
        unexplained = end.get("audit_difference_bytes")
        if got != size or unexplained != 0:
            raise BenchError(
                f"bytes: got {classes}, {unexplained} unexplained, want {size} metered"
            )

    def _make_torrent(self, content: Path, kind: str) -> Path:
        out = self._folder / f"{content.name}.{kind}.torrent"
        make = unmetered_arguments(
            *("make", content, "--out", out, "--kind", kind, "--piece-bytes", _PIECE_BYTES)
        )
        with MeasuredProcess(make, self._folder / "make.log") as process:
            if process.process.wait(300):
                raise BenchError(f"{out}: cannot be made")
        return out

    def _fresh_folder(self, name: str) -> Path:
        self._count += 1
        folder = self._folder / f"{name}-{self._count}"
        folder.mkdir()
        return folder
