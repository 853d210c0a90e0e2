"""Who proved what, and sums that outlive connections."""

from collections import Counter

import pytest

from engine_plugin import proved_peers
from engine_plugin.journal_records import PeerKey
from engine_plugin.proved_peers import ProvedPeers
from engine_plugin.standing import EnforcementPolicy, KeyExposure, KeyRecord, owes


def test_folded_connections_stay_in_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proved_peers, "KEPT_PER_KEY", 3)
    peers = [PeerKey(b"P" * 20, f"127.0.0.2:{port}") for port in range(1, 11)]
    sent = Counter(dict.fromkeys(peers, 100))
    proved = ProvedPeers(lambda peer: sent[peer])
    assert all(proved.add(peer, b"key") for peer in peers)
    assert not proved.add(peers[0], b"key")
    proved.fold({peers[0], peers[9]})
    assert proved.sent_by(b"key") == 1000
    # Those that are still there stay, whatever their age.
    assert proved.peers_of(b"key") == [peers[0], peers[8], peers[9]]
    assert proved.key_of(peers[1]) is None
    sent[peers[9]] += 50
    assert proved.sent_by(b"key") == 1050


def test_few_connections_are_not_folded() -> None:
    peer = PeerKey(b"P" * 20, "127.0.0.2:1")
    proved = ProvedPeers(lambda _: 7)
    proved.add(peer, b"key")
    proved.fold(set())
    assert proved.peers_of(b"key") == [peer]
    assert proved.list_keys() == [b"key"]
    assert proved.sent_by(b"other") == 0


def test_connection_that_comes_back_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proved_peers, "KEPT_PER_KEY", 1)
    peers = [PeerKey(b"P" * 20, f"127.0.0.2:{port}") for port in (6881, 50_000)]
    sent = Counter(dict.fromkeys(peers, 100))
    proved = ProvedPeers(lambda peer: sent[peer])
    for peer in peers:
        proved.add(peer, b"key")
    proved.fold(set())
    assert proved.key_of(peers[0]) is None
    sent[peers[0]] += 10
    proved.add(peers[0], b"key")
    assert proved.sent_by(b"key") == 210


def test_sum_stays_when_a_connection_was_forgotten_in_between() -> None:
    peer = PeerKey(b"P" * 20, "127.0.0.2:6881")
    sent = {peer: 100}
    proved = ProvedPeers(lambda peer: sent[peer])
    proved.add(peer, b"key")
    assert proved.sent_by(b"key") == 100
    sent[peer] = 30
    assert proved.sent_by(b"key") == 130
    assert proved.sent_by(b"key") == 130


def test_what_ended_is_counted_before_anybody_asks() -> None:
    peer = PeerKey(b"P" * 20, "127.0.0.2:6881")
    sent = {peer: 0}
    proved = ProvedPeers(lambda peer: sent[peer])
    proved.add(peer, b"key")
    proved.fold({peer})
    proved.fold(set())
    sent[peer] = 100
    proved.fold(set())
    sent[peer] = 0
    assert proved.sent_by(b"key") == 100


def test_of_too_many_keys_those_without_a_connection_are_forgotten_and_begin_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proved_peers, "KEYS_KEPT", 2)
    mib = 1 << 20
    peers = [PeerKey(b"P" * 20, f"127.0.0.2:{port}") for port in range(1, 6)]
    sent = Counter(dict.fromkeys(peers, 50 * mib))
    proved = ProvedPeers(lambda peer: sent[peer])
    keys = [bytes([number]) * 32 for number in range(4)]
    for peer, key in zip(peers, keys, strict=False):
        proved.add(peer, key)
    assert proved.fold(set(peers[:4])) == []
    # The first is still there; the others ended, the second longest ago.
    assert proved.fold({peers[0]}) == []
    assert proved.fold({peers[0]}) == [keys[1], keys[2]]
    assert sorted(proved.list_keys()) == [keys[0], keys[3]]
    assert proved.key_of(peers[1]) is None

    # Honest, it has acknowledged all of it; when it comes back it owes nothing.
    sent[peers[4]] = mib
    proved.add(peers[1], keys[1])
    proved.add(peers[4], keys[1])
    assert proved.sent_by(keys[1]) == mib
    record = KeyRecord(receipted_before_bytes=50 * mib, sent_history=((0.0, mib),))
    exposure = KeyExposure(sent_bytes=proved.sent_by(keys[1]), receipted_bytes=50 * mib)
    assert not owes(record, exposure, 100.0, EnforcementPolicy())
