"""Two engines' talk: receipts, answers, attested connections, evidence, clocks, adversaries."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adversaries.channel_actors import Claimant, CopiedClientString, Viewer
from adversaries.speaker import Party
from builders import EPOCH, GENESIS_S, digest_of, entitlement, key_of, receipt
from engine_nodes import BLOCK, CONTENT, Node, Time, connect, snapshot, until

from engine_plugin.identity import format_handshake
from engine_plugin.journal_records import PeerKey
from engine_plugin.wire import (
    ACKNOWLEDGEMENT_STEP,
    AcknowledgementStep,
    ConnectionPorts,
    Endpoint,
    ReceiptVerdict,
    format_acknowledgement,
)
from ledger.evidence.bundle import BundleKind
from ledger.evidence.encoding import RecordCode, Signed
from ledger.evidence.receipt import RECEIPT, Receipt

MIB = 1 << 20
VIEWER = Party(name="viewer", ip="127.0.0.31")
SEEDER_IP = "127.0.0.32"


def run_pair(
    folder: Path, script: Callable[[Node, Node], Awaitable[None]], **seeder_fields: Any
) -> None:
    """Run a script with a viewer and a seeder that know ledger time."""

    async def run() -> None:
        time = Time()
        viewer = Node("viewer", VIEWER.ip, folder / "viewer", time)
        seeder = Node("seeder", SEEDER_IP, folder / "seeder", time, **seeder_fields)
        async with viewer, seeder:
            for node in (viewer, seeder):
                node.read_clock()
            viewer.take_entitlement()
            await script(viewer, seeder)

    asyncio.run(run())


async def open_channel(viewer: Node, seeder: Node) -> Endpoint:
    """Connect over BitTorrent, and wait until both sides have attested it."""
    here = connect(viewer, seeder)
    viewer.tick()
    seeder.tick()
    await until(lambda: seeder.exchange.peers_of(viewer.key))
    await until(lambda: viewer.exchange.peers_of(seeder.key))
    return here


async def deliver(viewer: Node, seeder: Node, here: Endpoint, byte_count: int) -> None:
    """Have the seeder send bytes and the viewer find them good, then let receipts travel."""
    seeder.sent[str(here)] += byte_count
    viewer.credit(seeder, seeder.endpoint, byte_count)
    before = len(viewer.of("receipt"))
    viewer.tick()
    if len(viewer.of("receipt")) > before:
        await until(lambda: not viewer.lanes.list_unacknowledged())


def newest(seeder: Node) -> Receipt:
    (spooled,) = seeder.spool.list_unbundled(EPOCH, BundleKind.PAYEE, 10)
    return spooled.value


def test_receipts_travel_as_steps_and_are_spooled_in_full(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        here = await open_channel(viewer, seeder)
        assert seeder.exchange.peers_of(viewer.key) == [PeerKey(viewer.peer_id, str(here))]
        for _ in range(3):
            await deliver(viewer, seeder, here, 4 * MIB)
        signed = newest(seeder)
        assert (signed.sequence, signed.bytes_total) == (3, 12 * MIB)
        (spooled,) = seeder.spool.list_unbundled(EPOCH, BundleKind.PAYEE, 10)
        assert RECEIPT.is_signed_by(spooled, viewer.key)
        exposure = seeder.exchange.exposures()[viewer.key]
        assert (exposure.sent_bytes, exposure.unacknowledged_bytes) == (12 * MIB, 0)
        # Hellos, proofs, claim, entitlement, one full receipt and two steps, three answers.
        assert viewer.wire() == seeder.wire()
        assert viewer.wire() < 2000

    run_pair(tmp_path, script)


def test_connection_that_the_viewer_dialled_is_attested_on_both_sides(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        here = await open_channel(viewer, seeder)
        assert viewer.exchange.key_of(PeerKey(seeder.peer_id, str(seeder.endpoint))) == seeder.key
        assert seeder.exchange.key_of(PeerKey(viewer.peer_id, str(here))) == viewer.key

    run_pair(tmp_path, script)


def test_receipts_travel_over_ipv6(tmp_path: Path) -> None:
    async def run() -> None:
        viewer, seeder = (
            Node("viewer", "::1", tmp_path / "v"),
            Node("seeder", "::1", tmp_path / "s"),
        )
        async with viewer, seeder:
            for node in (viewer, seeder):
                node.read_clock()
            viewer.take_entitlement()
            here = await open_channel(viewer, seeder)
            assert str(here) == "[::1]:50001"
            await deliver(viewer, seeder, here, BLOCK)
            assert seeder.spool.total_bytes() == BLOCK

    asyncio.run(run())


def test_further_connections_cost_few_bytes_each(tmp_path: Path) -> None:
    """A live stream opens a connection per segment."""

    async def script(viewer: Node, seeder: Node) -> None:
        await open_channel(viewer, seeder)
        before = viewer.wire()
        for port in range(50_100, 50_200):
            connect(viewer, seeder, port)
            viewer.tick()
        await until(lambda: viewer.wire() == seeder.wire())
        await asyncio.sleep(0.05)
        seeder.tick()
        assert len(seeder.exchange.peers_of(viewer.key)) == 101
        assert (viewer.wire() - before) / 100 <= 30

    run_pair(tmp_path, script)


def test_copied_peer_id_at_another_endpoint_is_never_attested(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        await open_channel(viewer, seeder)
        # Mallory copied the seeder's peer-id and client text, and serves from elsewhere.
        fakes = [Endpoint("127.0.0.66", 6881), Endpoint(SEEDER_IP, 7000)]
        for number, fake in enumerate(fakes):
            own = Endpoint(viewer.ip, 51_000 + number)
            viewer.see(
                *viewer.snapshots,
                snapshot(seeder, own, fake, is_outgoing=True),
            )
        viewer.tick()
        for fake in fakes:
            viewer.credit(seeder, fake, BLOCK)
            assert viewer.exchange.key_of(PeerKey(seeder.peer_id, str(fake))) is None
        assert viewer.journal.totals().unattested_bytes == 2 * BLOCK
        assert viewer.journal.list_claims() == []

    run_pair(tmp_path, script)


def test_copied_client_string_hides_nobody_and_is_told_once(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        mallory = CopiedClientString(Party(name="mallory", ip="127.0.0.66"))
        port = await mallory.listen()
        # The copy comes first, with the seeder's peer-id and key and a port of its own.
        viewer.see(
            snapshot(
                seeder,
                Endpoint(viewer.ip, 51_000),
                mallory.party.endpoint,
                is_outgoing=True,
                client=format_handshake(seeder.key, port),
            )
        )
        connect(viewer, seeder)
        for _ in range(3):
            viewer.tick()
            await asyncio.sleep(0.05)
            viewer.time.now_s += 40
        await until(lambda: viewer.exchange.peers_of(seeder.key))
        assert viewer.exchange.key_of(PeerKey(seeder.peer_id, "127.0.0.66:6881")) is None
        assert mallory.dialled
        assert viewer.exchange.totals.refusals == {"wrong_key": mallory.dialled}
        assert len(viewer.of("refused")) == 1
        # Whom we owe is looked for where its key was proved.
        for channel in list(viewer.exchange.side.table.all):
            channel.close()
        await until(lambda: not seeder.exchange.side.table.all)
        viewer.credit(seeder, seeder.endpoint, BLOCK)
        seeder.sent[f"{viewer.ip}:50001"] = BLOCK
        viewer.accounting.sign_all()
        dialled = mallory.dialled
        viewer.exchange.dial_debtors(viewer.time(), is_last=True)
        await until(lambda: not viewer.lanes.list_unacknowledged())
        assert mallory.dialled == dialled
        await mallory.close()

    run_pair(tmp_path, script)


@pytest.mark.parametrize("ports", [ConnectionPorts(50_001, 6881), ConnectionPorts(40_000, 6881)])
def test_nobody_can_claim_anothers_connection(tmp_path: Path, ports: ConnectionPorts) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        here = connect(viewer, seeder)
        # Mallory sits at the viewer's own address and claims the viewer's very connection.
        mallory = Party(name="mallory", ip=VIEWER.ip)
        await Claimant(mallory, [ports]).attack(Endpoint(seeder.ip, seeder.port))
        seeder.tick()
        assert seeder.exchange.key_of(PeerKey(viewer.peer_id, str(here))) is None
        assert seeder.exchange.exposures() == {}

    run_pair(tmp_path, script)


def give(
    folder: Path, viewer: Viewer, *, sent_bytes: int = 1 << 30, check: Callable[[Node], None]
) -> list[ReceiptVerdict]:
    """Let an actor talk to a seeder that sent it so many bytes; the verdicts on its receipts."""
    verdicts: list[ReceiptVerdict] = []

    async def run() -> None:
        seeder = Node("seeder", SEEDER_IP, folder / "seeder", epoch_length_s=15)
        async with seeder:
            seeder.read_clock()
            here = Endpoint(viewer.party.ip, 50_001)
            viewer.claims.append(ConnectionPorts(50_001, 6881))
            peer = Node(viewer.party.name, viewer.party.ip, folder / "peer")
            peer.port = 0
            seeder.see(snapshot(peer, seeder.endpoint, here, is_outgoing=False))
            seeder.sent[str(here)] = sent_bytes
            await viewer.attack(Endpoint(seeder.ip, seeder.port))
            await until(lambda: not seeder.exchange.side.table.all)
            check(seeder)
            for record in viewer.answers:
                answer = AcknowledgementStep(**ACKNOWLEDGEMENT_STEP.unpack(record))
                verdicts.append(ReceiptVerdict(answer.verdict))
            peer.journal.close()
            peer.spool.close()

    asyncio.run(run())
    return verdicts


FORGED = RECEIPT.parse(receipt().raw[:64] + receipt(bytes_total=999_999).raw[64:])


@pytest.mark.parametrize(
    ("signed", "verdict"),
    [
        (receipt(bytes_total=100 * MIB), ReceiptVerdict.MORE_THAN_SENT),
        (receipt(payee="other"), ReceiptVerdict.FOREIGN_PAYEE),
        (receipt(under=entitlement("other")), ReceiptVerdict.UNKNOWN_ENTITLEMENT),
        (receipt(epoch=EPOCH + 9), ReceiptVerdict.WRONG_EPOCH),
    ],
    ids=["inflated", "foreign payee", "foreign entitlement", "epoch ahead"],
)
def test_bad_receipt_is_answered_refused_counted_and_not_kept(
    tmp_path: Path, signed: Signed[Receipt], verdict: ReceiptVerdict
) -> None:
    def check(seeder: Node) -> None:
        assert seeder.spool.total_bytes() == 0
        reason = f"receipt:{verdict.name.lower()}"
        assert seeder.exchange.totals.refusals == {reason: 3}
        # Told once, however often it is tried.
        assert len(seeder.of("refused")) == 1

    viewer = Viewer(VIEWER, [entitlement()], [signed] * 3)
    assert give(tmp_path, viewer, sent_bytes=MIB, check=check) == [verdict] * 3


def test_forged_receipt_ends_the_channel(tmp_path: Path) -> None:
    def check(seeder: Node) -> None:
        assert seeder.spool.total_bytes() == 0
        assert seeder.exchange.totals.refusals == {"receipt:bad_signature": 1, "malformed": 1}

    give(tmp_path, Viewer(VIEWER, [entitlement()], [FORGED, receipt()]), check=check)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (entitlement("other"), "foreign_session"),
        (entitlement(issuing_key=key_of("mallory")), "foreign_issuer"),
        (entitlement(network_id=bytes(32)), "wrong_network"),
        (entitlement(content_id=digest_of("other content")), "foreign_content"),
        (
            entitlement(not_before_s=GENESIS_S - 9000, not_after_s=GENESIS_S - 8000),
            "entitlement_not_valid_now",
        ),
    ],
    ids=["session", "issuer", "network", "content", "expired"],
)
def test_foreign_or_expired_entitlement_is_refused_and_pays_nothing(
    tmp_path: Path, bad: Any, code: str
) -> None:
    def check(seeder: Node) -> None:
        assert seeder.exchange.totals.refusals[f"entitlement:{code}"] == 2
        assert seeder.spool.total_bytes() == 0

    viewer = Viewer(VIEWER, [bad, bad], [receipt(under=bad)])
    verdicts = give(tmp_path, viewer, check=check)
    assert verdicts == [ReceiptVerdict.UNKNOWN_ENTITLEMENT]


def test_equivocation_is_kept_as_evidence_and_the_newest_wins(tmp_path: Path) -> None:
    first, second = receipt(sequence=4, bytes_total=500), receipt(sequence=5, bytes_total=700)
    lie = receipt(sequence=5, bytes_total=600)

    def check(seeder: Node) -> None:
        # Both messages that contradict each other are kept whole, and a restart finds them.
        assert seeder.spool.list_equivocations() == [(second, lie)]
        for signed in (second, lie):
            assert RECEIPT.is_signed_by(signed, key_of("viewer"))
        assert seeder.spool.receipted_bytes(key_of("viewer")) == {second.value.lane_digest: 700}
        assert seeder.exchange.totals.refusals == {
            "receipt:stale": 1,
            "receipt:equivocation": 2,
        }

    later = receipt(sequence=6, bytes_total=800)
    viewer = Viewer(VIEWER, [entitlement()], [first, second, first, lie, later])
    assert give(tmp_path, viewer, check=check) == [
        ReceiptVerdict.ACCEPTED,
        ReceiptVerdict.ACCEPTED,
        ReceiptVerdict.STALE,
        ReceiptVerdict.EQUIVOCATION,
        ReceiptVerdict.EQUIVOCATION,
    ]


def test_withheld_receipts_show_in_the_exposure(tmp_path: Path) -> None:
    def check(seeder: Node) -> None:
        (exposure,) = seeder.exchange.exposures().values()
        assert exposure.session_key == key_of("viewer")
        assert exposure.unacknowledged_bytes == 7 * MIB

    give(tmp_path, Viewer(VIEWER, [entitlement()]), sent_bytes=7 * MIB, check=check)


def test_answer_tells_what_is_outstanding(tmp_path: Path) -> None:
    viewer = Viewer(VIEWER, [entitlement()], [receipt(bytes_total=2 * MIB)])
    give(tmp_path, viewer, sent_bytes=5 * MIB, check=lambda _: None)
    (record,) = viewer.answers
    answer = AcknowledgementStep(**ACKNOWLEDGEMENT_STEP.unpack(record))
    assert answer.unacknowledged_blocks * BLOCK == 3 * MIB


def test_answer_to_a_receipt_that_was_never_sent_changes_nothing(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        here = await open_channel(viewer, seeder)
        (channel,) = seeder.exchange.side.table.all
        lie = format_acknowledgement(digest_of("no receipt"), ReceiptVerdict.ACCEPTED, 0)
        channel.send(RecordCode.ACKNOWLEDGEMENT_STEP, lie)
        await deliver(viewer, seeder, here, BLOCK)
        assert len(viewer.of("acknowledged")) == 1
        assert len(viewer.exchange.side.table.all) == 1

    run_pair(tmp_path, script)


def test_peer_that_was_away_gets_what_it_missed(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        here = await open_channel(viewer, seeder)
        await deliver(viewer, seeder, here, 4 * MIB)
        for channel in list(viewer.exchange.side.table.all):
            channel.close()
        await until(lambda: not seeder.exchange.side.table.all)
        seeder.sent[str(here)] += 4 * MIB
        viewer.credit(seeder, seeder.endpoint, 4 * MIB)
        viewer.accounting.sign_due(viewer.time())
        assert viewer.lanes.list_unacknowledged()
        viewer.time.now_s += 5
        viewer.tick()
        await until(lambda: not viewer.lanes.list_unacknowledged())
        assert newest(seeder).bytes_total == 8 * MIB

    run_pair(tmp_path, script)


def test_receipt_that_could_not_be_stored_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        here = await open_channel(viewer, seeder)
        with monkeypatch.context() as patch:
            verdict = ReceiptVerdict.NOT_STORED
            take = seeder.desk.take_receipt
            patch.setattr(
                seeder.desk,
                "take_receipt",
                lambda raw, key: (RECEIPT.parse(raw), verdict),
            )
            assert take
            seeder.sent[str(here)] += BLOCK
            viewer.credit(seeder, seeder.endpoint, BLOCK)
            viewer.tick()
            await until(lambda: viewer.of("refused"))
        assert seeder.spool.total_bytes() == 0
        viewer.time.now_s += 4
        viewer.tick()
        await until(lambda: not viewer.lanes.list_unacknowledged())
        assert seeder.spool.total_bytes() == BLOCK

    run_pair(tmp_path, script)


def test_silent_channel_of_a_peer_that_left_is_closed(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        await open_channel(viewer, seeder)
        seeder.time.now_s += 200
        seeder.tick()
        await asyncio.sleep(0.02)
        assert seeder.exchange.is_connected(viewer.key)
        seeder.see()
        seeder.tick()
        await until(lambda: not seeder.exchange.side.table.all)

    run_pair(tmp_path, script)


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_skewed_wall_clocks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    """Wall clocks an hour apart, machines started at different times, a step in the middle."""

    async def run() -> None:
        wall = {"s": 1_700_000_000.0}
        monkeypatch.setattr("time.time", lambda: wall["s"])
        monkeypatch.setattr("time.time_ns", lambda: int(wall["s"] * 1e9))
        viewer_time, seeder_time = Time(50.0), Time(9_000_000.0 + skew_s)
        viewer = Node("viewer", VIEWER.ip, tmp_path / "v", viewer_time, epoch_length_s=60)
        seeder = Node("seeder", SEEDER_IP, tmp_path / "s", seeder_time, epoch_length_s=60)
        async with viewer, seeder:
            viewer.read_clock(into_s=58)
            seeder.read_clock(into_s=58)
            viewer.take_entitlement()
            here = await open_channel(viewer, seeder)
            wall["s"] += skew_s
            await deliver(viewer, seeder, here, 10 * BLOCK)
            # Firm before the border, signed after it: it stays the old epoch's.
            seeder.sent[str(here)] += 3 * BLOCK
            viewer.credit(seeder, seeder.endpoint, 3 * BLOCK)
            for time in (viewer_time, seeder_time):
                time.now_s += 3
            seeder.sent[str(here)] += 5 * BLOCK
            viewer.credit(seeder, seeder.endpoint, 5 * BLOCK)
            viewer.tick()
            viewer.accounting.sign_all()
            await until(lambda: not viewer.lanes.list_unacknowledged())
            totals = {
                signed.value.epoch: signed.value.bytes_total
                for epoch in seeder.spool.list_unbundled_epochs(BundleKind.PAYEE)
                for signed in seeder.spool.list_unbundled(epoch, BundleKind.PAYEE, 9)
            }
            assert totals == {EPOCH: 13 * BLOCK, EPOCH + 1: 5 * BLOCK}
            assert viewer.clock.epoch() == seeder.clock.epoch() == EPOCH + 1

    asyncio.run(run())


def test_seeder_whose_ledger_time_is_an_epoch_behind_still_takes_receipts(tmp_path: Path) -> None:
    async def run() -> None:
        viewer = Node("viewer", VIEWER.ip, tmp_path / "v")
        seeder = Node("seeder", SEEDER_IP, tmp_path / "s")
        async with viewer, seeder:
            viewer.read_clock(epoch=EPOCH + 1)
            seeder.read_clock(epoch=EPOCH)
            viewer.take_entitlement()
            here = await open_channel(viewer, seeder)
            await deliver(viewer, seeder, here, BLOCK)
            assert seeder.spool.total_bytes() == BLOCK

    asyncio.run(run())


def test_ended_connections_of_a_live_stream_do_not_pile_up(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        await open_channel(viewer, seeder)
        for port in range(51_000, 51_600):
            here = connect(viewer, seeder, port)
            seeder.sent[str(here)] = BLOCK
            viewer.see(*viewer.snapshots[-3:])
            seeder.see(*seeder.snapshots[-3:])
            viewer.time.now_s += 1
            viewer.tick()
            await asyncio.sleep(0)
        await until(lambda: viewer.wire() == seeder.wire())
        seeder.tick()
        assert len(seeder.exchange.peers_of(viewer.key)) <= 256
        # What was sent over them is not forgotten.
        attested = seeder.exchange.exposures()[viewer.key].sent_bytes // BLOCK
        assert 256 < attested <= 600

    run_pair(tmp_path, script)


def test_entitlements_are_shown_only_to_those_who_get_receipts_under_them(tmp_path: Path) -> None:
    async def script(viewer: Node, seeder: Node) -> None:
        other = entitlement(
            "viewer",
            content_id=digest_of("other content"),
            terms_digest=viewer.terms.digest,
            not_after_s=GENESIS_S + (1 << 30),
        )
        viewer.entitlements.take(other, digest_of("other content"))
        here = await open_channel(viewer, seeder)
        viewer.exchange.announce_entitlements()
        await deliver(viewer, seeder, here, BLOCK)
        shown = seeder.spool.list_entitlements(viewer.key)
        assert [signed.value.content_id for signed in shown] == [CONTENT]
        # A renewal is told to those who know the one before, at once.
        viewer.fields = {"serial": bytes(16)}
        viewer.take_entitlement()
        viewer.exchange.announce_entitlements()
        await until(lambda: len(seeder.spool.list_entitlements(viewer.key)) == 2)
        assert "refused" not in {event["event"] for event in seeder.events}

    run_pair(tmp_path, script)


def test_claims_outlive_the_torrent_that_carried_the_connection(tmp_path: Path) -> None:
    """The journal folds a removed torrent; the next one over the same ends is attested too."""

    async def script(viewer: Node, seeder: Node) -> None:
        here = await open_channel(viewer, seeder)
        await deliver(viewer, seeder, here, BLOCK)
        viewer.journal.retire_torrent(viewer.torrent)
        viewer.torrent = viewer.journal.add_torrent(
            content_id=digest_of("next segment"),
            name="segment",
            content_bytes=MIB,
            scope_id=CONTENT,
        )
        viewer.see(*(replace(one, torrent=1) for one in viewer.snapshots))
        viewer.tick()
        viewer.credit(seeder, seeder.endpoint, 2 * BLOCK)
        assert sum(claim.byte_count for claim in viewer.journal.list_claims()) == 2 * BLOCK

    run_pair(tmp_path, script)
