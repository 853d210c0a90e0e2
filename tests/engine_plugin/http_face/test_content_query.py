"""Which content a request names."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.http_face.content_query import ContentQuery, QueryKind, parse_query
from engine_plugin.http_face.errors import BadRequestError
from engine_plugin.http_face.media_types import choose_file, type_of

V1, V2 = bytes(range(20)), bytes(range(32))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (V1.hex(), V1),
        (V1.hex().upper(), V1),
        (V2.hex(), V2),
        (f"1220{V2.hex()}", V2),
        (f"acestream://{V1.hex()}", V1),
        (base64.b32encode(V1).decode(), V1),
        (base64.b32encode(V1).decode().lower(), V1),
    ],
)
@pytest.mark.parametrize("name", ["content_id", "id", "infohash"])
def test_hash_is_read_in_every_form(name: str, text: str, want: bytes) -> None:
    assert parse_query({name: text}) == ContentQuery(kind=QueryKind.HASH, hash=want)


def test_order_of_names_is_the_documented_one() -> None:
    names = {"magnet": "bad", "url": "http://x/", "infohash": V1.hex(), "content_id": V2.hex()}
    assert parse_query(names).hash == V2
    del names["content_id"]
    assert parse_query(names).hash == V1
    del names["infohash"]
    assert parse_query(names).kind is QueryKind.URL


def test_magnet_gives_the_stronger_hash_and_its_sources() -> None:
    link = (
        f"magnet:?xt=urn:btih:{V1.hex()}&xt=urn:btmh:1220{V2.hex()}"
        "&xs=http%3A%2F%2Fx%2Ft&as=ftp://x/t&dn=name"
    )
    found = parse_query({"magnet": link})
    assert found.kind is QueryKind.MAGNET
    assert found.hash == V2
    assert found.sources == ("http://x/t",)
    assert parse_query({"url": link}) == found


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"infohash": ""},
        {"infohash": V1.hex()[:-1]},
        {"infohash": "g" * 40},
        {"infohash": "1" * 32},
        {"content_id": V1.hex() * 2},
        {"url": "http://x/" + "a" * 5000},
        {"magnet": "magnet:?dn=x"},
        {"magnet": "magnet:?xt=urn:btih:zz"},
        {"magnet": f"http:?xt=urn:btih:{V1.hex()}"},
        {"magnet": f"magnet:?xt=urn:btih:{V1.hex()}" + "&dn=x" * 2000},
        {"infohash": V1.hex(), "file_index": "x"},
        {"infohash": V1.hex(), "_idx": "100000"},
    ],
)
def test_malformed_name_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(BadRequestError):
        parse_query(query)


@given(
    st.dictionaries(
        st.sampled_from(["content_id", "id", "infohash", "url", "magnet", "file_index", "_idx"]),
        st.text() | st.text().map(lambda text: f"magnet:?xt=urn:btih:{text}"),
    )
)
def test_anything_is_a_query_or_refused(query: dict[str, str]) -> None:
    try:
        found = parse_query(query)
    except BadRequestError:
        return
    assert found.hash or found.text
    assert len(found.hash) in {0, 20, 32}


def test_type_goes_by_the_name() -> None:
    names = {"a.TS": "video/mp2t", "b.x.mp4": "video/mp4", "mp4": "video/mp4", "c": ""}
    assert {name: type_of(name) for name in names} == names | {"c": "application/octet-stream"}


def test_largest_film_is_chosen_before_larger_files_of_other_kinds() -> None:
    assert choose_file([("t/a.txt", 9), ("t/b.mp4", 3), ("t/c.mkv", 5), ("t/d.avi", 5)]) == 2
    assert choose_file([("t/a.txt", 9), ("t/b.bin", 10)]) == 1
