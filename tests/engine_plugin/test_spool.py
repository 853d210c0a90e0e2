"""Bundles are numbered, durable before they are sent, and sent unchanged until promised."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import (
    EPOCH,
    binding,
    entitlement,
    key_of,
    promise,
    receipt,
    seed_of,
    signed_terms,
    terms,
)

from engine_plugin.bundler import Bundler
from engine_plugin.collector import Collector
from engine_plugin.spool import BundleState, Spool, SpooledBundle, read_spool
from engine_plugin.uploader import Uploader
from ledger.evidence.bundle import BundleKind, is_signed_by_submitter, parse_bundle
from ledger.evidence.promise import PROMISE


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.sqlite")
    spool.add_entitlement(entitlement())
    yield spool
    spool.close()


def put(spool: Spool, **changes: Any) -> None:
    spool.put_receipt(receipt(**changes), kind=BundleKind.PAYEE, session_key=key_of("viewer"))


def make_bundler(spool: Spool) -> Bundler:
    return Bundler(
        terms=terms(),
        spool=spool,
        session_seed=seed_of("seeder"),
        session_key=key_of("seeder"),
        binding=binding("seeder"),
    )


def test_bundle_holds_the_newest_receipts_and_what_they_need(spool: Spool) -> None:
    put(spool, sequence=1, bytes_total=100)
    put(spool, sequence=2, bytes_total=200)
    put(spool, nonce=2, bytes_total=7)
    bundler = make_bundler(spool)
    spooled = bundler.bundle_epoch(EPOCH, BundleKind.PAYEE)
    assert spooled is not None
    signed = parse_bundle(spooled.raw)
    assert is_signed_by_submitter(signed)
    assert sorted(one.value.bytes_total for one in signed.value.receipts) == [7, 200]
    assert tuple(signed.value.entitlements) == (entitlement(),)
    assert signed.value.bindings == (binding("seeder"),)
    assert (spooled.number, spooled.bytes_total, spooled.receipt_count) == (0, 207, 2)
    assert bundler.bundle_epoch(EPOCH, BundleKind.PAYEE) is None


def test_later_receipts_go_into_the_next_number(spool: Spool) -> None:
    bundler = make_bundler(spool)
    put(spool, sequence=1, bytes_total=100)
    bundler.bundle_epoch(EPOCH, BundleKind.PAYEE)
    put(spool, sequence=2, bytes_total=150)
    second = bundler.bundle_epoch(EPOCH, BundleKind.PAYEE)
    assert second is not None
    assert (second.number, second.bytes_total) == (1, 150)


def test_older_receipt_never_replaces_a_newer_one(spool: Spool) -> None:
    put(spool, sequence=2, bytes_total=200)
    put(spool, sequence=1, bytes_total=100)
    found = spool.find_receipt(receipt().value.lane_digest)
    assert found is not None
    assert found.receipt.value.sequence == 2


class Answers:
    """What a collector answers, request by request; the last answer repeats."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(404, json={"code": "unknown_bundle"})
        self.bodies.append(request.content)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def upload(
    spool: Spool,
    answers: Callable[[httpx.Request], httpx.Response],
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[str, dict[str, Any]]]:
    """Upload until nothing is unsent; the events."""
    monkeypatch.setattr("engine_plugin.uploader.BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr("engine_plugin.uploader.BACKOFF_MOST_S", 0.002)
    events: list[tuple[str, dict[str, Any]]] = []

    async def run() -> None:
        transport = httpx.MockTransport(answers)
        collector = Collector(signed_terms(), transport=transport)
        uploader = Uploader(
            spool=spool,
            collector=collector,
            emit=lambda event, **fields: events.append((event, fields)),
        )
        task = asyncio.create_task(uploader.run())
        async with asyncio.timeout(20):
            await uploader.drain()
        task.cancel()
        await collector.close()

    asyncio.run(run())
    return events


def spool_one(spool: Spool) -> SpooledBundle:
    put(spool)
    bundle = make_bundler(spool).bundle_epoch(EPOCH, BundleKind.PAYEE)
    assert bundle is not None
    return bundle


def test_bundle_is_sent_unchanged_until_a_promise_for_it_is_stored(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = spool_one(spool)
    other = promise(bundle_digest=bytes(32))
    forged = PROMISE.sign(promise(bundle_digest=bundle.digest).value, seed_of("mallory"))
    good = promise(bundle_digest=bundle.digest)
    answers = Answers(
        httpx.ConnectError("down"),
        httpx.Response(503, headers={"retry-after": "0"}),
        httpx.Response(429),
        httpx.Response(404, text="another server"),
        httpx.Response(200, content=b"not a promise"),
        httpx.Response(200, content=other.raw),
        httpx.Response(200, content=forged.raw),
        httpx.Response(201, content=good.raw),
    )
    events = upload(spool, answers, monkeypatch)
    assert answers.bodies == [bundle.raw] * 8
    (stored,) = spool.list_bundles()
    assert (stored.state, stored.promise) == (BundleState.SENT, good.raw)
    assert [(event, fields["sealing_epoch"]) for event, fields in events] == [("bundle", EPOCH)]
    (count,) = read_spool(spool.path)[0]
    assert (count.unbundled, count.unsent, count.sent) == (0, 0, 1)


def test_refusal_is_kept_shown_and_final(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool_one(spool)
    refusal = {"code": "bundle_malformed", "detail": {"field": "bundle"}}
    answers = Answers(httpx.Response(422, json=refusal))
    events = upload(spool, answers, monkeypatch)
    assert len(answers.bodies) == 1
    (stored,) = spool.list_bundles()
    assert (stored.state, stored.code) == (BundleState.REFUSED, "bundle_malformed")
    assert spool.list_unbundled_epochs(BundleKind.PAYEE) == []
    assert events[0][0] == "refused"
    assert events[0][1]["code"] == "bundle_malformed"


def test_number_that_is_taken_sends_its_receipts_under_the_next_one(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_one(spool)
    refusal = {"code": "bundle_conflict", "detail": {"field": "bundle"}}
    upload(spool, Answers(httpx.Response(409, json=refusal)), monkeypatch)
    assert spool.list_unbundled_epochs(BundleKind.PAYEE) == [EPOCH]
    again = make_bundler(spool).bundle_epoch(EPOCH, BundleKind.PAYEE)
    assert again is not None
    assert again.number == 1
    good = promise(bundle_digest=again.digest)
    upload(spool, Answers(httpx.Response(201, content=good.raw)), monkeypatch)
    assert [bundle.state for bundle in spool.list_bundles()] == [
        BundleState.REFUSED,
        BundleState.SENT,
    ]


def test_bundle_that_the_collector_chokes_on_holds_up_no_other(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = spool_one(spool)
    put(spool, nonce=2, bytes_total=7)
    other = make_bundler(spool).bundle_epoch(EPOCH, BundleKind.PAYEE)
    assert other is not None
    choked: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(503)
        if request.content == poison.raw and len(choked) < 5:
            choked.append(request.content)
            return httpx.Response(500)
        digest = poison.digest if request.content == poison.raw else other.digest
        taken.append(digest)
        return httpx.Response(201, content=promise(bundle_digest=digest).raw)

    taken: list[bytes] = []
    upload(spool, answer, monkeypatch)
    assert taken == [other.digest, poison.digest]


def test_judged_bundles_of_old_go_and_refused_ones_stay(spool: Spool) -> None:
    kept = spool_one(spool)
    spool.store_promise(kept.digest, b"promise")
    put(spool, nonce=2)
    refused = make_bundler(spool).bundle_epoch(EPOCH, BundleKind.PAYEE)
    assert refused is not None
    spool.store_refusal(refused.digest, code="bundle_malformed", detail="")
    spool.archive(kept.digest, code="", detail="")
    spool.prune(EPOCH)
    assert len(spool.list_bundles()) == 2
    spool.prune(EPOCH + 1)
    assert [bundle.digest for bundle in spool.list_bundles()] == [refused.digest]
    # The refused one's receipts are still here for whoever asks why.
    assert spool.total_bytes() > 0


def test_receipts_outlive_their_pruned_bundle(spool: Spool) -> None:
    bundle = spool_one(spool)
    before = spool.total_bytes()
    spool.store_promise(bundle.digest, b"promise")
    spool.prune(EPOCH + 1)
    assert len(spool.list_bundles()) == 1, "only judged evidence goes"
    spool.archive(bundle.digest, code="", detail="")
    spool.prune(EPOCH + 1)
    assert spool.list_bundles() == []
    assert spool.total_bytes() == before > 0
    assert spool.list_unbundled_epochs(BundleKind.PAYEE) == []
