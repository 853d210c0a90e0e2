"""Which connections are attested: never one whose ends the key does not speak for."""

from dataclasses import replace

import pytest

from engine_plugin import attestation
from engine_plugin.attestation import Attestor, ChannelEnds, Connection, ConnectionBook
from engine_plugin.wire import ConnectionPorts, Endpoint

OURS, THEIRS = "192.0.2.1", "198.51.100.7"
ENDS = ChannelEnds(
    own_ip=OURS,
    peer_ip=THEIRS,
    peer_listen=Endpoint(THEIRS, 6881),
    own_listen_port=6881,
    is_peer_translated=False,
    is_own_translated=False,
)
DIALLED = Connection(Endpoint(OURS, 40_001), Endpoint(THEIRS, 6881), True)
ACCEPTED = Connection(Endpoint(OURS, 6881), Endpoint(THEIRS, 50_001), False)


def claims(*ports: tuple[int, int]) -> dict[ConnectionPorts, None]:
    return dict.fromkeys(ConnectionPorts(*pair) for pair in ports)


def test_connection_that_we_dialled_to_the_signed_endpoint_needs_no_claim() -> None:
    attestor = Attestor(ENDS)
    assert attestor.attest([DIALLED], {}) == [DIALLED]
    assert attestor.attest([DIALLED], {}) == []


@pytest.mark.parametrize(
    "connection",
    [
        replace(DIALLED, is_outgoing=False),
        replace(DIALLED, peer=Endpoint(THEIRS, 6882)),
        replace(DIALLED, peer=Endpoint("198.51.100.8", 6881)),
        ACCEPTED,
    ],
    ids=["not dialled", "other port", "other address", "accepted"],
)
def test_copied_peer_id_elsewhere_is_not_attested_by_itself(connection: Connection) -> None:
    assert Attestor(ENDS).attest([connection], {}) == []


def test_listening_end_at_another_address_than_the_channel_is_nobodys() -> None:
    ends = replace(ENDS, peer_listen=Endpoint("198.51.100.8", 6881))
    elsewhere = replace(DIALLED, peer=Endpoint("198.51.100.8", 6881))
    assert Attestor(ends).attest([DIALLED, elsewhere], {}) == []


def test_claim_attests_the_connection_with_both_ports() -> None:
    attestor, claimed = Attestor(ENDS), claims((6881, 50_001), (6881, 50_002))
    assert attestor.attest([ACCEPTED], claimed) == [ACCEPTED]
    # Used once; the other waits for its connection.
    assert list(claimed) == [(6881, 50_002)]


@pytest.mark.parametrize("ports", [(6881, 50_002), (6882, 50_001), (50_001, 6881)])
def test_claim_of_other_ports_attests_nothing(ports: tuple[int, int]) -> None:
    assert Attestor(ENDS).attest([ACCEPTED], claims(ports)) == []


def test_claim_to_a_connection_from_another_address_attests_nothing() -> None:
    """A peer-id was copied to another machine: its owner cannot claim that machine's bytes."""
    copied = replace(ACCEPTED, peer=Endpoint("198.51.100.8", 50_001))
    assert Attestor(ENDS).attest([copied], claims((6881, 50_001))) == []


def test_only_what_the_other_side_cannot_know_is_claimed() -> None:
    assert Attestor(ENDS).list_claimable([DIALLED, ACCEPTED]) == [DIALLED.ports]
    other_port = replace(ACCEPTED, own=Endpoint(OURS, 7000))
    assert Attestor(ENDS).list_claimable([other_port]) == [other_port.ports]
    for name in ("is_peer_translated", "is_own_translated"):
        translated = Attestor(replace(ENDS, **{name: True}))
        assert translated.list_claimable([DIALLED, ACCEPTED]) == [DIALLED.ports, ACCEPTED.ports]


def test_behind_a_translator_the_unchanged_port_and_the_count_decide() -> None:
    ends = replace(ENDS, is_peer_translated=True)
    # The peer knows its end as 33,333; here it arrives from 50,001.
    assert Attestor(ends).attest([ACCEPTED], claims((6881, 33_333))) == [ACCEPTED]
    assert Attestor(ends).attest([ACCEPTED], claims((6882, 33_333))) == []
    second = replace(ACCEPTED, peer=Endpoint(THEIRS, 50_002))
    attestor, claimed = Attestor(ends), claims((6881, 33_333))
    # A neighbour behind the same translator copied the peer-id: who is who cannot be told.
    assert attestor.attest([ACCEPTED, second], claimed) == []
    claimed |= claims((6881, 33_334))
    assert attestor.attest([ACCEPTED, second], claimed) == [ACCEPTED, second]
    assert claimed == {}


def test_endpoint_behind_a_translator_is_not_attested_without_a_claim() -> None:
    ends = replace(ENDS, is_peer_translated=True)
    assert Attestor(ends).attest([DIALLED], {}) == []
    assert Attestor(ends).attest([DIALLED], claims((40_001, 7))) == [DIALLED]


def test_behind_our_own_translator_their_port_decides() -> None:
    ends = replace(ENDS, is_own_translated=True)
    assert Attestor(ends).attest([ACCEPTED], claims((1234, 50_001))) == [ACCEPTED]
    assert Attestor(ends).attest([ACCEPTED], claims((1234, 50_002))) == []


def test_memory_of_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestation, "CONNECTIONS_KEPT_MAX", 10)
    monkeypatch.setattr(attestation, "PEERS_KEPT_MAX", 5)
    book = ConnectionBook()
    peer_ids = [bytes([number]) * 20 for number in range(20)]
    for peer_id in peer_ids:
        for port in range(1, 40):
            book.note(peer_id, replace(ACCEPTED, peer=Endpoint(THEIRS, port)))
    kept = [len(book.of(peer_id, THEIRS)) for peer_id in peer_ids]
    assert kept == [0] * 15 + [10] * 5
    # Strangers at another address do not push out those at this one.
    for port in range(1, 40):
        book.note(peer_ids[-1], replace(ACCEPTED, peer=Endpoint("198.51.100.9", port)))
    assert len(book.of(peer_ids[-1], THEIRS)) == 10
