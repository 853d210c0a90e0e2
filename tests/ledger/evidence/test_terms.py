"""Terms: constraints that a broadcaster's descriptor must meet before anybody relies on it."""

from typing import Any

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.terms import (
    CDNS_MAX,
    CHANNELS_MAX,
    format_terms_body,
    parse_terms,
    require_valid_terms,
    sign_terms,
)

keys = st.binary(min_size=32, max_size=32)


@given(
    channels=st.sets(keys, min_size=1, max_size=CHANNELS_MAX),
    cdns=st.sets(keys, max_size=CDNS_MAX),
    price=st.integers(0, 2**63 - 1),
    epochs=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)).map(sorted),
)
def test_round_trip(channels: set[bytes], cdns: set[bytes], price: int, epochs: list[int]) -> None:
    terms = builders.terms(
        channel_accounts=tuple(sorted(channels)),
        cdns=tuple(builders.cdn(key=key) for key in sorted(cdns)),
        price_stroops=price,
        first_epoch=epochs[0],
        last_epoch=epochs[1],
    )
    signed = sign_terms(terms, builders.seed_of("issuing"))
    parsed = parse_terms(signed.raw)
    assert parsed == signed
    assert parsed.signatures[0] + format_terms_body(parsed.value) == signed.raw


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price_quantity_bytes", 0),
        ("fee_ppm", 1_000_001),
        ("epoch_length_s", 0),
        ("payout_threshold_stroops", 0),
        ("attempt_window_ledgers", 0),
        ("attempt_window_s", 0),
        ("batch_payments", 0),
        ("batch_payments", 101),
        ("fee_bid_max_stroops", 99),
        ("cash_out_least_stroops", 0),
        ("cash_out_least_stroops", 2),
        ("asset_code", ""),
        ("asset_code", "X B"),
        ("asset_code", "ХАВ"),
        ("last_epoch", -1),
        ("channel_accounts", ()),
    ],
)
def test_value_out_of_range_is_malformed(field: str, value: Any) -> None:
    with pytest.raises(MalformedRecordError, match=field):
        builders.terms(**{field: value})


def test_lists_are_bounded_and_strictly_ascending() -> None:
    many = tuple(bytes([place]) * 32 for place in range(1, 18))
    for channels in (many, many[1::-1], (many[0], many[0])):
        with pytest.raises(MalformedRecordError, match="channel_accounts"):
            builders.terms(channel_accounts=channels)
    for cdn_keys in (many, many[1::-1], (many[0], many[0])):
        with pytest.raises(MalformedRecordError, match="cdns"):
            builders.terms(cdns=tuple(builders.cdn(key=key) for key in cdn_keys))


def test_cdn_needs_a_quantity_and_without_account_has_no_price() -> None:
    account = builders.key_of("cdn account")
    builders.terms(cdns=(builders.cdn(account=account, price_stroops=1),))
    with pytest.raises(MalformedRecordError, match="price_quantity_bytes"):
        builders.terms(cdns=(builders.cdn(price_quantity_bytes=0),))
    with pytest.raises(MalformedRecordError, match="price_stroops"):
        builders.terms(cdns=(builders.cdn(price_stroops=1),))


def test_two_cdns_of_one_account_have_one_price() -> None:
    keys_ascending = sorted([builders.key_of("cdn"), builders.key_of("cdn 2")])
    account = builders.key_of("cdn account")

    def with_prices(*prices: int, account: bytes = account) -> None:
        builders.terms(
            cdns=tuple(
                builders.cdn(key=key, account=account, price_stroops=price)
                for key, price in zip(keys_ascending, prices, strict=True)
            )
        )

    with_prices(5, 5)
    with_prices(0, 0, account=bytes(32))
    with pytest.raises(MalformedRecordError, match="price"):
        with_prices(5, 6)


def test_signature_must_be_of_the_issuing_key_that_the_terms_name() -> None:
    require_valid_terms(builders.signed_terms())
    forged = sign_terms(builders.terms(), builders.seed_of("broadcaster"))
    other = builders.signed_terms(issuing_key=builders.key_of("broadcaster"))
    for signed in (forged, other):
        with pytest.raises(BadSignatureError):
            require_valid_terms(signed)


def test_epochs_are_half_open_and_times_before_genesis_count_as_epoch_zero() -> None:
    terms = builders.terms(genesis_s=1000, epoch_length_s=15)
    times = [0, 999, 1000, 1014, 1015, 1029, 1030]
    assert [terms.epoch_at(time) for time in times] == [0, 0, 0, 0, 1, 1, 2]
    assert (terms.epoch_start_s(2), terms.epoch_end_s(2)) == (1030, 1045)
    for epoch in range(5):
        assert terms.epoch_at(terms.epoch_start_s(epoch)) == epoch
        assert terms.epoch_at(terms.epoch_end_s(epoch) - 1) == epoch
        assert terms.epoch_at(terms.epoch_end_s(epoch)) == epoch + 1


def test_cdn_is_found_by_its_key() -> None:
    terms = builders.terms()
    assert terms.cdn_of(builders.key_of("cdn")) == builders.cdn()
    assert terms.cdn_of(builders.key_of("seeder")) is None
