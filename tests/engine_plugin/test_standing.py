"""Judging who may go on taking: bounds that hold for any peer, and no honest peer slowed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_plugin.standing import (
    GONE_MAX,
    REACTION_S,
    EnforcementPolicy,
    Judgement,
    KeyExposure,
    PlainPeers,
    StandingBook,
    Taking,
    Treatment,
    judge,
)

POLICY = EnforcementPolicy()
KEY, OTHER = b"k" * 32, b"o" * 32
HOME = "192.0.2.7"
KIB = 1 << 10
MIB = 1 << 20


def taking(peer: int, sent: int, key: bytes | None = None, **changes: object) -> Taking:
    values: dict[str, object] = {"address": HOME, "is_plain": False}
    make: Any = Taking
    taken: Taking = make(peer=peer, key=key, sent_bytes=sent, **values | changes)
    return taken


def look(
    book: StandingBook,
    *takings: Taking,
    now_s: float = 0.0,
    receipted: dict[bytes, int] | None = None,
    policy: EnforcementPolicy = POLICY,
    **options: object,
) -> Judgement:
    keys: dict[bytes, KeyExposure] = {}
    for one in takings:
        if one.key is not None:
            before = keys[one.key].sent_bytes if one.key in keys else 0
            keys[one.key] = KeyExposure(
                sent_bytes=before + one.sent_bytes,
                receipted_bytes=(receipted or {}).get(one.key, 0),
            )
    call: Any = judge
    judged: Judgement = call(book, takings, keys, now_s=now_s, policy=policy, **options)
    return judged


def test_an_unproved_connection_is_slow_then_held_and_freed_the_moment_it_proves_its_key():
    # Held early: what it takes until that has an effect stays within the bound.
    first = look(StandingBook(), taking(1, POLICY.hold_after_bytes - 1))
    assert first.treatments == {1: Treatment.PROBATION}
    early = look(first.book, taking(1, POLICY.hold_after_bytes), now_s=0.25)
    assert early.treatments == {1: Treatment.HELD}
    assert POLICY.hold_after_bytes + POLICY.probation_rate * REACTION_S <= POLICY.unknown_bytes
    held = look(first.book, taking(1, 256 * KIB), now_s=0.25)
    assert held.treatments == {1: Treatment.HELD}
    proved = look(held.book, taking(1, 256 * KIB, KEY), now_s=0.5)
    assert proved.treatments == {1: Treatment.FREE}


def test_new_connections_of_one_address_share_what_an_unknown_peer_may_take():
    book = look(StandingBook(), taking(1, 200 * KIB)).book
    again = look(book, taking(2, 60 * KIB), now_s=1.0)
    assert again.treatments == {2: Treatment.HELD}
    elsewhere = look(book, taking(2, 60 * KIB, address="192.0.2.8"), now_s=1.0)
    assert elsewhere.treatments == {2: Treatment.PROBATION}


def test_proof_that_comes_after_a_connections_end_takes_its_bytes_off_the_address():
    book = look(StandingBook(), taking(1, 200 * KIB)).book
    ended = look(book, now_s=1.0)
    assert set(ended.book.gone) == {1}
    unproved = look(ended.book, taking(2, 100 * KIB), now_s=2.0)
    assert unproved.treatments == {2: Treatment.HELD}
    proved = look(ended.book, taking(2, 100 * KIB), now_s=2.0, proved_since=frozenset({1}))
    assert proved.treatments == {2: Treatment.PROBATION}
    assert not proved.book.gone
    # Taken off once, not again and again.
    again = look(proved.book, taking(2, 256 * KIB), now_s=3.0, proved_since=frozenset({1}))
    assert again.treatments == {2: Treatment.HELD}


def test_ended_connections_are_remembered_within_a_bound():
    opened = [taking(peer, 1) for peer in range(GONE_MAX + 10)]
    ended = look(look(StandingBook(), *opened).book, now_s=1.0).book
    assert len(ended.gone) == GONE_MAX
    assert ended.addresses[HOME].gone_bytes == GONE_MAX + 10


def test_a_key_that_never_acknowledges_is_held_half_a_second_beyond_its_bound():
    first = look(StandingBook(), taking(1, 4 * MIB, KEY))
    over = look(first.book, taking(1, 4 * MIB + 1, KEY), now_s=0.25)
    assert over.treatments == {1: Treatment.FREE}
    late = look(over.book, taking(1, 4 * MIB + 1, KEY), now_s=0.75)
    assert late.treatments == {1: Treatment.HELD}
    bounded = look(first.book, taking(1, 4 * MIB, KEY), now_s=9.0)
    assert bounded.treatments == {1: Treatment.FREE}


def test_receipts_of_earlier_runs_do_not_cover_what_is_taken_now():
    past = {KEY: 500 * MIB}
    book = look(StandingBook(), taking(1, 0, KEY), receipted=past).book
    book = look(book, taking(1, 5 * MIB, KEY), receipted=past, now_s=0.25).book
    judged = look(book, taking(1, 5 * MIB, KEY), receipted=past, now_s=0.75)
    assert judged.treatments == {1: Treatment.HELD}


def test_a_fast_peer_whose_receipts_are_a_moment_behind_is_free():
    book, rate = StandingBook(), 100 * MIB
    for step in range(1, 80):
        now_s = step / 4
        late = max(0.0, now_s - 1.5)
        # A twentieth of what is sent are duplicates that nobody receipts.
        receipted = {KEY: int(rate * late * 0.95)}
        judged = look(book, taking(1, int(rate * now_s), KEY), receipted=receipted, now_s=now_s)
        book = judged.book
        if receipted[KEY]:
            assert judged.treatments == {1: Treatment.FREE}, now_s


def test_who_stops_acknowledging_is_held_after_the_patience():
    book = look(StandingBook(), taking(1, 0, KEY)).book
    book = look(book, taking(1, 64 * MIB, KEY), receipted={KEY: 64 * MIB}, now_s=1).book
    more = taking(1, 90 * MIB, KEY)
    soon = look(book, more, receipted={KEY: 64 * MIB}, now_s=1.25)
    assert soon.treatments == {1: Treatment.FREE}
    later = look(soon.book, more, receipted={KEY: 64 * MIB}, now_s=1.25 + 2.0)
    assert later.treatments == {1: Treatment.HELD}


def test_without_ledger_time_no_key_is_asked_for_receipts():
    judged = look(StandingBook(), taking(1, 99 * MIB, KEY), takes_receipts=False)
    assert judged.treatments == {1: Treatment.FREE}


def test_a_refused_key_is_held_at_once():
    refused = {KEY: KeyExposure(sent_bytes=1, receipted_bytes=0, is_refused=True)}
    judged = judge(StandingBook(), [taking(1, 1, KEY)], refused, now_s=0, policy=POLICY)
    assert judged.treatments == {1: Treatment.HELD}


def test_an_address_is_cut_off_for_a_growing_time_and_starts_anew_after_it():
    book, now_s, spans = StandingBook(), 0.0, []
    taken = 0
    for _ in range(3):
        taken += 300 * KIB
        judged = look(book, taking(1, taken), now_s=now_s)
        assert judged.treatments == {1: Treatment.HELD}
        judged = look(judged.book, taking(1, taken), now_s=now_s + 5)
        assert judged.cut == {HOME}
        spans.append(judged.cut_offs[0].seconds)
        now_s += 5 + spans[-1]
        assert look(judged.book, now_s=now_s - 0.1).cut == {HOME}
        ended = look(judged.book, now_s=now_s)
        assert ended.cut == frozenset()
        book = ended.book
    assert spans == [30, 60, 120]
    late = look(book, taking(2, 300 * KIB), now_s=now_s + POLICY.memory_s)
    late = look(late.book, taking(2, 300 * KIB), now_s=now_s + POLICY.memory_s + 5)
    assert late.cut_offs[0].seconds == 30


def test_a_cut_off_for_debts_ends_when_they_are_paid():
    book = look(StandingBook(), taking(1, 5 * MIB, KEY)).book
    book = look(book, taking(1, 5 * MIB, KEY), now_s=1).book
    judged = look(book, taking(1, 5 * MIB, KEY), now_s=6)
    assert judged.cut == {HOME}
    # The connection ends now; the side channel does not, and brings the receipt.
    keys = {KEY: KeyExposure(sent_bytes=5 * MIB, receipted_bytes=5 * MIB)}
    paid = judge(judged.book, [], keys, now_s=7, policy=POLICY)
    assert paid.cut == frozenset()


def test_an_honest_peer_behind_a_cheaters_address_stays_free():
    honest, cheat = taking(1, 50 * MIB, KEY), taking(2, 300 * KIB)
    book = look(StandingBook(), taking(1, 0, KEY), taking(2, 0)).book
    judged = look(book, honest, cheat, receipted={KEY: 49 * MIB})
    for now_s in (5.0, 60.0):
        judged = look(judged.book, honest, cheat, receipted={KEY: 50 * MIB}, now_s=now_s)
        assert judged.treatments == {1: Treatment.FREE, 2: Treatment.HELD}
        assert judged.cut == frozenset()


def test_an_address_that_costs_too_much_is_cut_off_whoever_else_is_behind_it():
    honest, cheat = taking(1, 50 * MIB, KEY), taking(2, 9 * MIB)
    book = look(StandingBook(), taking(1, 0, KEY), taking(2, 0)).book
    judged = look(book, honest, cheat, receipted={KEY: 50 * MIB}, now_s=1)
    assert judged.cut == {HOME}


@pytest.mark.parametrize(
    ("plain_peers", "treatment"),
    [
        (PlainPeers.SERVE, Treatment.FREE),
        (PlainPeers.PROBATION, Treatment.PLAIN),
        (PlainPeers.REFUSE, Treatment.HELD),
    ],
)
def test_plain_clients_get_what_the_policy_says(plain_peers, treatment):
    policy = replace(POLICY, plain_peers=plain_peers)
    judged = look(StandingBook(), taking(1, 50 * MIB, is_plain=True), policy=policy)
    assert judged.treatments == {1: treatment}
    assert (judged.cut == {HOME}) is (plain_peers is PlainPeers.REFUSE)


def test_a_connection_that_cannot_be_held_is_cut_off():
    book = look(StandingBook(), taking(1, 5 * MIB, KEY)).book
    judged = look(book, taking(1, 5 * MIB, KEY), now_s=1.0, unholdable=frozenset({1}))
    assert judged.cut == {HOME}


def test_a_slow_viewer_that_pays_for_what_lay_in_buffers_is_held_and_never_cut_off():
    book = look(StandingBook(), taking(1, 0, KEY)).book
    sent = 30 * MIB
    for second in range(1, 26):
        receipted = {KEY: second * MIB}
        judged = look(book, taking(1, sent, KEY), receipted=receipted, now_s=float(second))
        assert judged.cut == frozenset()
        book = judged.book
    assert judged.treatments == {1: Treatment.FREE}


def test_whoever_goes_on_taking_while_it_is_held_is_cut_off_at_once():
    held = look(StandingBook(), taking(1, 300 * KIB))
    late = look(held.book, taking(1, 1300 * KIB), now_s=0.25)
    assert late.cut == frozenset()
    loose = look(late.book, taking(1, 1400 * KIB), now_s=0.5)
    assert loose.cut == {HOME}


def test_a_moved_peer_is_not_asked_for_its_key_before_it_could_prove_it():
    judged = look(StandingBook(), taking(1, 5 * MIB), trusted=frozenset({HOME}))
    assert judged.treatments == {1: Treatment.FREE}


ADDRESSES = ("192.0.2.1", "192.0.2.2")
STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),  # which connection
        st.integers(0, 3 * MIB),  # how much it takes
        st.sampled_from((None, 0, 1)),  # the key it has proved from now on
        st.integers(0, 4),  # quarter seconds that pass
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whoever_never_acknowledges_takes_no_more_than_its_bound_per_cut_off(steps):
    """Connections that obey their treatment; between two looks they may take a step's worth."""
    book, now_s = StandingBook(), 0.0
    sent, keys = dict.fromkeys(range(4), 0), dict.fromkeys(range(4))
    treatments: dict[int, Treatment] = {}
    most_step = 3 * MIB
    cut_offs = 0
    for peer, amount, key, quarters in steps:
        now_s += quarters / 4
        if keys[peer] is None and key is not None:
            keys[peer] = (KEY, OTHER)[key]
        if treatments.get(peer, Treatment.PROBATION) is not Treatment.HELD:
            sent[peer] += amount
        takings = [taking(n, sent[n], keys[n], address=ADDRESSES[n % 2]) for n in sent]
        judged = look(book, *takings, now_s=now_s)
        assert set(judged.treatments) == set(sent)
        cut_offs += len(judged.cut_offs)
        for n in sent:
            if ADDRESSES[n % 2] in judged.cut:
                assert judged.treatments[n] is Treatment.HELD
        book, treatments = judged.book, dict(judged.treatments)
    bound = (cut_offs + 1) * 2 * (POLICY.known_bytes + POLICY.unknown_bytes + most_step)
    assert sum(sent.values()) <= bound + 4 * most_step


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30 * MIB), st.floats(0.0, 1.75)), min_size=1, max_size=30),
    st.floats(0.0, 0.05),
)
def test_whoever_acknowledges_within_the_patience_is_never_held(steps, duplicates):
    book, now_s, sent = StandingBook(), 0.0, 0
    history = [(0.0, 0)]
    book = look(book, taking(1, 0, KEY)).book
    has_begun = False
    for amount, delay_s in steps:
        now_s += 0.25
        # The first bytes are few: nobody has a history yet.
        sent += amount if has_begun else min(amount, 3 * MIB)
        history.append((now_s, sent))
        known = max(n for at, n in history if at <= now_s - delay_s or not at)
        receipted = {KEY: int(known * (1 - duplicates))} if has_begun else {KEY: sent}
        receipted[KEY] = max(receipted[KEY], 1 if has_begun else 0)
        has_begun = has_begun or sent > 0
        judged = look(book, taking(1, sent, KEY), receipted=receipted, now_s=now_s)
        assert judged.treatments == {1: Treatment.FREE}
        book = judged.book
