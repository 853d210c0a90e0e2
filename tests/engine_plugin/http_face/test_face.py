"""The face over two real engines: what players ask, and what they may not."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_plugin.http_face.sessions import SessionLimits
from engine_plugin.torrents import TorrentFile
from ledger.evidence.keys import generate_seed

pytestmark = pytest.mark.swarm

MIB = 1 << 20


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stream_url(torrent: TorrentFile, **more: str) -> str:
    query = httpx.QueryParams({"infohash": torrent.infohash_v1.hex(), **more})
    return f"/ace/getstream?{query}"


@pytest.fixture
def film_url(film: tuple[TorrentFile, bytes]) -> str:
    return stream_url(film[0])


def test_stream_is_the_file(client: httpx.Client, film: Any, film_url: str) -> None:
    answer = client.get(film_url)
    assert answer.status_code == 200
    assert answer.content == film[1]
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["accept-ranges"] == "bytes"
    assert int(answer.headers["content-length"]) == len(film[1])
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-299", 100, 299),
        ("bytes=2000000-", 2_000_000, -1),
        ("bytes=-500", -500, -1),
        ("bytes=5-6,100-200", 5, 6),
        ("bytes=99999999-,7-8", 7, 8),
    ],
)
def test_range_is_that_part_of_the_file(
    client: httpx.Client, film: Any, film_url: str, asked: str, first: int, last: int
) -> None:
    data = film[1]
    first, last = first % len(data), last % len(data)
    answer = client.get(film_url, headers={"range": asked})
    assert answer.status_code == 206
    assert answer.content == data[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(data)}"


def test_range_beyond_the_file_is_refused_with_its_size(
    client: httpx.Client, film: Any, film_url: str
) -> None:
    answer = client.get(film_url, headers={"range": "bytes=99999999-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(film[1])}"


def test_range_of_another_version_gets_the_whole_file(
    client: httpx.Client, film: Any, film_url: str
) -> None:
    etag = client.head(film_url).headers["etag"]
    fresh = client.get(film_url, headers={"range": "bytes=0-9", "if-range": etag})
    stale = client.get(film_url, headers={"range": "bytes=0-9", "if-range": '"other"'})
    assert [fresh.status_code, stale.status_code] == [206, 200]


def test_head_tells_size_and_type_without_a_body(
    client: httpx.Client, film: Any, film_url: str
) -> None:
    answer = client.head(film_url)
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(film[1])
    assert answer.content == b""


@pytest.mark.parametrize("name", ["content_id", "id", "infohash", "magnet"])
def test_content_is_found_by_every_name(client: httpx.Client, film: Any, name: str) -> None:
    torrent: TorrentFile = film[0]
    values = {
        "content_id": torrent.content_id.hex(),
        "id": f"acestream://{torrent.infohash_v2.hex()}",
        "infohash": torrent.infohash_v1.hex().upper(),
        "magnet": f"magnet:?xt=urn:btmh:1220{torrent.infohash_v2.hex()}&dn=film",
    }
    answer = client.head("/ace/getstream", params={name: values[name]})
    assert answer.status_code == 200


def test_first_name_in_order_counts(client: httpx.Client, film: Any) -> None:
    names = {"infohash": film[0].infohash_v1.hex(), "url": "http://127.0.0.1:1/x.torrent"}
    assert client.head("/ace/getstream", params=names).status_code == 200


def test_json_opens_a_session_with_figures_and_stop(
    client: httpx.Client, film: Any, film_url: str
) -> None:
    answer = client.get(f"{film_url}&format=json&pid=tv").json()
    assert answer["error"] is None
    opened = answer["response"]
    assert opened["client_session_id"] == "tv"
    assert opened["is_live"] == opened["is_encrypted"] == 0
    assert client.get(opened["playback_url"]).content == film[1]
    figures = client.get(opened["stat_url"]).json()["response"]
    assert figures["status"] == "dl"
    assert figures["total_progress"] == 100
    assert figures["downloaded"] == len(film[1])
    assert figures["infohash"] == film[0].infohash_v1.hex()
    assert figures["playback_session_id"] == opened["playback_session_id"]
    stopped = client.get(opened["command_url"], params={"method": "stop"}).json()
    assert stopped == {"response": "ok", "error": None}
    for url in (opened["stat_url"], opened["playback_url"], opened["command_url"]):
        gone = client.get(url)
        assert gone.status_code == 404
        assert gone.json()["response"] is None


def test_stop_ends_a_body_that_is_being_sent(scene: Any, client: httpx.Client) -> None:
    folder = scene.folder / "long"
    folder.mkdir()
    (folder / "long.mkv").write_bytes(bytes(24 * MIB))
    torrent = scene.share(folder / "long.mkv")
    opened = client.get(stream_url(torrent, format="json", pid="long")).json()["response"]
    with client.stream("GET", opened["playback_url"]) as answer:
        parts = answer.iter_bytes(4096)
        next(parts)
        client.get(opened["command_url"], params={"method": "stop"})
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in parts:
                pass


def test_player_that_leaves_gives_its_deadlines_up(scene: Any, client: httpx.Client) -> None:
    folder = scene.folder / "left"
    folder.mkdir()
    (folder / "left.mp4").write_bytes(bytes(8 * MIB))
    torrent = scene.share(folder / "left.mp4")
    with client.stream("GET", stream_url(torrent, pid="left")) as answer:
        parts = answer.iter_bytes(4096)
        next(parts)
        (session,) = [one for one in scene.face._table if one.pid == "left"]
        assert session.connection_count == 1
    wait_until(lambda: session.connection_count == 0)
    desks = list(scene.face._catalogue._desks.values())
    assert all(desk.head_count == 0 for desk in desks)


def test_largest_film_of_a_folder_is_played_unless_another_is_named(
    scene: Any, client: httpx.Client
) -> None:
    folder = scene.folder / "series"
    folder.mkdir()
    files = {"a.mp4": b"a" * 70_001, "b.mkv": b"b" * 150_000, "notes.txt": b"n" * 300_000}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    torrent = scene.share(folder)
    assert client.get(stream_url(torrent)).content == files["b.mkv"]
    for index, (path, _) in enumerate(torrent.files):
        answer = client.get(stream_url(torrent, file_index=str(index)))
        assert answer.content == files[Path(path).name]
    assert client.get(stream_url(torrent, file_index="3")).status_code == 404


def test_torrent_of_a_url_is_fetched_and_played(scene: Any, client: httpx.Client) -> None:
    folder = scene.folder / "url"
    folder.mkdir()
    (folder / "url.ts").write_bytes(b"u" * 100_000)
    torrent = scene.run(scene.seed(folder / "url.ts"))
    site = scene.folder / "site.torrent"
    site.write_bytes(torrent.data)
    with serve_file(torrent.data) as url:
        answer = client.get("/ace/getstream", params={"url": url})
        assert answer.content == b"u" * 100_000
        assert answer.headers["content-type"] == "video/mp2t"


def test_url_that_leads_to_no_torrent_is_told_so(client: httpx.Client) -> None:
    with serve_file(b"<html>") as url:
        answer = client.get("/ace/getstream", params={"url": url})
    assert answer.status_code == 502
    assert answer.json()["response"] is None


def test_magnet_is_fetched_from_peers_and_played(scene: Any, client: httpx.Client) -> None:
    folder = scene.folder / "magnet"
    folder.mkdir()
    (folder / "magnet.webm").write_bytes(b"m" * 200_000)
    torrent = scene.run(scene.seed(folder / "magnet.webm"))
    link = f"magnet:?xt=urn:btih:{torrent.infohash_v1.hex()}"
    answer = client.get("/ace/getstream", params={"magnet": link})
    assert answer.content == b"m" * 200_000
    assert answer.headers["content-type"] == "video/webm"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 400),
        ({"infohash": "xyz"}, 400),
        ({"magnet": "magnet:?dn=nothing"}, 400),
        ({"url": "ftp://example.org/x"}, 400),
        ({"url": "http://user:word@example.org/x"}, 400),
        ({"infohash": "00" * 20, "file_index": "-1"}, 400),
    ],
)
def test_malformed_question_is_answered_in_the_documented_shape(
    client: httpx.Client, query: dict[str, str], status: int
) -> None:
    answer = client.get("/ace/getstream", params=query)
    assert answer.status_code == status
    told = answer.json()
    assert told["response"] is None
    assert told["error"]


def test_version_is_told(client: httpx.Client) -> None:
    told = client.get("/webui/api/service", params={"method": "get_version"}).json()
    assert told["error"] is None
    assert set(told["result"]) == {"version", "code", "platform"}
    wrong = client.get("/webui/api/service", params={"method": "shutdown"})
    assert wrong.status_code == 400
    assert wrong.json()["result"] is None


def test_search_finds_by_words_and_pages(client: httpx.Client, film: Any) -> None:
    found = client.get("/search", params={"query": "FILM", "page_size": "200"}).json()["result"]
    (item,) = [
        row["items"][0]
        for row in found["results"]
        if row["items"][0]["infohash"] == film[0].infohash_v1.hex()
    ]
    assert item["categories"] == ["video"]
    assert 0 <= item["availability"] <= 1
    everything = client.get("/search", params={"page_size": "200"}).json()["result"]
    paged = [
        client.get("/search", params={"page_size": "1", "page": str(page)}).json()["result"]
        for page in range(everything["total"])
    ]
    assert [page["results"][0] for page in paged] == everything["results"]
    assert client.get("/search", params={"page_size": "201"}).status_code == 400


FOREIGN = {"origin": "https://evil.example"}
EMBEDDED = {"sec-fetch-site": "cross-site"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:6878", "127.0.0.1.evil.example"])
def test_name_that_leads_here_by_foreign_dns_is_refused(
    client: httpx.Client, film_url: str, host: str
) -> None:
    assert client.get(film_url, headers={"host": host}).status_code == 403


@pytest.mark.parametrize("page", [FOREIGN, EMBEDDED])
def test_foreign_page_plays_what_runs_and_starts_nothing(
    client: httpx.Client, film_url: str, page: dict[str, str]
) -> None:
    client.head(film_url)
    assert client.head(film_url, headers=page).status_code == 200
    unknown = {"infohash": generate_seed().hex()[:40]}
    assert client.get("/ace/getstream", params=unknown, headers=page).status_code == 403
    url = {"url": "http://127.0.0.1:1/x.torrent"}
    assert client.get("/ace/getstream", params=url, headers=page).status_code == 403


@pytest.mark.parametrize("page", [FOREIGN, EMBEDDED])
def test_private_methods_need_the_token_from_a_page(
    scene: Any, client: httpx.Client, page: dict[str, str]
) -> None:
    assert client.get("/search", headers=page).status_code == 403
    assert client.get("/search", headers=page, params={"token": "x"}).status_code == 403
    assert client.get("/search", headers=page, params={"token": scene.token}).status_code == 200
    bearer = page | {"authorization": f"Bearer {scene.token}"}
    assert client.get("/search", headers=bearer).status_code == 200


def test_token_is_the_owners_alone(scene: Any) -> None:
    path = scene.folder / "viewer" / "http-token"
    assert path.stat().st_mode & 0o777 == 0o600


def test_own_page_is_no_foreign_page(client: httpx.Client) -> None:
    own = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert client.get("/search", headers=own).status_code == 200


def test_forwarding_headers_do_not_change_who_asks(client: httpx.Client) -> None:
    headers = {"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9"}
    assert client.get("/search", headers=headers).status_code == 200


def test_preflight_is_not_answered(client: httpx.Client, film_url: str) -> None:
    asked = FOREIGN | {"access-control-request-method": "GET"}
    answer = client.options(film_url, headers=asked)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_sessions_beyond_the_limit_push_out_the_one_that_rested_longest(
    scene: Any, client: httpx.Client, film_url: str
) -> None:
    urls = [
        client.get(f"{film_url}&format=json&pid=p{number}").json()["response"]["stat_url"]
        for number in range(9)
    ]
    assert len(scene.face._table) == 8
    assert client.get(urls[0]).status_code == 404
    assert client.get(urls[-1]).status_code == 200


def test_same_player_keeps_its_session(client: httpx.Client, film_url: str) -> None:
    def number(url: str) -> str:
        return client.get(url).json()["response"]["playback_session_id"]

    first = number(f"{film_url}&format=json&pid=one")
    assert number(f"{film_url}&format=json&sid=one") == first
    assert number(f"{film_url}&format=json&pid=two") != first
    assert number(f"{film_url}&format=json&pid=one&force_session_restart=1") != first


@pytest.mark.parametrize("path", ["/", "/ace", "/ace/c/zz/1.ts", "/ace/c/" + "0" * 40 + "/x.ts"])
def test_path_that_is_not_there_is_refused(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]


def test_segment_number_is_bounded(client: httpx.Client, film: Any) -> None:
    path = f"/ace/c/{film[0].infohash_v1.hex()}/{'9' * 400}.ts"
    assert client.get(path).status_code == 400


def serve_file(data: bytes) -> Any:
    """A web site of one file; its URL."""
    import threading
    from contextlib import contextmanager
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    @contextmanager
    def serving() -> Any:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/x.torrent"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return serving()


def test_absolute_urls_carry_the_name_that_was_asked(client: httpx.Client, film_url: str) -> None:
    port = client.base_url.port
    answer = client.get(f"{film_url}&format=json", headers={"host": f"localhost:{port}"})
    assert re.match(rf"http://localhost:{port}/ace/r/", answer.json()["response"]["playback_url"])


def test_torrent_of_a_url_is_fetched_once(scene: Any, client: httpx.Client) -> None:
    folder = scene.folder / "once"
    folder.mkdir()
    (folder / "once.ts").write_bytes(b"o" * 50_000)
    torrent = scene.run(scene.seed(folder / "once.ts"))
    with serve_file(torrent.data) as url:
        assert client.get("/ace/getstream", params={"url": url}).status_code == 200
    # The site is gone; the player's next range is answered all the same.
    again = client.get("/ace/getstream", params={"url": url}, headers={"range": "bytes=0-9"})
    assert again.content == b"o" * 10


def test_requests_add_no_more_torrents_than_they_may(scene: Any) -> None:
    face = scene.run(scene.start_face(added_max=1, allows_private_urls=True))
    answers = []
    for number in range(2):
        path = scene.folder / f"many{number}.bin"
        path.write_bytes(bytes([number]) * 10_000)
        with serve_file(scene.run(scene.seed(path)).data) as url:
            answers.append(
                httpx.get(
                    f"{face.url}/ace/getstream",
                    params={"url": url},
                    trust_env=False,
                    timeout=30,
                )
            )
    assert [answer.status_code for answer in answers] == [200, 503]


def test_torrent_at_a_private_address_is_not_fetched(scene: Any) -> None:
    face = scene.run(scene.start_face(allows_private_urls=False))
    with serve_file(b"") as url:
        answer = httpx.get(f"{face.url}/ace/getstream", params={"url": url}, trust_env=False)
    assert answer.status_code == 403


def test_connection_that_takes_nothing_for_long_is_closed(scene: Any) -> None:
    limits = SessionLimits(stalled_s=0.2)
    face = scene.run(scene.start_face(limits=limits))
    path = scene.folder / "stalled.mkv"
    path.write_bytes(bytes(24 * MIB))
    torrent = scene.share(path)
    url = f"{face.url}{stream_url(torrent)}"
    with httpx.Client(trust_env=False, timeout=30) as client, client.stream("GET", url) as answer:
        parts = answer.iter_raw(4096)
        next(parts)
        (session,) = list(face._table)
        wait_until(lambda: session.connection_count == 0)
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in parts:
                pass


def test_content_that_is_removed_ends_its_streams_and_can_be_asked_for_again(
    scene: Any, client: httpx.Client
) -> None:
    path = scene.folder / "removed.mkv"
    data = bytes(range(256)) * 80_000
    path.write_bytes(data)
    torrent = scene.share(path)
    url = stream_url(torrent, pid="removed")
    with client.stream("GET", url) as answer:
        parts = answer.iter_raw(4096)
        next(parts)
        (content,) = [
            one for one in scene.contents() if one.torrent.content_id == torrent.content_id
        ]
        scene.run(scene.viewer.remove(content, deletes_files=True))
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in parts:
                pass
    assert client.get(url).content == data
