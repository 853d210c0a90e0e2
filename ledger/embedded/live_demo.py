"""The demo with a live stream: an untouched HLS origin, a broadcaster beside it, viewers who share.

The broadcaster's node indexes the origin's segments and serves them to a few viewers, who pass them
on; the origin's own server is the CDN that helps out when a deadline is at risk. Receipts accrue to
the stream over all its segments. Everything before and after delivery is the demo's (`demo`).
"""

import json
from collections.abc import Sequence

from ledger.embedded.content import Content
from ledger.embedded.demo import TORRENT_PORT, Demo, DemoOptions
from ledger.embedded.errors import DemoError
from ledger.embedded.live_origin import PLAYLIST, RATE_KBPS, SEGMENT_S, LiveOrigin, make_live_files
from ledger.embedded.papers import EPOCH_LENGTH_S, Papers
from ledger.embedded.processes import StopRequest
from ledger.embedded.rates import Rates
from ledger.embedded.screen import Screen, mib

SEGMENTS = 2 * EPOCH_LENGTH_S
"""Long enough to be seen in two epochs."""

SOURCE = "seeder-1"
"""The broadcaster's own node: who serves first, and is paid like any other."""

SOURCE_RATE_FACTOR = 2
"""The source gives this many times the stream's rate, however many watch."""

CDN_RATE_FACTOR = 8
FINISH_LIMIT_S = 90
_INDEX_PORT = 6890


class LiveDemo(Demo):
    """One run with a live stream."""

    def __init__(self, options: DemoOptions, screen: Screen, stop: StopRequest) -> None:
        super().__init__(options, screen, stop)
        self._byte_rate = RATE_KBPS * 1000 // 8
        self._played: dict[str, dict[int, int]] = {}
        self._cut: dict[int, int] = {}
        self._gaps: list[str] = []

    def _make_content(self) -> Content:
        self._files = make_live_files(self._private / "live", SEGMENTS)
        self._origin = LiveOrigin(self._files)
        return Content(
            path=self._files.folder,
            files=tuple(
                self._files.folder.relative_to(self._private) / n for n in self._files.names
            ),
            size_bytes=self._files.size_bytes,
        )

    def _plan(self, content: Content) -> Rates:
        del content
        return Rates(
            viewer_down=0,
            viewer_up=0,
            seeder_up=SOURCE_RATE_FACTOR * self._byte_rate,
            cdn=CDN_RATE_FACTOR * self._byte_rate,
            limit_s=FINISH_LIMIT_S,
        )

    def _make_torrent(self, content: Content) -> None:
        """A stream's torrents are made as it goes."""

    def _start_seeders(self, content: Content, rates: Rates, papers: Papers) -> None:
        """Start the broadcaster's node; the stream begins with it."""
        (self._private / "engines").mkdir(mode=0o700)
        self._descriptor = self._private / "stream.descriptor"
        arguments = ["engine", "broadcast"]
        arguments += ["--input", f"{self._parts.urls['cdn']}/{content.path.name}/{PLAYLIST}"]
        arguments += ["--index", f"{self._engine_address(SOURCE)}:{_INDEX_PORT}"]
        arguments += ["--issuing-key", str(papers.issuing_key_file), "--title", "demo"]
        arguments += ["--segment-ms", str(int(1000 * SEGMENT_S))]
        arguments += ["--descriptor-out", str(self._descriptor)]
        arguments += [*self._engine_arguments(SOURCE, papers)]
        arguments += ["--upload-limit", str(rates.seeder_up)]
        self._start_engine(SOURCE, arguments)

    def _seeder_names(self) -> list[str]:
        return [SOURCE]

    def _start_engine(self, name: str, arguments: Sequence[str]) -> None:
        self._swarm.add(name, is_viewer=name.startswith("viewer"))
        self._played[name] = {}
        child = self._supervisor.start(name, arguments, on_event=self._take_event)
        self._engines.append(child)

    def _take_event(self, name: str, event: dict[str, object]) -> None:
        kind = event.get("event")
        if kind == "segment":
            number, size = int(str(event["number"])), int(str(event["bytes"]))
            (self._cut if name == SOURCE else self._played[name])[number] = size
        elif kind == "gap" and self._played.get(name):
            self._gaps.append(f"{name}: {event}")
        self._swarm.take(name, event)

    def _deliver(self, content: Content, rates: Rates, papers: Papers) -> int:
        self._supervisor.wait_until(
            lambda: self._swarm.are_ready([SOURCE]) and self._descriptor.exists(),
            what="the broadcaster",
            seconds=60,
        )
        for name in self._viewer_names():
            self._start_engine(name, self._viewer_arguments(name, rates, papers))
        self._supervisor.wait_until(
            lambda: self._swarm.are_ready(self._viewer_names()),
            what="the viewers to be ready",
            seconds=60,
        )
        self._origin.start()
        self._screen.stage(
            f"live: {len(self._files.names)} segments of {SEGMENT_S:g} s at {RATE_KBPS} kb/s"
        )
        wanted_bytes = content.size_bytes * self._options.viewers
        try:
            self._supervisor.wait_until(
                lambda: self._stream_is_played(wanted_bytes),
                what="the viewers to play the last segment",
                seconds=len(self._files.names) * SEGMENT_S + FINISH_LIMIT_S,
            )
        finally:
            self._origin.stop()
        self._screen.hide_transfer()
        played = [len(self._played[name]) for name in self._viewer_names()]
        self._screen.stage(
            f"every viewer played the last segment; played {min(played)} to {max(played)} each: "
            + ", ".join(f"{name} {mib(size)}" for name, size in self._swarm.received().items())
        )
        (self._private / "catalogue.json").write_text(
            json.dumps({self._stream_id(): "live stream"}), encoding="utf-8"
        )
        self._content_id = self._stream_id()
        return papers.terms.value.epoch_at(self._gateway.latest_ledger().close_time_s)

    def _viewer_arguments(self, name: str, rates: Rates, papers: Papers) -> list[str]:
        del rates
        arguments = [
            "engine",
            "watch",
            str(self._descriptor),
            *self._engine_arguments(name, papers),
        ]
        arguments += ["--entitlement-url", self._parts.urls["issuer"]]
        arguments += ["--save", str(self._private / "engines" / f"{name}-segments")]
        arguments += ["--peer", f"{self._engine_address(SOURCE)}:{TORRENT_PORT}"]
        return arguments

    def _stream_id(self) -> str:
        return str(self._swarm.engines[SOURCE].broadcasting["stream_id"])

    def _stream_is_played(self, wanted_bytes: int) -> bool:
        self._take_closed_epoch()
        last = len(self._files.names) - 1
        done = sum(last in self._played[name] for name in self._viewer_names())
        names = self._viewer_names()
        self._screen.transfer(self._swarm.received(), wanted_bytes, f"{done}/{len(names)} ended")
        return done == len(names)

    def _require_whole_content(self, content: Content) -> None:
        """Every segment that a viewer played is one that was cut, whole."""
        del content
        if self._gaps:
            raise DemoError(f"stream: got gaps: {'; '.join(self._gaps[:3])}")
        for name in self._viewer_names():
            strange = {
                number
                for number, size in self._played[name].items()
                if self._cut.get(number) != size
            }
            if strange:
                raise DemoError(
                    f"{name}: segments {sorted(strange)[:5]} are not those that were cut"
                )

    def _wanted_bytes(self, content: Content) -> int:
        """Return what the viewers took together, by the sizes that were cut."""
        del content
        return sum(
            self._cut[number] for name in self._viewer_names() for number in self._played[name]
        )
