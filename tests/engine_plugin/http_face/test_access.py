"""Who may ask what."""

import ipaddress
from pathlib import Path

import pytest

from engine_plugin.http_face.access import AccessRules, Caller, write_token
from engine_plugin.http_face.errors import ForbiddenError

RULES = AccessRules(token="secret")
HOST = ("host", "127.0.0.1:6878")


def admit(*headers: tuple[str, str], address: str = "127.0.0.1", rules: AccessRules = RULES,
          **query: str) -> Caller:  # fmt: skip
    return rules.admit(address, headers or (HOST,), query)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_program_of_this_machine_may_ask_everything(address: str) -> None:
    assert admit(address=address).may_ask_private


@pytest.mark.parametrize(
    "address", ["192.168.1.5", "203.0.113.4", "::ffff:10.0.0.1", "fe80::1%eth0", "", "x"]
)
def test_other_machines_are_refused(address: str) -> None:
    with pytest.raises(ForbiddenError):
        admit(address=address)


def test_network_that_is_let_in_needs_the_token_for_what_is_private() -> None:
    rules = AccessRules(
        token="secret",
        networks=(ipaddress.ip_network("192.168.1.0/24"),),
        host_names=frozenset({"192.168.1.2"}),
    )
    host = ("host", "192.168.1.2:6878")
    plain = admit(host, address="192.168.1.5", rules=rules)
    assert not plain.may_ask_private
    assert admit(host, address="192.168.1.5", rules=rules, token="secret").may_ask_private
    with pytest.raises(ForbiddenError):
        admit(host, address="192.168.2.5", rules=rules)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:6878", "127.0.0.1.evil.example", "", "[::2]", "["],
)
def test_foreign_name_is_refused(host: str) -> None:
    with pytest.raises(ForbiddenError):
        admit(("host", host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:6878", "LOCALHOST", "[::1]:6878"])
def test_own_name_is_accepted(host: str) -> None:
    assert admit(("host", host)).is_local


def test_second_host_header_is_refused() -> None:
    with pytest.raises(ForbiddenError):
        admit(HOST, ("host", "evil.example"))


@pytest.mark.parametrize(
    "headers",
    [
        [("origin", "https://evil.example")],
        [("origin", "null")],
        [("origin", "http://127.0.0.1:80")],
        [("origin", "http://127.0.0.1:6878"), ("origin", "https://evil.example")],
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
    ],
)
def test_foreign_page_is_told_from_a_program(headers: list[tuple[str, str]]) -> None:
    caller = admit(HOST, *headers)
    assert caller.is_foreign_page
    assert not caller.may_ask_private


def test_page_that_the_owner_lets_in_is_like_a_program() -> None:
    rules = AccessRules(token="secret", origins=frozenset({"https://tv.example"}))
    assert admit(HOST, ("origin", "https://tv.example"), rules=rules).may_ask_private


@pytest.mark.parametrize("given", ["", "secre", "secret ", "Bearer secre", "sécret"])
def test_wrong_token_opens_nothing(given: str) -> None:
    page = ("origin", "https://evil.example")
    assert not admit(HOST, page, token=given).may_ask_private
    assert not admit(HOST, page, ("authorization", given)).may_ask_private


def test_token_opens_what_is_private() -> None:
    page = ("origin", "https://evil.example")
    assert admit(HOST, page, token="secret").may_ask_private
    assert admit(HOST, page, ("authorization", "Bearer secret")).may_ask_private


def test_token_is_new_each_time_and_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    first = write_token(path)
    second = write_token(path)
    assert first != second
    assert path.read_text() == second + "\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
