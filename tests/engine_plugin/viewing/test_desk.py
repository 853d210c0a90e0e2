"""Heartbeats are stored before they count, chained over restarts, bundled in both border epochs."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from builders import (
    EPOCH,
    EPOCH_LENGTH_S,
    GENESIS_S,
    binding,
    digest_of,
    entitlement,
    key_of,
    seed_of,
    signed_terms,
    terms,
)

from engine_plugin.bundler import HEARTBEATS_MAX, Bundler
from engine_plugin.errors import JournalError
from engine_plugin.spool import Spool
from engine_plugin.viewing import heartbeat_rows
from engine_plugin.viewing.cmcd import PlayerReport
from engine_plugin.viewing.desk import (
    PLAYBACKS_PER_TOKEN_MAX,
    TOKENS_MAX,
    WAITING_MAX,
    TooManyPlaybacksError,
    UnknownTokenError,
    ViewingDesk,
)
from ledger.books.heartbeats import judge_heartbeats
from ledger.books.judgement import check_bundle
from ledger.books.viewing_time import measure_viewing
from ledger.evidence.bundle import BundleKind, parse_bundle
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement
from ledger.evidence.heartbeat import FLAG_ESTIMATED, HEARTBEAT, Heartbeat

SCOPE = digest_of("content")
EPOCH_MS = (GENESIS_S + EPOCH * EPOCH_LENGTH_S) * 1000
LENGTH_MS = EPOCH_LENGTH_S * 1000


@dataclass
class Scene:
    """A desk whose two clocks the test moves."""

    path: Path
    now_ms: int = 5_000_000
    ledger_offset_ms: int | None = EPOCH_MS - 5_000_000
    entitlement: Signed[Entitlement] | None = field(default_factory=entitlement)
    received: tuple[int, int] = (0, 0)

    def start(self) -> None:
        self.spool = Spool(self.path)
        self.spool.add_entitlement(entitlement())
        scene = self

        class Time:
            def now_ms(self) -> int | None:
                offset_ms = scene.ledger_offset_ms
                return None if offset_ms is None else scene.now_ms + offset_ms

        self.desk = ViewingDesk(
            terms=terms(),
            spool=self.spool,
            session_seed=seed_of("viewer"),
            ledger_time=Time(),
            find_entitlement=lambda _scope, _epoch: self.entitlement,
            bytes_by_source=lambda _scope: self.received,
            monotonic=lambda: self.now_ms / 1000,
        )
        self.bundler = Bundler(
            terms=terms(),
            spool=self.spool,
            session_seed=seed_of("viewer"),
            session_key=key_of("viewer"),
            binding=binding("viewer"),
        )

    def report(self, token: str, state: str, position_ms: int | None, sid: str = "tab") -> None:
        self.desk.take(token, [make_report(state, position_ms, sid=sid)])

    def run(self, length_ms: int, step_ms: int = 250) -> None:
        for _ in range(length_ms // step_ms):
            self.now_ms += step_ms
            self.desk.tick()

    def beats(self) -> list[Heartbeat]:
        with sqlite3.connect(self.path) as connection:
            rows = connection.execute(
                "SELECT DISTINCT raw, session_id, sequence_number FROM heartbeat ORDER BY 2, 3"
            ).fetchall()
        connection.close()
        return [HEARTBEAT.parse(row[0]).value for row in rows]

    def bundle(self, epoch: int) -> Signed[Any] | None:
        spooled = self.bundler.bundle_epoch(epoch, BundleKind.VIEWER)
        return None if spooled is None else parse_bundle(spooled.raw)

    def judged(self, *epochs: int) -> list[Heartbeat]:
        checks = []
        for epoch in epochs:
            while (bundle := self.bundle(epoch)) is not None:
                checks.append(check_bundle(bundle.raw, signed_terms(), epoch))
        judgement = judge_heartbeats(checks, signed_terms())
        assert judgement.refused == 0
        return [beat for beats in judgement.by_viewer.values() for beat in beats]


def make_report(state: str | None, position_ms: int | None, sid: str = "tab") -> PlayerReport:
    return PlayerReport(
        sid=sid,
        sequence_number=None,
        event="ps",
        state=state,
        timestamp_ms=None,
        position_ms=position_ms,
        rate_permille=None,
        starved_ms=0,
    )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path / "spool.sqlite")
    scene.start()
    yield scene
    scene.spool.close()


def measure(beats: list[Heartbeat], epoch: int) -> int:
    start_ms = EPOCH_MS + (epoch - EPOCH) * LENGTH_MS
    return measure_viewing(
        beats, start_ms=start_ms, end_ms_exclusive=start_ms + LENGTH_MS
    ).playing_ms


def test_playback_becomes_a_verified_chain_with_bytes_and_media(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    scene.received = (7000, 500)
    scene.run(3000)
    scene.report(token, "a", 3000)
    first, last = scene.judged(EPOCH)
    assert (first.sequence_number, last.sequence_number) == (0, 1)
    assert (last.state, last.media_ms_total) == ("a", 3000)
    assert (last.bytes_p2p_total, last.bytes_cdn_total) == (7000, 500)
    assert last.timestamp_ms - first.timestamp_ms == 3000


def test_each_epochs_bundles_alone_measure_their_part_across_the_border(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.run(9000)
    scene.report(token, "p", 0)
    scene.run(12_000)
    scene.report(token, "q", 12_000)
    assert measure(scene.judged(EPOCH), EPOCH) == 6000
    assert measure(scene.judged(EPOCH + 1), EPOCH + 1) == 6000


def test_chain_goes_on_after_kill_and_restart(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    scene.run(4000)
    scene.report(token, "p", 4000)
    scene.run(4000)
    scene.report(token, "p", 8000)
    # No clean stop: a second engine over the same file, with an unsaved report lost.
    scene.start()
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 8200)
    scene.run(2000)
    scene.report(token, "q", 10_200)
    beats = scene.judged(EPOCH)
    assert [beat.sequence_number for beat in beats] == list(range(len(beats)))
    assert len({beat.session_id for beat in beats}) == 1
    assert measure(beats, EPOCH) == 10_000
    assert scene.desk.media_ms(entitlement()) == 10_000


def test_what_cannot_be_signed_yet_waits_and_is_signed_with_its_own_time(scene: Scene) -> None:
    offset_ms, scene.ledger_offset_ms = scene.ledger_offset_ms, None
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    scene.run(2000)
    scene.report(token, "a", 2000)
    scene.run(1000)
    assert scene.beats() == []
    assert scene.desk.media_ms(entitlement()) == 0
    scene.ledger_offset_ms, held, scene.entitlement = offset_ms, scene.entitlement, None
    scene.run(1000)
    assert scene.beats() == []
    scene.entitlement = held
    scene.run(250)
    assert [beat.timestamp_ms - EPOCH_MS for beat in scene.beats()] == [0, 2000]
    assert scene.desk.media_ms(entitlement()) == 2000


def test_waiting_heartbeats_are_bounded(scene: Scene) -> None:
    scene.entitlement = None
    token = scene.desk.open(SCOPE)
    for number in range(WAITING_MAX + 50):
        scene.report(token, "ap"[number % 2], number)
        scene.run(2000, 1000)
    scene.entitlement = entitlement()
    scene.run(250)
    beats = scene.beats()
    assert len(beats) <= WAITING_MAX + 1
    assert [beat.sequence_number for beat in beats] == list(range(len(beats)))


def test_failing_spool_delays_heartbeats_and_loses_none(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    blocker = sqlite3.connect(scene.path, isolation_level=None)
    scene.spool._connection.execute("PRAGMA busy_timeout = 1")
    blocker.execute("BEGIN IMMEDIATE")
    scene.run(1000)
    scene.report(token, "a", 1000)
    assert scene.desk.signed_count == 1
    assert scene.desk.media_ms(entitlement()) == 0
    blocker.execute("ROLLBACK")
    blocker.close()
    scene.run(250)
    assert [beat.media_ms_total for beat in scene.beats()] == [0, 1000]


def test_failing_journal_delays_heartbeats_and_stops_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: bytes) -> tuple[int, int]:
        raise JournalError("disk full")

    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    with monkeypatch.context() as patch:
        patch.setattr(scene.desk, "_bytes_by_source", refuse)
        scene.run(1000)
        scene.report(token, "a", 1000)
    assert scene.desk.signed_count == 1
    scene.run(250)
    assert [beat.media_ms_total for beat in scene.beats()] == [0, 1000]


def test_readings_of_ledger_time_that_wobble_do_not_bend_a_session(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    assert scene.ledger_offset_ms is not None
    scene.ledger_offset_ms -= 200
    scene.run(3000)
    scene.report(token, "a", 3000)
    first, last = scene.beats()
    assert last.timestamp_ms - first.timestamp_ms == 3000


def test_wrong_first_reading_is_mended_and_time_never_falls(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    assert scene.ledger_offset_ms is not None
    scene.ledger_offset_ms += 4000
    scene.report(token, "p", 0)
    scene.ledger_offset_ms -= 4000
    scene.run(1000)
    scene.report(token, "a", 1000)
    scene.run(5000)
    scene.report(token, "p", 1000)
    stamps = [beat.timestamp_ms - EPOCH_MS for beat in scene.beats()]
    assert stamps == [4000, 4000, 6000]


def test_two_tabs_never_make_media_time_exceed_wall_clock(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    for at_ms in range(0, 12_000, 2000):
        scene.report(token, "p", at_ms, sid="one")
        scene.report(token, "p", at_ms, sid="two")
        scene.run(2000)
    scene.report(token, "q", 12_000, sid="one")
    scene.report(token, "q", 12_000, sid="two")
    beats = scene.judged(EPOCH)
    assert len({beat.session_id for beat in beats}) == 2
    assert measure(beats, EPOCH) == 12_000
    assert scene.desk.media_ms(entitlement()) <= 12_000


def test_media_time_under_an_entitlement_survives_a_restart_and_never_falls(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    scene.run(5000)
    scene.report(token, "q", 5000)
    scene.start()
    assert scene.desk.media_ms(entitlement()) == 5000
    with scene.spool.transaction() as tx:
        heartbeat_rows.save_media_ms(tx, entitlement().digest, 1)
        assert heartbeat_rows.read_media_ms(tx, entitlement().digest) == 5000


def test_media_time_counts_under_the_entitlement_that_held_when_it_was_played(
    scene: Scene,
) -> None:
    renewed = entitlement(serial=digest_of("renewed")[:16])
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    scene.run(3000)
    scene.report(token, "a", 3000)
    scene.entitlement = renewed
    scene.report(token, "p", 3000)
    scene.run(2000)
    scene.report(token, "q", 5000)
    assert scene.desk.media_ms(entitlement()) == 3000
    assert scene.desk.media_ms(renewed) == 2000


def test_media_time_for_receipts_stays_within_the_entitlements_cap(scene: Scene) -> None:
    scene.entitlement = entitlement(max_media_ms=2000)
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    scene.run(3000)
    scene.report(token, "q", 3000)
    assert scene.desk.media_ms(scene.entitlement) == 2000


def test_media_time_that_cannot_be_read_holds_no_receipt_up(scene: Scene) -> None:
    blocker = sqlite3.connect(scene.path, isolation_level=None)
    scene.spool._connection.execute("PRAGMA busy_timeout = 1")
    blocker.execute("BEGIN IMMEDIATE")
    assert scene.desk.media_ms(entitlement()) == 0
    blocker.close()


def test_heartbeats_beyond_one_bundle_go_into_the_next(scene: Scene) -> None:
    values = scene.desk.open(SCOPE)
    scene.report(values, "p", 0)
    (seen,) = scene.beats()
    with scene.spool.transaction() as tx:
        tx.executemany(
            "INSERT INTO heartbeat (epoch, session_id, sequence_number, raw) VALUES (?, ?, ?, ?)",
            [
                (EPOCH, number.to_bytes(16, "big"), 0, make_raw(seen, number))
                for number in range(HEARTBEATS_MAX)
            ],
        )
    counts = [len(bundle.value.heartbeats) for bundle in iter(lambda: scene.bundle(EPOCH), None)]
    assert counts == [HEARTBEATS_MAX, 1]
    assert scene.spool.list_unbundled_epochs(BundleKind.VIEWER) == []


def make_raw(seen: Heartbeat, number: int) -> bytes:
    values = {name: getattr(seen, name) for name in seen.__slots__}
    beat = Heartbeat(**values | {"session_id": number.to_bytes(16, "big")})
    return HEARTBEAT.sign(beat, seed_of("viewer")).raw


def test_silent_player_is_estimated_and_marked_until_it_reports(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.desk.note_read(token, position_ms=0, media_ms=60_000)
    scene.run(3000)
    scene.report(token, "p", 3000)
    scene.run(2000)
    scene.desk.note_read(token, position_ms=60_000, media_ms=1000)
    scene.desk.note_closed(token)
    scene.report(token, "q", 5000)
    by_flag: dict[int, list[Heartbeat]] = {}
    for beat in scene.beats():
        by_flag.setdefault(beat.flags, []).append(beat)
    assert [beat.state for beat in by_flag[FLAG_ESTIMATED]] == ["p", "q"]
    assert by_flag[FLAG_ESTIMATED][-1].media_ms_total == 3000
    assert by_flag[0][-1].media_ms_total == 2000
    assert measure(scene.beats(), EPOCH) == 5000


def test_closing_a_token_ends_its_playbacks_and_forgets_it(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    scene.run(1000)
    scene.desk.close_all()
    assert [beat.state for beat in scene.beats()] == ["p", "q"]
    with pytest.raises(UnknownTokenError):
        scene.report(token, "p", 0)
    scene.desk.close(token)


def test_player_that_reports_may_go_on_when_nobody_asks_for_media_any_more(scene: Scene) -> None:
    silent, reporting = scene.desk.open(SCOPE), scene.desk.open(SCOPE)
    scene.desk.note_read(silent, position_ms=0, media_ms=9000)
    scene.report(reporting, "p", 0)
    scene.desk.let_go(silent)
    scene.desk.let_go(reporting)
    assert (scene.desk.is_open(silent), scene.desk.is_open(reporting)) == (False, True)
    assert sorted(beat.state for beat in scene.beats()) == ["p", "p", "q"]


def test_tokens_and_player_sessions_are_bounded(scene: Scene) -> None:
    first = scene.desk.open(SCOPE)
    for number in range(PLAYBACKS_PER_TOKEN_MAX):
        scene.report(first, "p", 0, sid=str(number))
    with pytest.raises(TooManyPlaybacksError):
        scene.report(first, "p", 0, sid="one more")
    later = [scene.desk.open(SCOPE) for _ in range(TOKENS_MAX)]
    assert not scene.desk.is_open(first)
    assert scene.desk.is_open(later[0])


def test_old_playbacks_are_forgotten_and_begin_anew_without_a_fork(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_rows, "PLAYBACKS_MAX", 2)
    for sid in ("a", "b", "c", "a"):
        token = scene.desk.open(SCOPE)
        scene.report(token, "p", 0, sid=sid)
        scene.desk.close(token)
    assert len({beat.session_id for beat in scene.beats()}) == 4
    scene.judged(EPOCH)


def test_bundled_heartbeats_of_old_epochs_leave_the_spool(scene: Scene) -> None:
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    assert scene.bundle(EPOCH) is not None
    scene.now_ms += (heartbeat_rows.EPOCHS_KEPT + 2) * LENGTH_MS
    scene.report(token, "a", 0)
    assert scene.bundle(EPOCH + heartbeat_rows.EPOCHS_KEPT + 2) is not None
    assert len(scene.beats()) == 1


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_desk import SCOPE, Scene
scene = Scene(Path(sys.argv[1]))
scene.start()
token = scene.desk.open(SCOPE)
position = 0
while True:
    scene.report(token, "pa"[position // 1000 % 2], position)
    print(scene.desk.signed_count, flush=True)
    scene.now_ms += 1000
    position += 1000
"""


def test_heartbeats_that_were_signed_survive_kill_at_once_and_the_chain_goes_on(
    tmp_path: Path,
) -> None:
    path, folder = tmp_path / "spool.sqlite", Path(__file__).parent
    environment = {"PYTHONPATH": f"{folder.parents[1]}:{folder.parents[2]}"}
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as writer:
        assert writer.stdout is not None
        signed = 0
        while signed < 12:
            signed = int(writer.stdout.readline())
        writer.kill()
    scene = Scene(path)
    scene.start()
    before = scene.beats()
    assert len(before) >= signed
    scene.now_ms += 60_000
    token = scene.desk.open(SCOPE)
    scene.report(token, "p", 0)
    scene.run(1000)
    scene.report(token, "q", 1000)
    after = [beat for beat in scene.beats() if beat.sequence_number >= len(before)]
    assert len(after) == 2
    assert after[0].session_id == before[0].session_id
    assert after[-1].media_ms_total == before[-1].media_ms_total + 1000
    scene.spool.close()
