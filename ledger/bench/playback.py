"""What a viewer sees: start, seeks, stalls and the price of it, with metering on.

A seeder and a viewer, whole `swarmledger engine` processes, over loopback; a player without a
screen reads the viewer's HTTP face at the film's rate. Twice: with a seeder as fast as it can be,
and with one whose uplink is little faster than the film, where a seek has to get past what was
asked for before. Every stretch played is compared with the content.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from ledger.bench.errors import BenchError
from ledger.bench.paced_player import PlayFigures, play
from ledger.bench.processes import MeasuredProcess, engine_arguments
from ledger.bench.report import Series, describe_machine
from ledger.bench.transfer import fill_file
from ledger.bench.usage import read_usage

SEEK_PLAY_S: Final = 2.0
"""How long a player stays at a place that it sought."""

_UPLINKS: Final = {"fast": 0.0, "narrow": 1.25}
"""Seeder's upload rate as a multiple of the film's; 0 = unlimited."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackBench:
    """What to measure.

    Raises:
        ValueError: A field is out of range.
    """

    mbit_per_s: int = 85
    """The film's rate; 10⁶ bits a second, n ≥ 1."""
    film_s: int = 60
    """How long the film is; n ≥ 20."""
    seeks: int = 5
    """To places that are not fetched yet, where there are any; n ≥ 1."""
    runs: int = 1
    """Of each uplink; n ≥ 1."""

    def __post_init__(self) -> None:
        for name, least in (("mbit_per_s", 1), ("film_s", 20), ("seeks", 1), ("runs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, want n >= {least}")

    @property
    def rate_bytes_per_s(self) -> int:
        """The film's rate."""
        return self.mbit_per_s * 125_000

    @property
    def size_bytes(self) -> int:
        """The film's size."""
        return self.rate_bytes_per_s * self.film_s


def run_playback_bench(bench: PlaybackBench, *, tell: Tell) -> dict[str, Any]:
    """Measure everything and return the report.

    Raises:
        BenchError: A process failed, or what was played is not the content.
        OSError: The scratch folder cannot be used.
    """
    machine, series = describe_machine(), Series()
    with tempfile.TemporaryDirectory(prefix="swarmledger-bench-") as scratch:
        film = Path(scratch) / "film.ts"
        fill_file(film, bench.size_bytes)
        for number in range(bench.runs):
            for uplink, factor in _UPLINKS.items():
                tell(f"playback {number + 1}/{bench.runs}, {uplink} uplink")
                folder = Path(scratch) / f"{uplink}-{number}"
                folder.mkdir()
                _Scene(bench, film, folder, uplink, factor, series, tell).measure()
    return {
        "bench": "playback",
        "machine": machine,
        "parameters": {**asdict(bench), "uplinks": _UPLINKS},
        "figures": series.medians(),
        "spreads": series.spreads(),
    }


@dataclass(frozen=True, slots=True)
class _Scene:
    """One seeder and one uplink; a fresh viewer for each way of watching."""

    bench: PlaybackBench
    film: Path
    folder: Path
    uplink: str
    factor: float
    series: Series
    tell: Tell

    def measure(self) -> None:
        limit = int(self.bench.rate_bytes_per_s * self.factor)
        arguments = engine_arguments(
            "seed", self.film, "--torrent-out", self.folder / "film.torrent",
            "--state", self.folder / "seeder", "--listen", "127.0.0.1:0",
            "--upload-limit", limit, "--json",
        )  # fmt: skip
        with MeasuredProcess(arguments, self.folder / "seeder.log") as seeder:
            with self._viewer(seeder, "through") as viewer:
                self._play_through(seeder, viewer)
                self._tell_faults(viewer)
            with self._viewer(seeder, "seeking") as viewer:
                self._seek(_url_of(seeder, viewer))
                self._tell_faults(viewer)
            self._tell_faults(seeder)

    def _viewer(self, seeder: MeasuredProcess, name: str) -> MeasuredProcess:
        address = seeder.wait_for("ready")["listen"]
        folder = self.folder / name
        arguments = engine_arguments(
            "serve", self.folder / "film.torrent", "--save", folder / "saved",
            "--state", folder / "state", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
            "--peer", address, "--no-entitlement", "--json",
        )  # fmt: skip
        folder.mkdir()
        return MeasuredProcess(arguments, folder / "log")

    def _play_through(self, seeder: MeasuredProcess, viewer: MeasuredProcess) -> None:
        url = _url_of(seeder, viewer)
        before, begun_s = (read_usage(seeder.pid), read_usage(viewer.pid)), time.monotonic()
        figures = self._play(url, 0, self.bench.size_bytes)
        passed_s = time.monotonic() - begun_s
        after = read_usage(seeder.pid), read_usage(viewer.pid)
        self._note("start_first_byte_s", figures.first_byte_s)
        self._note("start_picture_s", figures.start_s)
        self._note("stalls", figures.stalls)
        self._note("rebuffer_ratio", figures.rebuffer_ratio)
        for name, first, last in zip(("seeder", "viewer"), before, after, strict=True):
            self._note(f"{name}_core_share", (last.cpu_s - first.cpu_s) / passed_s)

    def _seek(self, url: str) -> None:
        """Start, then jump towards the beginning from far on, so that nothing is there yet."""
        bench, rate = self.bench, self.bench.rate_bytes_per_s
        stay = int(SEEK_PLAY_S * rate)
        self._play(url, 0, stay)
        step = (bench.size_bytes - 2 * stay) // bench.seeks
        for number in range(bench.seeks):
            figures = self._play(url, bench.size_bytes - stay - number * step, stay)
            self._note("seek_first_byte_s", figures.first_byte_s)
            self._note("seek_picture_s", figures.start_s)

    def _tell_faults(self, process: MeasuredProcess) -> None:
        """Tell what an engine complained of: figures beside it are not to be trusted."""
        for event in (*process.list("error"), *process.list("notice")):
            self.tell(f"{self.uplink}: {event}")

    def _play(self, url: str, offset: int, length: int) -> PlayFigures:
        figures = play(
            url, offset=offset, length=length, rate_bytes_per_s=self.bench.rate_bytes_per_s
        )
        if figures.digest != _digest_of(self.film, offset, length):
            raise BenchError(f"bytes {offset}+{length}: what was played is not the content")
        return figures

    def _note(self, key: str, value: float) -> None:
        self.series.add(f"{self.uplink}_{key}", value)


def _url_of(seeder: MeasuredProcess, viewer: MeasuredProcess) -> str:
    base = viewer.wait_for("http")["url"]
    return f"{base}/ace/getstream?content_id={seeder.wait_for('ready')['content_id']}"


def _digest_of(path: Path, offset: int, length: int) -> bytes:
    digest = sha256()
    with path.open("rb") as file:
        file.seek(offset)
        while length and (part := file.read(min(length, 1 << 20))):
            digest.update(part)
            length -= len(part)
    return digest.digest()
