"""Reports over HTTP: only from this machine, with a token, in form and within bounds."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import digest_of, entitlement, seed_of, terms
from starlette.applications import Starlette
from starlette.routing import Mount

from engine_plugin.spool import Spool
from engine_plugin.viewing.cmcd import BODY_BYTES_MAX, PlayerReport
from engine_plugin.viewing.desk import PLAYBACKS_PER_TOKEN_MAX, ViewingDesk
from engine_plugin.viewing.routes import make_routes, report_path


class KnownTime:
    """Ledger time that stands."""

    def now_ms(self) -> int | None:
        return 1_800_000_100_000


@pytest.fixture
def desk(tmp_path: Path) -> ViewingDesk:
    return ViewingDesk(
        terms=terms(),
        spool=Spool(tmp_path / "spool.sqlite"),
        session_seed=seed_of("viewer"),
        ledger_time=KnownTime(),
        find_entitlement=lambda _scope, _epoch: entitlement(),
        bytes_by_source=lambda _scope: (0, 0),
    )


def ask(
    desk: ViewingDesk,
    method: str,
    path: str,
    *,
    client: str = "127.0.0.1",
    host: str = "127.0.0.1:6878",
    **options: Any,
) -> httpx.Response:
    async def send() -> httpx.Response:
        app = Starlette(routes=[Mount("/ace/cmcd", routes=make_routes(desk))])
        transport = httpx.ASGITransport(app=app, client=(client, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as http:
            return await http.request(method, f"/ace/cmcd{path}", **options)

    return asyncio.run(send())


def post(desk: ViewingDesk, token: str, body: bytes, **options: Any) -> httpx.Response:
    headers = {"content-type": options.pop("kind", "application/cmcd")}
    return ask(desk, "POST", report_path(token), content=body, headers=headers, **options)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/cmcd", b'sta=p,sid="x",sn=0,pt=0'),
        ("text/plain;charset=UTF-8", b'sta=p,sid="x",sn=0,pt=0'),
        ("application/json", b'{"sta": "p", "sid": "x", "sn": 0, "pt": 0}'),
    ],
)
def test_report_in_either_form_becomes_a_heartbeat(
    desk: ViewingDesk, kind: str, body: bytes
) -> None:
    answer = post(desk, desk.open(digest_of("content")), body, kind=kind)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert desk.signed_count == 1


def test_reports_from_elsewhere_without_a_token_or_by_a_foreign_name_are_refused(
    desk: ViewingDesk,
) -> None:
    token = desk.open(digest_of("content"))
    assert post(desk, token, b"sta=p", client="192.0.2.7").status_code == 403
    assert post(desk, token, b"sta=p", host="rebound.example.net").status_code == 403
    assert post(desk, "", b"sta=p").status_code == 403
    assert post(desk, token[:-1], b"sta=p").status_code == 403
    # Refused before the body is looked at.
    assert post(desk, "", b"x" * (BODY_BYTES_MAX + 1)).status_code == 403
    assert desk.signed_count == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"sta=nonsense", "application/cmcd", 400),
        (b"x" * (BODY_BYTES_MAX + 1), "application/cmcd", 400),
        (b"sta=p", "application/json", 400),
        (b"sta=p", "application/x-www-form-urlencoded", 415),
        (b"sta=p", "", 415),
    ],
)
def test_body_out_of_form_or_bounds_is_refused_and_counts_nothing(
    desk: ViewingDesk, body: bytes, kind: str, status: int
) -> None:
    answer = post(desk, desk.open(digest_of("content")), body, kind=kind)
    assert answer.status_code == status
    assert desk.signed_count == 0


def test_more_player_sessions_than_a_token_may_have_are_refused(desk: ViewingDesk) -> None:
    token = desk.open(digest_of("content"))
    for number in range(PLAYBACKS_PER_TOKEN_MAX):
        assert post(desk, token, f'sta=p,sid="{number}"'.encode()).status_code == 204
    assert post(desk, token, b'sta=p,sid="more"').status_code == 429


def test_closed_session_takes_no_reports(desk: ViewingDesk) -> None:
    token = desk.open(digest_of("content"))
    desk.take(token, [report()])
    desk.close(token)
    assert post(desk, token, b"sta=p").status_code == 403


def report() -> PlayerReport:
    return PlayerReport(
        sid="x",
        sequence_number=None,
        event="ps",
        state="p",
        timestamp_ms=None,
        position_ms=0,
        rate_permille=None,
        starved_ms=0,
    )


def test_page_elsewhere_may_ask_whether_it_may_send(desk: ViewingDesk) -> None:
    answer = ask(desk, "OPTIONS", report_path("any"))
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == "content-type"


def test_script_is_served_to_pages_on_this_machine(desk: ViewingDesk) -> None:
    answer = ask(desk, "GET", "/viewing.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "function swarmledgerViewing(video, options)" in answer.text
    assert ask(desk, "GET", "/viewing.js", client="192.0.2.7").status_code == 403
