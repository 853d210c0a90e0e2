"""Descriptors of live streams: round trip, bounds, signature."""

import builders
import pytest

from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.stream import is_web_url, parse_stream, require_valid_stream, sign_stream


@pytest.mark.parametrize("index_count", [0, 1, 4])
@pytest.mark.parametrize("cdn_count", [0, 8])
def test_round_trip(index_count: int, cdn_count: int) -> None:
    signed = builders.signed_stream(
        index_urls=tuple(f"https://index{number}.example.net/" for number in range(index_count)),
        cdn_urls=tuple(f"https://cdn{number}.example.net/" for number in range(cdn_count)),
    )
    assert parse_stream(signed.raw) == signed
    require_valid_stream(signed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("segment_ms", 0),
        ("segment_ms", 60_001),
        ("piece_bytes", 8192),
        ("piece_bytes", 20_000),
        ("window_segments", 0),
        ("container", 9),
        ("index_urls", ("ftp://example.net/",)),
        ("index_urls", ("https://a.example.net/",) * 2),
        ("index_urls", tuple(f"https://{n}.example.net/" for n in range(5))),
        ("cdn_urls", ("https:///nobody",)),
        ("cdn_urls", ("https://cdn.example.net/\r\nHost: evil",)),
        ("cdn_urls", ("https://cdn.example.net:99999/",)),
    ],
)
def test_field_out_of_bounds_is_malformed(field: str, value: object) -> None:
    with pytest.raises(MalformedRecordError, match=field):
        builders.stream(**{field: value})


def test_url_longer_than_its_field_is_malformed() -> None:
    with pytest.raises(MalformedRecordError, match="url"):
        builders.signed_stream(cdn_urls=("https://cdn.example.net/" + 200 * "a",))


@pytest.mark.parametrize("change", [b"\0", b"x" * 200])
def test_bytes_after_the_end_are_malformed(change: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        parse_stream(builders.signed_stream().raw + change)


def test_another_keys_signature_does_not_count() -> None:
    forged = sign_stream(builders.stream(), builders.seed_of("viewer"))
    with pytest.raises(BadSignatureError, match="issuing key"):
        require_valid_stream(forged)


def test_only_web_addresses_are_urls() -> None:
    assert is_web_url("http://[::1]:8080/a?b=c")
    assert not is_web_url("file:///etc/passwd")
    assert not is_web_url("https://exämple.net/")
