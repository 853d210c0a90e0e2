"""The command `swarmledger payee`: what is owed to an account, where it is paid, cash now.

Signs in by SEP-10 with the account's key, reads, and signs instructions. Exit 0 done, 1 refused or
no answer, 2 wrong arguments. Standard output is data, standard error is talk; no seed is printed.
"""

import csv
import json
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import httpx
import typer

from ledger.api.signed_clock import ClockUnknownError, read_ledger_ms
from ledger.audit.address import format_account, parse_account
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.errors import EvidenceError
from ledger.evidence.instruction import PayeeInstruction, PayeeWish, sign_payee_instruction
from ledger.evidence.keys import network_id_of, public_key_of
from ledger.evidence.terms import parse_terms, require_valid_terms
from ledger.evidence.units import format_stroops
from ledger.stellar.errors import StellarError
from ledger.stellar.seed_files import read_seed
from ledger.stellar.web_auth import ServerIdentity, sign_challenge

TIMEOUT_S: Final = 20.0
TOML_SIZE_MAX: Final = 100_000

app = typer.Typer(
    name="swarmledger payee",
    help="See what is owed to an account, say where it is paid, ask to be paid now.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Api = Annotated[str, typer.Option("--api", help="The operator's base URL.")]
Key = Annotated[Path, typer.Option("--key", help="Seed file of the account, mode 0600.")]
BroadcasterOption = Annotated[
    str | None, typer.Option("--broadcaster", help="G… account; default: the only one there.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on one line.")]
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
LOOPBACK_DOMAIN: Final = "localhost"
"""The home domain of an operator who has set none and serves this machine only."""

DEFAULT_API: Final = "http://127.0.0.1:8080"


class PayeeError(Exception):
    """The operator gave no usable answer, or refused."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session of an account."""

    client: httpx.Client
    network_id: bytes
    broadcaster: str | None

    def read(self, path: str, **parameters: Any) -> Any:
        """Return a JSON answer.

        Raises:
            PayeeError: No answer, or a refusal.
        """
        if self.broadcaster is not None:
            parameters["broadcaster"] = self.broadcaster
        return _answer(self.client, "GET", path, params=parameters)

    def instruct(self, raw: bytes) -> Any:
        """Send a signed instruction and return what became of it.

        Raises:
            PayeeError: No answer, or a refusal.
        """
        return _answer(self.client, "POST", "/v1/instructions", content=raw)


@app.command()
def status(
    key: Key, api: Api = DEFAULT_API, broadcaster: BroadcasterOption = None, as_json: Json = False
) -> None:
    """Show what is owed, what waits and why, and where it is paid."""
    with _client_of(api) as client:
        found = _sign_in(client, api, _seed(key), broadcaster).read("/v1/payees/me")
    if as_json:
        print(json.dumps(found))
        return
    print(f"account        {found['account']}")
    print(f"epoch          {found['epoch']}")
    asset = found["asset"].partition(":")[0]
    for name in ("accrued", "paid", "owed", "payable"):
        print(f"{name:<14} {format_stroops(found[name + '_stroops'])} {asset}")
    for item in found["in_challenge"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(item["payable_from_s"]))
        print(f"in challenge   {format_stroops(item['stroops'])} until {when}")
    for item in found["under_way"]:
        print(f"under way      {format_stroops(item['stroops'])} in batch {item['batch']}")
    print(f"threshold      {format_stroops(found['threshold_stroops'])}")
    if found["reason"]:
        print(f"carried        {found['reason'].replace('_', ' ')}")
    print(f"paid to        {found['pay_to']}")
    if found["next_pay_to"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found["next_pay_to_from_s"]))
        print(f"paid to next   {found['next_pay_to']} from {when}")


@app.command()
def statement(
    key: Key,
    first: Annotated[int, typer.Option(min=0, help="First epoch.")] = 0,
    last: Annotated[int | None, typer.Option(min=0, help="Last epoch; default: newest.")] = None,
    api: Api = DEFAULT_API,
    broadcaster: BroadcasterOption = None,
    as_json: Json = False,
) -> None:
    """Print the account's line of each epoch, as CSV; amounts are stroops."""
    if last is not None and last < first:
        raise typer.BadParameter(f"last: got {last}, want {first} or more")
    with _client_of(api) as client:
        session = _sign_in(client, api, _seed(key), broadcaster)
        end = session.read("/v1/payees/me")["epoch"] if last is None else last
        lines: list[dict[str, Any]] = []
        for at in range(first, end + 1, 96):
            page = session.read("/v1/payees/me/statement", first=at, last=min(at + 95, end))
            lines += page["lines"]
    if as_json:
        print(json.dumps({"lines": lines}))
    elif lines:
        table = csv.DictWriter(sys.stdout, list(lines[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(lines)


@app.command("cash-out")
def cash_out(
    key: Key, api: Api = DEFAULT_API, broadcaster: BroadcasterOption = None, as_json: Json = False
) -> None:
    """Ask to be paid at the next occasion, though it is below the threshold."""
    _instruct(key, None, api, broadcaster, as_json=as_json)


@app.command("pay-to")
def pay_to(
    key: Key,
    to_key: Annotated[Path, typer.Option("--to-key", help="Seed file of the account to pay to.")],
    api: Api = DEFAULT_API,
    broadcaster: BroadcasterOption = None,
    as_json: Json = False,
) -> None:
    """Pay to another account from now on; both accounts sign, and the terms' delay passes first."""
    _instruct(key, to_key, api, broadcaster, as_json=as_json)


def _instruct(
    key: Path, to_key: Path | None, api: str, broadcaster: str | None, *, as_json: bool
) -> None:
    seed = _seed(key)
    to_seed = None if to_key is None else _seed(to_key)
    with _client_of(api) as client:
        session = _sign_in(client, api, seed, broadcaster)
        found = session.read("/v1/payees/me")
        wish = PayeeInstruction(
            network_id=session.network_id,
            broadcaster_account=parse_account(found["broadcaster"]),
            account=public_key_of(seed),
            kind=PayeeWish.CASH_OUT if to_seed is None else PayeeWish.PAY_TO,
            serial=_new_serial(client, api, found["broadcaster"]),
            pay_to=ZERO_KEY if to_seed is None else public_key_of(to_seed),
        )
        answer = session.instruct(sign_payee_instruction(wish, seed, to_seed).raw)
    if as_json:
        print(json.dumps(answer))
    else:
        print(f"instruction {answer['digest']}: {answer['state']}; it counts from the next seal on")


@contextmanager
def _client_of(api: str) -> Iterator[httpx.Client]:
    """Open a client; failures inside the block end the command with one line and status 1."""
    try:
        url = urlsplit(api)
        is_usable = url.scheme in {"http", "https"} and bool(url.hostname)
        client = httpx.Client(base_url=api, timeout=TIMEOUT_S, trust_env=False)
    except (ValueError, httpx.InvalidURL):
        is_usable = False
    if not is_usable:
        raise typer.BadParameter(f"api: got {api!r}, want an http or https URL")
    with client:
        try:
            yield client
        except (PayeeError, StellarError, EvidenceError) as error:
            print(f"swarmledger payee: {error}", file=sys.stderr)
            raise typer.Exit(1) from None


def _seed(path: Path) -> bytes:
    try:
        return read_seed(path)
    except StellarError as error:
        raise typer.BadParameter(str(error)) from None


def _new_serial(client: httpx.Client, api: str, broadcaster: str) -> int:
    """Return ledger time in milliseconds: it rises, and no clock of this machine is asked."""
    asked = _send(client, "GET", "/v1/terms", params={"broadcaster": broadcaster})
    signed = parse_terms(asked.content)
    require_valid_terms(signed)
    try:
        return read_ledger_ms(client, api, signed.value)
    except ClockUnknownError as error:
        raise PayeeError(str(error)) from None


def _sign_in(client: httpx.Client, api: str, seed: bytes, broadcaster: str | None) -> SignedIn:
    """Authenticate by SEP-10, with the server that the host's stellar.toml names."""
    identity = _identity_of(client, api)
    account = format_account(public_key_of(seed))
    challenge = _answer(client, "GET", "/auth", params={"account": account})
    signed = sign_challenge(str(challenge.get("transaction")), identity, seed)
    token = _answer(client, "POST", "/auth", json={"transaction": signed}).get("token")
    client.headers["Authorization"] = f"Bearer {token}"
    return SignedIn(client, network_id_of(identity.passphrase), broadcaster)


def _identity_of(client: httpx.Client, api: str) -> ServerIdentity:
    url = urlsplit(api)
    home_domain = LOOPBACK_DOMAIN if url.hostname in _LOOPBACK else url.netloc
    text = _send(client, "GET", "/.well-known/stellar.toml").text[:TOML_SIZE_MAX]
    try:
        found = tomllib.loads(text)
        return ServerIdentity(
            signing_key=parse_account(found["SIGNING_KEY"]),
            home_domain=home_domain,
            web_auth_domain=urlsplit(found["WEB_AUTH_ENDPOINT"]).netloc,
            passphrase=found["NETWORK_PASSPHRASE"],
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, EvidenceError) as error:
        raise PayeeError(
            f"stellar.toml: got {error!r}, want SIGNING_KEY, WEB_AUTH_ENDPOINT, NETWORK_PASSPHRASE"
        ) from None


def _answer(client: httpx.Client, method: str, path: str, **request: Any) -> dict[str, Any]:
    response = _send(client, method, path, **request)
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise PayeeError(f"{path}: got no JSON object, want one")
    return answer


def _send(client: httpx.Client, method: str, path: str, **request: Any) -> httpx.Response:
    try:
        response = client.request(method, path, **request)
    except httpx.HTTPError as error:
        raise PayeeError(f"{client.base_url}: {type(error).__name__}: {error}") from None
    if response.status_code != 200:
        raise PayeeError(f"{path}: got HTTP {response.status_code}: {response.text[:300]}")
    return response


def main() -> None:
    """Entry point of `swarmledger payee`."""
    app()
