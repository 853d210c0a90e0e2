"""Caps, revocation and coverage: one rule, kept by the viewer, the seeder and the gate alike."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import (
    EPOCH,
    EPOCH_LENGTH_S,
    GENESIS_S,
    NETWORK_ID,
    digest_of,
    entitlement,
    key_of,
    receipt,
    seed_of,
    signed_terms,
    terms,
)
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.caps import CapUse, bytes_left, is_used_up, judge_use
from engine_plugin.coverage import Coverage, CoverageError, CoverageGate, require_coverage
from engine_plugin.entitlements import OwnEntitlements
from engine_plugin.issuing_key import IssuingKey, IssuingKeyError
from engine_plugin.payee import PayeeDesk
from engine_plugin.spool import Spool
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import Entitlement

NOW_S = GENESIS_S + EPOCH * EPOCH_LENGTH_S
CONTENT = digest_of("content")
V = ReceiptVerdict


def binding(last_epoch: int, serial: int = 2, **changes: Any) -> Signed[Binding]:
    value = Binding(
        network_id=NETWORK_ID,
        account=key_of("broadcaster"),
        key=key_of("issuing"),
        role=Role.ISSUING,
        first_epoch=0,
        last_epoch=last_epoch,
        serial=serial,
    )
    return BINDING.sign(replace(value, **changes), seed_of("broadcaster"), seed_of("issuing"))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.sqlite")
    yield spool
    spool.close()


class Desk:
    """A desk that the viewer's entitlement was presented to."""

    def __init__(self, spool: Spool, *entitled: Signed[Entitlement]) -> None:
        self.issuing_key = IssuingKey(terms())
        self.now_s = NOW_S
        self.desk = PayeeDesk(
            terms=signed_terms(),
            spool=spool,
            session_key=key_of("seeder"),
            content_ids=frozenset({CONTENT}),
            ledger_ms=lambda: self.now_s * 1000,
            sent_bytes=lambda _key: 1 << 40,
            issuing_key=self.issuing_key,
        )
        for signed in entitled:
            assert self.present(signed) is V.ACCEPTED

    def present(self, signed: Signed[Entitlement]) -> ReceiptVerdict:
        return self.desk.take_entitlement(signed.raw, key_of("viewer"))

    def give(self, total: int, sequence: int, **changes: Any) -> ReceiptVerdict:
        signed = receipt(bytes_total=total, sequence=sequence, **changes)
        return self.desk.take_receipt(signed.raw, key_of("viewer"))[1]

    @property
    def refusal(self) -> ReceiptVerdict | None:
        return self.desk.refusal_of(key_of("viewer"))


def under(signed: Signed[Entitlement]) -> dict[str, bytes]:
    return {"entitlement_digest": signed.digest}


def test_a_receipt_beyond_the_cap_of_bytes_is_refused_over_all_lanes_and_epochs(spool):
    capped = entitlement(max_bytes=1_000_000)
    scene = Desk(spool, capped)
    assert scene.give(600_000, 1, **under(capped)) is V.ACCEPTED
    assert scene.give(400_000, 1, epoch=EPOCH + 1, **under(capped)) is V.ACCEPTED
    assert scene.refusal is None
    assert scene.give(600_001, 2, **under(capped)) is V.OVER_MAX_BYTES
    assert scene.refusal is V.OVER_MAX_BYTES
    # What stands is not lost; and a restart knows it too.
    again = Desk(spool)
    assert again.give(600_001, 2, **under(capped)) is V.OVER_MAX_BYTES
    assert again.desk.receipted_bytes(key_of("viewer")) == 1_000_000


def test_a_new_entitlement_ends_the_refusal(spool):
    capped = entitlement(max_bytes=1_000)
    scene = Desk(spool, capped)
    assert scene.give(1_001, 1, **under(capped)) is V.OVER_MAX_BYTES
    assert scene.present(capped) is V.ACCEPTED
    assert scene.refusal is V.OVER_MAX_BYTES
    fresh = entitlement(max_bytes=5_000, serial=bytes(16))
    assert scene.present(fresh) is V.ACCEPTED
    assert scene.refusal is None
    assert scene.give(5_000, 1, **under(fresh)) is V.ACCEPTED


def test_a_receipt_beyond_the_rate_is_refused_until_time_allows_it(spool):
    # 8 kbit/s are 1,000 bytes a second; 60 s of them may be fetched ahead.
    slow = entitlement(max_rate_kbps=8, not_before_s=NOW_S - 10)
    scene = Desk(spool, slow)
    skew_s = 60
    assert scene.give((10 + 60 + skew_s) * 1_000, 1, **under(slow)) is V.ACCEPTED
    assert scene.give((10 + 60 + skew_s) * 1_000 + 1, 2, **under(slow)) is V.OVER_MAX_RATE
    assert scene.refusal is None
    scene.now_s += 1
    assert scene.give((10 + 60 + skew_s) * 1_000 + 1, 2, **under(slow)) is V.ACCEPTED


def test_a_receipt_beyond_the_media_time_is_refused(spool):
    short = entitlement(max_media_ms=5_000)
    scene = Desk(spool, short)
    assert scene.give(10, 1, media_ms_total=5_000, **under(short)) is V.ACCEPTED
    assert scene.give(20, 2, media_ms_total=5_001, **under(short)) is V.OVER_MAX_MEDIA
    assert scene.refusal is V.OVER_MAX_MEDIA


def test_a_revoked_keys_entitlements_are_refused_from_the_epoch_after_its_last(spool):
    signed = entitlement()
    scene = Desk(spool, signed)
    scene.issuing_key.take(binding(EPOCH))
    assert scene.give(10, 1, **under(signed)) is V.ACCEPTED
    assert scene.give(10, 1, epoch=EPOCH + 1, **under(signed)) is V.ISSUING_KEY_REVOKED
    assert scene.refusal is V.ISSUING_KEY_REVOKED
    scene.now_s += EPOCH_LENGTH_S
    assert scene.present(entitlement(serial=bytes(16))) is V.ISSUING_KEY_REVOKED


def own(spool: Spool, use: CapUse, issuing_key: IssuingKey | None = None) -> OwnEntitlements:
    return OwnEntitlements(
        terms=signed_terms(),
        spool=spool,
        session_key=key_of("viewer"),
        issuing_key=issuing_key,
        use_of=lambda _digest: use,
        now_s=lambda: NOW_S,
    )


def test_a_viewer_asks_for_the_next_before_its_cap_is_used_up_and_signs_nothing_beyond(spool):
    capped = entitlement(max_bytes=1_000)
    spool.add_entitlement(capped)
    for used, is_wanting, left in ((0, False, 1_000), (751, True, 249), (1_000, True, 0)):
        held = own(spool, CapUse(bytes_total=used))
        assert held.is_wanting(CONTENT, NOW_S) is is_wanting
        assert held.bytes_left(capped) == left
        assert (held.find(CONTENT, EPOCH) is None) is (left == 0)
    assert "used up, 1000 of 1000 bytes" in held.explain_none(CONTENT, EPOCH)


def test_only_time_ends_an_entitlement_without_caps_and_until_then_nobody_need_look(spool):
    held = own(spool, CapUse())
    assert held.calm_s(CONTENT, NOW_S) == 0
    spool.add_entitlement(entitlement(max_bytes=1_000))
    assert own(spool, CapUse()).calm_s(CONTENT, NOW_S) == 0
    free = entitlement(serial=bytes(16))
    spool.add_entitlement(free)
    held = own(spool, CapUse())
    calm_s = held.calm_s(CONTENT, NOW_S)
    assert calm_s == free.value.not_after_s - 60 - NOW_S
    assert not held.is_wanting(CONTENT, NOW_S + calm_s)
    assert held.calm_s(CONTENT, NOW_S + calm_s) == held.calm_s(CONTENT, None) == 0


def test_a_viewer_signs_and_asks_for_nothing_under_a_revoked_key(spool):
    spool.add_entitlement(entitlement())
    issuing_key = IssuingKey(terms())
    issuing_key.take(binding(EPOCH - 1))
    held = own(spool, CapUse(), issuing_key)
    assert held.find(CONTENT, EPOCH) is None
    assert held.find(CONTENT, EPOCH - 1) is not None
    assert not held.is_wanting(CONTENT, NOW_S)
    assert "revoked after epoch" in held.explain_none(CONTENT, EPOCH)
    assert held.take(entitlement(serial=bytes(16)), CONTENT) is V.ISSUING_KEY_REVOKED


@given(
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.integers(0, 40),
    st.integers(0, 5_000),
    st.integers(0, 20_000),
)
def test_what_the_viewer_may_sign_the_seeder_accepts_and_not_one_byte_more(
    max_bytes, max_media_ms, max_rate_kbps, used, passed_s
):
    signed = entitlement(
        max_bytes=max_bytes, max_media_ms=max_media_ms, max_rate_kbps=max_rate_kbps
    ).value
    use = CapUse(bytes_total=used, media_ms=0)
    now_s = GENESIS_S + passed_s
    left = bytes_left(signed, use, now_s)
    if left is None:
        assert judge_use(signed, CapUse(bytes_total=1 << 60), now_s) is V.ACCEPTED
        return
    if left:
        assert judge_use(signed, replace(use, bytes_total=used + left), now_s) is V.ACCEPTED
        assert not is_used_up(signed, use)
    over = replace(use, bytes_total=used + left + 1)
    assert judge_use(signed, over, now_s) in {V.OVER_MAX_BYTES, V.OVER_MAX_RATE}


def test_the_newest_binding_counts_whatever_order_they_come_in_and_after_a_restart(tmp_path):
    path = tmp_path / "issuing.binding"
    known = IssuingKey(terms(), path)
    assert known.covers(1 << 30)
    assert known.take(binding(40, serial=3))
    assert not known.take(binding(90, serial=2))
    assert [known.covers(epoch) for epoch in (40, 41)] == [True, False]
    assert IssuingKey(terms(), path).last_epoch == 40
    path.write_bytes(b"damaged")
    assert IssuingKey(terms(), path).last_epoch is None


@pytest.mark.parametrize(
    "changes",
    [
        {"account": key_of("seeder")},
        {"key": key_of("seeder")},
        {"network_id": bytes(32)},
        {"role": Role.SESSION},
    ],
)
def test_a_binding_about_something_else_says_nothing(changes):
    known = IssuingKey(terms())
    with pytest.raises(IssuingKeyError, match="binding"):
        known.take(binding(1, **changes))
    assert known.covers(2)


def test_a_forged_revocation_says_nothing():
    known = IssuingKey(terms())
    forged = BINDING.sign(binding(1).value, seed_of("issuing"), seed_of("issuing"))
    with pytest.raises(IssuingKeyError, match="signature"):
        known.take(forged)
    assert known.covers(2)


@pytest.mark.parametrize(
    ("held", "owed", "percent", "is_enough"),
    [
        (1_000, 1_000, 100, True),
        (999, 1_000, 100, False),
        (1_500, 1_000, 150, True),
        (1_499, 1_000, 150, False),
        (1, 0, 100, True),
        (0, 0, 100, False),
    ],
)
def test_the_escrow_must_cover_what_is_owed_so_often(held, owed, percent, is_enough):
    coverage = Coverage(epoch=7, escrow_stroops=held, liable_stroops=owed)
    if is_enough:
        require_coverage(coverage, percent * 10_000)
        return
    with pytest.raises(CoverageError, match=f"got {held} stroops in escrow for {owed} owed"):
        require_coverage(coverage, percent * 10_000)


def test_the_gate_opens_and_closes_with_the_answers_and_stays_as_it_is_without_one():
    told: list[bool] = []
    gate = CoverageGate(1_000_000, on_change=lambda is_open, _why: told.append(is_open))
    assert not gate.is_open
    gate.take(None, "no answer")
    gate.take(Coverage(epoch=1, escrow_stroops=10, liable_stroops=10))
    gate.take(None, "no answer")
    assert gate.is_open
    gate.take(Coverage(epoch=2, escrow_stroops=10, liable_stroops=11))
    assert not gate.is_open
    assert told == [False, True, False]
    assert CoverageGate(0, on_change=lambda *_: None).is_open
