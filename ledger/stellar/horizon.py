"""The gateway over Horizon's HTTP API.

Reads go over one HTTP client with explicit time-outs and no retry of its own: whether to ask again
is the settlement's to decide. XDR is passed on as the raw bytes that were answered; decoding and
encoding again may change it. Submission uses `/transactions_async`, which does not wait for a
ledger. Horizon says in the header `Latest-Ledger` up to which ledger it had ingested when it
answered; of a source without that header, the newest ledger it told before the read is taken.
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import httpx

from ledger.audit.address import format_account, parse_account
from ledger.books.transactions import NetworkFact
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import network_id_of
from ledger.evidence.units import parse_stroops
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import (
    NATIVE,
    AccountView,
    NetworkLedger,
    Place,
    SubmitAnswer,
    SubmitStatus,
    TransactionPage,
)

PAGE_LIMIT: Final = 200
"""Most records Horizon gives at once."""

READ_TIMEOUT_S: Final = 15.0
SUBMIT_TIMEOUT_S: Final = 20.0
FRIENDBOT_TIMEOUT_S: Final = 60.0

_LATEST_LEDGER: Final = "Latest-Ledger"
_STATUSES: Final[Mapping[str, SubmitStatus]] = {
    "PENDING": SubmitStatus.PENDING,
    "DUPLICATE": SubmitStatus.DUPLICATE,
    "TRY_AGAIN_LATER": SubmitStatus.TRY_AGAIN,
    "ERROR": SubmitStatus.REJECTED,
}


class HorizonGateway:
    """`ledger.stellar.gateway.Gateway` over one Horizon instance."""

    def __init__(self, base_url: str, passphrase: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._network_id = network_id_of(passphrase)
        self._seen_sequence = 0
        # Proxies of the environment are not for a treasury's traffic.
        self._client = httpx.Client(timeout=READ_TIMEOUT_S, trust_env=False)

    @property
    def name(self) -> str:
        """The base URL."""
        return self._base_url

    @property
    def network_id(self) -> bytes:
        """SHA-256 of the network's passphrase; 32 bytes."""
        return self._network_id

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def require_network(self) -> None:
        """Raise unless the source serves the network this gateway was made for.

        Raises:
            GatewayError: No usable answer, or another network.
        """
        passphrase = _text(self._get("/"), "network_passphrase")
        if network_id_of(passphrase) != self._network_id:
            raise GatewayError(f"{self.name}: network: got {passphrase!r}, want the configured one")

    def latest_ledger(self) -> NetworkLedger:
        """Return the newest closed ledger the source knows."""
        records = _records(self._get("/ledgers", order="desc", limit="1"))
        if not records:
            raise GatewayError(f"{self.name}: ledgers: got none, want at least one")
        latest = _ledger_of(records[0])
        self._seen_sequence = max(self._seen_sequence, latest.sequence)
        return latest

    def ledger(self, sequence: int) -> NetworkLedger | None:
        """Return a closed ledger, or None if the source does not have it."""
        response = self._request(f"/ledgers/{sequence}", {})
        return None if _is_absent(response) else _ledger_of(self._json(response))

    def transactions_of(self, account: bytes, *, after: Place) -> TransactionPage:
        """Return transactions an account took part in, after a place, failed ones included."""
        parameters = {
            "cursor": str(_token_of(after)),
            "order": "asc",
            "limit": str(PAGE_LIMIT),
            "include_failed": "true",
        }
        path = f"/accounts/{format_account(account)}/transactions"
        response, as_of_sequence = self._request_as_of(path, parameters)
        # Horizon answers 404 for an account that never was on the network.
        records = [] if response.status_code == 404 else _records(self._json(response))
        facts = tuple(self._fact_of(record) for record in records)
        return TransactionPage(
            facts=facts, is_last=len(records) < PAGE_LIMIT, as_of_sequence=as_of_sequence
        )

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        """Return an applied transaction by its inner or outer hash, or None if it is not known."""
        response = self._request(f"/transactions/{tx_hash.hex()}", {})
        return None if response.status_code == 404 else self._fact_of(self._json(response))

    def account(self, account: bytes) -> AccountView | None:
        """Return an account, or None if the source knows none."""
        response, as_of_sequence = self._request_as_of(f"/accounts/{format_account(account)}", {})
        if response.status_code == 404:
            return None
        record = self._json(response)
        return AccountView(
            account=account,
            sequence=_integer(record, "sequence"),
            balances=_balances_of(record),
            as_of_sequence=as_of_sequence,
        )

    def submit(self, envelope: bytes) -> SubmitAnswer:
        """Hand an envelope to the network without waiting for a ledger; never raises for it."""
        form = {"tx": base64.b64encode(envelope).decode()}
        try:
            response = self._client.post(
                f"{self._base_url}/transactions_async", data=form, timeout=SUBMIT_TIMEOUT_S
            )
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            return SubmitAnswer(status=SubmitStatus.UNKNOWN, code=type(error).__name__)
        return _submit_answer(response.status_code, answer)

    def fund_by_friendbot(self, account: bytes) -> None:
        """Ask a test network's friendbot for XLM.

        Raises:
            GatewayError: No friendbot, or it refused.
        """
        links = self._get("/").get("_links", {})
        template = _text(links.get("friendbot", {}), "href") if "friendbot" in links else ""
        if not template:
            raise GatewayError(f"{self.name}: friendbot: got none, want a test network")
        url = template.partition("{")[0]
        try:
            response = self._client.get(
                url, params={"addr": format_account(account)}, timeout=FRIENDBOT_TIMEOUT_S
            )
        except httpx.HTTPError as error:
            raise GatewayError(f"{url}: {type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise GatewayError(f"{url}: got HTTP {response.status_code}, want 200")

    def _fact_of(self, record: Mapping[str, Any]) -> NetworkFact:
        token = _integer(record, "paging_token")
        ledger_sequence = _integer(record, "ledger")
        if token >> 32 != ledger_sequence:
            raise GatewayError(f"{self.name}: paging_token: got {token}, want ledger's")
        return NetworkFact(
            network_id=self._network_id,
            ledger_sequence=ledger_sequence,
            close_time_s=_time(record, "created_at"),
            apply_order=(token >> 12) & 0xFFFFF,
            envelope=_bytes(record, "envelope_xdr"),
            result=_bytes(record, "result_xdr"),
        )

    def _request_as_of(
        self, path: str, parameters: Mapping[str, str]
    ) -> tuple[httpx.Response, int]:
        """Return an answer and a ledger at or before the one it was given as of."""
        # Asked before, so that the answer is at least as new as the ledger named.
        before_sequence = self._seen_sequence or self.latest_ledger().sequence
        response = self._request(path, parameters)
        header = response.headers.get(_LATEST_LEDGER, "")
        is_named = header.isascii() and header.isdigit()
        return response, int(header) if is_named else before_sequence

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        return self._json(self._request(path, parameters))

    def _request(self, path: str, parameters: Mapping[str, str]) -> httpx.Response:
        try:
            return self._client.get(self._base_url + path, params=dict(parameters))
        except httpx.HTTPError as error:
            raise GatewayError(f"{self.name}{path}: {type(error).__name__}: {error}") from error

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        if response.status_code != 200:
            raise GatewayError(f"{response.url}: got HTTP {response.status_code}, want 200")
        try:
            answer = response.json()
        except ValueError as error:
            raise GatewayError(f"{response.url}: got no JSON, want an object") from error
        if not isinstance(answer, dict):
            raise GatewayError(f"{response.url}: got {type(answer).__name__}, want an object")
        return answer


def _is_absent(response: httpx.Response) -> bool:
    """404: not there; 410: older than the history the instance keeps."""
    return response.status_code in {404, 410}


def _token_of(place: Place) -> int:
    """Total order id (SEP-35) of a place."""
    return place[0] << 32 | place[1] << 12


def _records(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    records = page.get("_embedded", {}).get("records")
    if not isinstance(records, list):
        raise GatewayError("page: got no records, want _embedded.records")
    return records


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise GatewayError(f"{field}: got {value!r}, want text")
    return value


def _integer(record: Mapping[str, Any], field: str) -> int:
    value = record.get(field)
    text = str(value) if isinstance(value, int | str) else ""
    if not (text.isascii() and text.isdigit()):
        raise GatewayError(f"{field}: got {value!r}, want a number")
    return int(text)


def _bytes(record: Mapping[str, Any], field: str) -> bytes:
    try:
        return base64.b64decode(_text(record, field), validate=True)
    except binascii.Error as error:
        raise GatewayError(f"{field}: got no base64, want XDR") from error


def _time(record: Mapping[str, Any], field: str) -> int:
    text = _text(record, field)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise GatewayError(f"{field}: got {text!r}, want a UTC time")
    return int(moment.timestamp())


def _ledger_of(record: Mapping[str, Any]) -> NetworkLedger:
    return NetworkLedger(
        sequence=_integer(record, "sequence"), close_time_s=_time(record, "closed_at")
    )


def _balances_of(record: Mapping[str, Any]) -> dict[tuple[str, bytes], int]:
    balances: dict[tuple[str, bytes], int] = {}
    try:
        for item in record.get("balances", []):
            if item["asset_type"] == "native":
                key = NATIVE
            elif item["asset_type"] in {"credit_alphanum4", "credit_alphanum12"}:
                key = (item["asset_code"], parse_account(item["asset_issuer"]))
            else:  # shares of a liquidity pool
                continue
            balances[key] = parse_stroops(item["balance"])
    except (KeyError, TypeError, ValueError, EvidenceError) as error:
        raise GatewayError(f"balances: got {type(error).__name__}, want Horizon's form") from error
    return balances


def _submit_answer(http_status: int, answer: object) -> SubmitAnswer:
    """Read `/transactions_async`: {"tx_status", "hash", "error_result_xdr"} or a problem."""
    if not isinstance(answer, dict):
        return SubmitAnswer(status=SubmitStatus.UNKNOWN, code=f"HTTP {http_status}")
    extras = answer.get("extras")
    fields = {**extras, **answer} if isinstance(extras, dict) else answer
    status = _STATUSES.get(str(fields.get("tx_status")), SubmitStatus.UNKNOWN)
    if status != SubmitStatus.REJECTED:
        code = "" if status != SubmitStatus.UNKNOWN else f"HTTP {http_status}"
        return SubmitAnswer(status=status, code=code)
    text = fields.get("error_result_xdr") or fields.get("result_xdr") or ""
    try:
        result = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        result = b""
    return SubmitAnswer(status=status, code=result_code_of(result), result=result)


def result_code_of(result: bytes) -> str:
    """Return the name of a TransactionResult's code, such as "txBAD_SEQ"."""
    code = int.from_bytes(result[8:12], "big", signed=True) if len(result) >= 12 else 1
    # Loaded here: the SDK's XDR takes seconds of CPU, and whoever reads the clock needs none.
    from stellar_sdk.xdr import TransactionResultCode  # noqa: PLC0415

    try:
        name = TransactionResultCode(code).name
    except ValueError:
        return f"tx result {code}"
    # The code after the 64-bit fee; 1 is the success of a fee bump's inner transaction.
    return name if result else "no result"
