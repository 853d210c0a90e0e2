"""Heartbeats are believed when signed, entitled, in their time and chained; forks count nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from builders import (
    EPOCH,
    EPOCH_LENGTH_S,
    GENESIS_S,
    binding,
    digest_of,
    entitlement,
    heartbeat,
    key_of,
    payee_bundle,
    signed_terms,
    viewer_bundle,
)

from ledger.books.heartbeats import (
    TIME_SLACK_MS,
    HeartbeatCode,
    HeartbeatJudgement,
    judge_heartbeats,
)
from ledger.books.judgement import BundleCode, check_bundle
from ledger.evidence.bundle import Bundle, BundleKind
from ledger.evidence.encoding import Signed
from ledger.evidence.heartbeat import Heartbeat

EPOCH_MS = (GENESIS_S + EPOCH * EPOCH_LENGTH_S) * 1000


def chain(length: int, **changes: Any) -> list[Signed[Heartbeat]]:
    found: list[Signed[Heartbeat]] = []
    for number in range(length):
        values: dict[str, Any] = {
            "sequence_number": number,
            "timestamp_ms": EPOCH_MS + number * 1000,
            "media_ms_total": number * 1000,
            "previous_digest": found[-1].digest if found else bytes(32),
        }
        found.append(heartbeat(**values | changes))
    return found


def judge(*bundles: Signed[Bundle]) -> HeartbeatJudgement:
    terms = signed_terms()
    return judge_heartbeats([check_bundle(bundle.raw, terms, EPOCH) for bundle in bundles], terms)


def test_chain_of_an_honest_viewer_is_verified_and_named_by_its_session_key() -> None:
    beats = chain(3)
    got = judge(viewer_bundle([], heartbeats=beats))
    assert got.codes == ((HeartbeatCode.VERIFIED,) * 3,)
    assert dict(got.by_viewer) == {key_of("viewer"): tuple(beat.value for beat in beats)}


def test_viewer_with_a_binding_is_its_account() -> None:
    bundle = payee_bundle(
        [],
        "viewer",
        kind=BundleKind.VIEWER,
        entitlements=[entitlement()],
        heartbeats=chain(2),
        bindings=[binding("viewer")],
    )
    assert list(judge(bundle).by_viewer) == [key_of("viewer account")]


def test_heartbeat_in_two_bundles_counts_once() -> None:
    beats = chain(3)
    first = viewer_bundle([], heartbeats=beats[:2])
    second = viewer_bundle([], heartbeats=beats[1:], number=1)
    got = judge(second, first)
    assert got.refused == 0
    assert got.by_viewer[key_of("viewer")] == tuple(beat.value for beat in beats)


def test_bundle_with_heartbeats_only_is_accepted() -> None:
    check = check_bundle(viewer_bundle([], heartbeats=chain(1)).raw, signed_terms(), EPOCH)
    assert (check.code, check.receipt_codes) == (BundleCode.ACCEPTED, ())


CHANGES: list[tuple[str, Callable[[], Signed[Heartbeat]], HeartbeatCode]] = [
    ("network", lambda: heartbeat(network_id=digest_of("other")), HeartbeatCode.WRONG_NETWORK),
    (
        "entitlement",
        lambda: heartbeat(entitlement_digest=digest_of("other")),
        HeartbeatCode.UNKNOWN_ENTITLEMENT,
    ),
    (
        "too early",
        lambda: heartbeat(timestamp_ms=EPOCH_MS - TIME_SLACK_MS - 1),
        HeartbeatCode.WRONG_TIME,
    ),
    (
        "too late",
        lambda: heartbeat(timestamp_ms=EPOCH_MS + EPOCH_LENGTH_S * 1000 + TIME_SLACK_MS),
        HeartbeatCode.WRONG_TIME,
    ),
    (
        "signature",
        lambda: heartbeat("other", entitlement_digest=entitlement().digest),
        HeartbeatCode.BAD_SIGNATURE,
    ),
]


@pytest.mark.parametrize(
    ("make", "code"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)
def test_heartbeat_that_is_wrong_alone_is_refused_with_its_code(
    make: Callable[[], Signed[Heartbeat]], code: HeartbeatCode
) -> None:
    got = judge(viewer_bundle([], heartbeats=[make()]))
    assert got.codes == ((code,),)
    assert not got.by_viewer


def test_heartbeat_under_another_session_keys_entitlement_is_refused() -> None:
    theirs = entitlement("other")
    beat = heartbeat("other", entitlement_digest=theirs.digest)
    got = judge(viewer_bundle([], entitlements=[theirs], heartbeats=[beat]))
    assert got.codes == ((HeartbeatCode.WRONG_SESSION,),)


def test_heartbeat_under_a_forged_entitlement_is_refused() -> None:
    forged = entitlement(issuing_key=key_of("other"))
    beat = heartbeat(entitlement_digest=forged.digest)
    got = judge(viewer_bundle([], entitlements=[forged], heartbeats=[beat]))
    assert got.codes == ((HeartbeatCode.BAD_ENTITLEMENT,),)


def test_heartbeat_under_a_revoked_issuing_key_is_refused() -> None:
    terms, bundle = signed_terms(), viewer_bundle([], heartbeats=chain(1))
    checks = [check_bundle(bundle.raw, terms, EPOCH)]
    until = judge_heartbeats(checks, terms, issued_through=EPOCH)
    after = judge_heartbeats(checks, terms, issued_through=EPOCH - 1)
    assert (until.codes, after.codes) == (((0,),), ((HeartbeatCode.BAD_ENTITLEMENT,),))


def test_heartbeat_outside_of_its_entitlements_time_is_refused() -> None:
    late = entitlement(not_before_s=EPOCH_MS // 1000 + TIME_SLACK_MS // 1000 + 1)
    beat = heartbeat(entitlement_digest=late.digest)
    got = judge(viewer_bundle([], entitlements=[late], heartbeats=[beat]))
    assert got.codes == ((HeartbeatCode.WRONG_TIME,),)


def test_heartbeats_in_a_payees_bundle_are_refused() -> None:
    beat = heartbeat("seeder", entitlement_digest=entitlement("seeder").digest)
    bundle = payee_bundle([], entitlements=[entitlement("seeder")], heartbeats=[beat])
    assert judge(bundle).codes == ((HeartbeatCode.WRONG_KIND,),)


def test_heartbeats_of_a_refused_bundle_are_refused() -> None:
    bundle = viewer_bundle([], heartbeats=chain(1), broadcaster_account=key_of("other"))
    assert judge(bundle).codes == ((HeartbeatCode.BUNDLE_REFUSED,),)


def test_session_with_two_heartbeats_of_one_number_counts_nothing() -> None:
    beats = chain(2)
    fork = heartbeat(sequence_number=1, media_ms_total=1, previous_digest=beats[0].digest)
    got = judge(viewer_bundle([], heartbeats=beats), viewer_bundle([], heartbeats=[fork], number=1))
    assert {code for row in got.codes for code in row} == {HeartbeatCode.FORKED}
    assert not got.by_viewer


def test_heartbeat_that_names_another_before_it_breaks_the_chain_from_there() -> None:
    beats = [
        *chain(2),
        heartbeat(sequence_number=2, timestamp_ms=EPOCH_MS + 2000, media_ms_total=2000),
    ]
    beats.append(
        heartbeat(
            sequence_number=3,
            timestamp_ms=EPOCH_MS + 3000,
            media_ms_total=3000,
            previous_digest=beats[-1].digest,
        )
    )
    got = judge(viewer_bundle([], heartbeats=beats))
    assert got.codes == ((0, 0, HeartbeatCode.BROKEN_CHAIN, HeartbeatCode.BROKEN_CHAIN),)
    assert len(got.by_viewer[key_of("viewer")]) == 2


@pytest.mark.parametrize(
    "field", ["timestamp_ms", "media_ms_total", "bytes_p2p_total", "bytes_cdn_total"]
)
def test_total_that_falls_is_refused(field: str) -> None:
    high = {
        "timestamp_ms": EPOCH_MS + 5000,
        "media_ms_total": 5000,
        "bytes_p2p_total": 5000,
        "bytes_cdn_total": 5000,
    }
    first = heartbeat(**high)
    second = heartbeat(
        sequence_number=1, previous_digest=first.digest, **high | {field: high[field] - 1}
    )
    got = judge(viewer_bundle([], heartbeats=[first, second]))
    assert got.codes == ((HeartbeatCode.VERIFIED, HeartbeatCode.FALLING),)


def test_skipped_number_breaks_no_chain() -> None:
    beats = chain(4)
    got = judge(viewer_bundle([], heartbeats=[beats[0], *beats[2:]]))
    assert got.refused == 0
