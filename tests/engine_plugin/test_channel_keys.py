"""Seals: they fit one place of one direction of one channel and nothing else."""

import pytest
from builders import hello, seeder_hello
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.channel_keys import SEAL_SIZE, ChannelSealers, derive_sealers
from engine_plugin.wire import HELLO
from ledger.evidence.keys import agree_secret, exchange_key_of, generate_seed

HELLOS = HELLO.sign(hello()).raw, HELLO.sign(seeder_hello()).raw


def both_ends() -> tuple[ChannelSealers, ChannelSealers]:
    ours, theirs = generate_seed(), generate_seed()
    here = agree_secret(ours, exchange_key_of(theirs))
    there = agree_secret(theirs, exchange_key_of(ours))
    assert here is not None
    assert there is not None
    return derive_sealers(here, *HELLOS), derive_sealers(there, *HELLOS)


@given(records=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8))
def test_sealed_records_open_in_order(records: list[tuple[int, bytes]]) -> None:
    here, there = both_ends()
    for code, record in records:
        seal = here.dialler.seal(code, record)
        assert len(seal) == SEAL_SIZE
        assert there.dialler.opens(code, record, seal)


def test_seal_does_not_fit_another_place_direction_type_or_record() -> None:
    here, there = both_ends()
    first, second = here.dialler.seal(15, b"one"), here.dialler.seal(15, b"one")
    assert first != second
    assert not there.dialler.opens(15, b"one", second)
    assert not there.answerer.opens(15, b"one", first)
    assert not there.dialler.opens(16, b"one", first)
    assert not there.dialler.opens(15, b"two", first)
    assert not there.dialler.opens(15, b"one", first[:-1])
    assert there.dialler.opens(15, b"one", first)
    assert not there.dialler.opens(15, b"one", first)
    assert there.dialler.opens(15, b"one", second)


def test_other_hellos_give_other_keys() -> None:
    secret = generate_seed()
    seals = {
        derive_sealers(secret, *hellos).dialler.seal(15, b"one")
        for hellos in (HELLOS, HELLOS[::-1], (HELLOS[0], HELLO.sign(hello(listen_port=1)).raw))
    }
    assert len(seals) == 3


@pytest.mark.parametrize(
    "key", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", bytes(31)]
)
def test_key_of_small_order_gives_no_secret(key: bytes) -> None:
    assert agree_secret(generate_seed(), key) is None


def test_secrets_of_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="secret"):
        agree_secret(b"short", exchange_key_of(generate_seed()))
    with pytest.raises(ValueError, match="secret"):
        exchange_key_of(b"short")


def test_agreement_is_that_of_rfc_7748() -> None:
    """Section 6.1."""
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    bob_public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert exchange_key_of(bob).hex() == bob_public
    assert agree_secret(bob, bytes.fromhex(alice_public)) == bytes.fromhex(shared)
