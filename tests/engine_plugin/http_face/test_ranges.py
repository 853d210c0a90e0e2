"""Range headers: what RFC 9110 says, and nothing crashes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.http_face.ranges import ByteRange, UnsatisfiableRangeError, parse_range


@pytest.mark.parametrize(
    ("header", "want"),
    [
        (None, None),
        ("", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=5-4", None),
        ("bytes=1-2,x", None),
        ("items=0-1", None),
        ("bytes=0-1," * 40, None),
        ("bytes=٣-٤", None),
        ("bytes=0-", (0, 99)),
        ("Bytes = 0-9", (0, 9)),
        ("bytes=90-200", (90, 99)),
        ("bytes=-1", (99, 99)),
        ("bytes=-1000", (0, 99)),
        ("bytes=200-300, -5", (95, 99)),
    ],
)
def test_range_is_read(header: str | None, want: tuple[int, int] | None) -> None:
    found = parse_range(header, 100)
    assert found == (None if want is None else ByteRange(first=want[0], last=want[1]))


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=200-,300-"])
def test_range_beyond_the_end_is_refused(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, 100)


def test_empty_file_has_no_range() -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range("bytes=0-0", 0)


@given(header=st.text(), size=st.integers(0, 1 << 40))
def test_anything_is_a_range_of_the_file_or_none(header: str, size: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            found = parse_range(text, size)
        except UnsatisfiableRangeError:
            continue
        assert found is None or 0 <= found.first <= found.last < size


@given(first=st.integers(0, 999), length=st.integers(1, 1000))
def test_range_that_is_asked_is_the_range_that_is_read(first: int, length: int) -> None:
    found = parse_range(f"bytes={first}-{first + length - 1}", 1000)
    assert found is not None
    assert found.first == first
    assert found.length == min(length, 1000 - first)
