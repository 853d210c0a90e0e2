"""Bindings: only account and key together can say that the key acts for the account."""

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.errors import MalformedRecordError

u32 = st.integers(0, 2**32 - 1)
keys = st.binary(min_size=32, max_size=32)


@given(keys, keys, st.sampled_from(Role), u32, u32, st.integers(0, 2**63 - 1))
def test_round_trip(
    account: bytes, key: bytes, role: Role, first: int, last: int, serial: int
) -> None:
    value = Binding(
        network_id=builders.NETWORK_ID,
        account=account,
        key=key,
        role=role,
        first_epoch=first,
        last_epoch=last,
        serial=serial,
    )
    assert BINDING.parse_body(BINDING.format_body(value)) == value


def test_size() -> None:
    assert BINDING.size == len(builders.binding("seeder").raw) == 128 + 124


def test_both_must_sign_in_their_places() -> None:
    signed = builders.binding("seeder")
    assert is_valid_binding(signed)
    account, key = builders.seed_of("seeder account"), builders.seed_of("seeder")
    for seeds in ((key, account), (account, account), (key, key)):
        assert not is_valid_binding(BINDING.sign(signed.value, *seeds))


def test_any_flipped_bit_makes_it_malformed_or_invalid() -> None:
    raw = builders.binding("seeder").raw
    for bit in range(8 * len(raw)):
        mutated = bytearray(raw)
        mutated[bit // 8] ^= 1 << bit % 8
        try:
            signed = BINDING.parse(bytes(mutated))
        except MalformedRecordError:
            continue
        assert not is_valid_binding(signed)


@pytest.mark.parametrize("role", [0, 3, 2**32 - 1])
def test_unknown_role_is_malformed(role: int) -> None:
    with pytest.raises(MalformedRecordError, match="role"):
        builders.binding("seeder", role=role)


def test_covers_its_role_from_the_first_to_the_last_epoch() -> None:
    value = builders.binding("seeder", first_epoch=3, last_epoch=4).value
    assert [value.covers(Role.SESSION, epoch) for epoch in range(2, 6)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert not value.covers(Role.ISSUING, 3)


def test_last_epoch_before_the_first_covers_nothing() -> None:
    value = builders.binding("seeder", first_epoch=5, last_epoch=4).value
    assert not any(value.covers(Role.SESSION, epoch) for epoch in range(10))
