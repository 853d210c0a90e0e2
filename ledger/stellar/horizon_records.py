"""Horizon's JSON as the port's values; whatever does not have its form raises.

Nothing here asks anything. Shapes: Horizon's API reference (ledgers, transactions, accounts, fee
stats, `/transactions_async`).
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from ledger.audit.address import parse_account
from ledger.evidence.errors import EvidenceError
from ledger.evidence.units import parse_stroops
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import (
    FILTERED,
    NATIVE,
    AccountState,
    AssetKey,
    DataState,
    EntryKey,
    EntryState,
    NetworkLedger,
    SubmitAnswer,
    SubmitStatus,
    TrustlineState,
)
from ledger.stellar.results import result_code_of

_STATUSES: Final[Mapping[str, SubmitStatus]] = {
    "PENDING": SubmitStatus.PENDING,
    "DUPLICATE": SubmitStatus.DUPLICATE,
    "TRY_AGAIN_LATER": SubmitStatus.TRY_AGAIN,
    "ERROR": SubmitStatus.REJECTED,
}
_INVALID_STATUS: Final = "/transaction_submission_invalid_status"
"""End of the problem's type by which Horizon tells that it does not know a node's status."""

_CREDIT: Final = frozenset({"credit_alphanum4", "credit_alphanum12"})


def records_of(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a page."""
    embedded = page.get("_embedded")
    records = embedded.get("records") if isinstance(embedded, dict) else None
    if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
        raise GatewayError("page: got no records, want _embedded.records")
    return records


def text_of(record: Mapping[str, Any], field: str) -> str:
    """Return a text field."""
    value = record.get(field)
    if not isinstance(value, str):
        raise GatewayError(f"{field}: got {value!r:.80}, want text")
    return value


def mapping_of(record: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return an object field."""
    value = record.get(field)
    if not isinstance(value, dict):
        raise GatewayError(f"{field}: got {value!r:.80}, want an object")
    return value


def integer_of(record: Mapping[str, Any], field: str) -> int:
    """Return a field that is a whole number from 0, written as a number or as text."""
    value = record.get(field)
    is_plain = isinstance(value, int | str) and not isinstance(value, bool)
    text = str(value) if is_plain else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise GatewayError(f"{field}: got {value!r:.80}, want a number")
    return int(text)


def optional_integer_of(record: Mapping[str, Any], field: str) -> int:
    """Return the same, or 0 if the field is absent."""
    return integer_of(record, field) if field in record else 0


def bytes_of(record: Mapping[str, Any], field: str) -> bytes:
    """Return a field of base64."""
    try:
        return base64.b64decode(text_of(record, field), validate=True)
    except (binascii.Error, ValueError) as error:
        raise GatewayError(f"{field}: got no base64, want XDR") from error


def time_of(record: Mapping[str, Any], field: str) -> int:
    """Return a field of UTC time as Unix seconds."""
    text = text_of(record, field)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise GatewayError(f"{field}: got {text!r:.80}, want a UTC time")
    return int(moment.timestamp())


def ledger_of(record: Mapping[str, Any]) -> NetworkLedger:
    """Return a ledger resource."""
    return NetworkLedger(
        sequence=integer_of(record, "sequence"), close_time_s=time_of(record, "closed_at")
    )


def balances_of(record: Mapping[str, Any]) -> dict[AssetKey, int]:
    """Return the balances of an account resource by asset; shares of pools are left out."""
    return {key: _stroops_of(item, "balance") for key, item in _balance_items(record).items()}


def account_states_of(account: bytes, record: Mapping[str, Any]) -> dict[EntryKey, EntryState]:
    """Return all ledger entries that an account resource tells of."""
    items = _balance_items(record)
    if NATIVE not in items:
        raise GatewayError("balances: got none of XLM, want it")
    native = items.pop(NATIVE)
    found: dict[EntryKey, EntryState] = {
        EntryKey(account=account): _account_state_of(record, native)
    }
    for asset, item in items.items():
        found[EntryKey(account=account, asset=asset)] = TrustlineState(
            balance_stroops=_stroops_of(item, "balance"),
            limit_stroops=_stroops_of(item, "limit"),
            buying_liabilities_stroops=_stroops_of(item, "buying_liabilities"),
            selling_liabilities_stroops=_stroops_of(item, "selling_liabilities"),
            is_authorized=item.get("is_authorized") is True,
            is_clawback_enabled=item.get("is_clawback_enabled") is True,
        )
    data = mapping_of(record, "data")
    for name in data:
        state = DataState(value=bytes_of(data, name))
        found[EntryKey(account=account, name=name.encode())] = state
    return found


def submit_answer_of(http_status: int, answer: object) -> SubmitAnswer:
    """Read `/transactions_async`: {"tx_status", "hash", "error_result_xdr"} or a problem."""
    if not isinstance(answer, dict):
        return SubmitAnswer(status=SubmitStatus.UNKNOWN, code=f"HTTP {http_status}")
    extras = answer.get("extras")
    fields = {**extras, **answer} if isinstance(extras, dict) else answer
    name = fields.get("tx_status")
    status = _STATUSES.get(str(name), SubmitStatus.UNKNOWN)
    if name == FILTERED or str(answer.get("type", "")).endswith(_INVALID_STATUS):
        return SubmitAnswer(status=SubmitStatus.UNKNOWN, code=FILTERED)
    if status != SubmitStatus.REJECTED:
        unknown = name if isinstance(name, str) and name else f"HTTP {http_status}"
        code = "" if status != SubmitStatus.UNKNOWN else unknown
        return SubmitAnswer(status=status, code=code)
    text = fields.get("error_result_xdr") or fields.get("result_xdr") or ""
    return rejection_of(text)


def rejection_of(text: object) -> SubmitAnswer:
    """Return the answer to a refused submission from its TransactionResult in base64."""
    try:
        result = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        result = b""
    return SubmitAnswer(status=SubmitStatus.REJECTED, code=result_code_of(result), result=result)


def _balance_items(record: Mapping[str, Any]) -> dict[AssetKey, Mapping[str, Any]]:
    items = record.get("balances")
    if not isinstance(items, list):
        raise GatewayError(f"balances: got {items!r:.80}, want a list")
    found: dict[AssetKey, Mapping[str, Any]] = {}
    for item in items:
        kind = item.get("asset_type") if isinstance(item, dict) else None
        if kind == "native":
            found[NATIVE] = item
        elif kind in _CREDIT:
            found[(text_of(item, "asset_code"), _account_of(item, "asset_issuer"))] = item
        elif kind != "liquidity_pool_shares":
            raise GatewayError(f"asset_type: got {kind!r:.80}, want a known one")
    return found


def _account_of(record: Mapping[str, Any], field: str) -> bytes:
    try:
        return parse_account(text_of(record, field))
    except EvidenceError as error:
        raise GatewayError(f"{field}: {error}") from error


def _stroops_of(record: Mapping[str, Any], field: str) -> int:
    try:
        return parse_stroops(text_of(record, field))
    except (EvidenceError, ValueError) as error:
        raise GatewayError(f"{field}: {error}") from error


def _account_state_of(record: Mapping[str, Any], native: Mapping[str, Any]) -> AccountState:
    thresholds, flags = mapping_of(record, "thresholds"), mapping_of(record, "flags")
    return AccountState(
        sequence=integer_of(record, "sequence"),
        balance_stroops=_stroops_of(native, "balance"),
        selling_liabilities_stroops=_stroops_of(native, "selling_liabilities"),
        buying_liabilities_stroops=_stroops_of(native, "buying_liabilities"),
        subentry_count=integer_of(record, "subentry_count"),
        sponsoring_count=optional_integer_of(record, "num_sponsoring"),
        sponsored_count=optional_integer_of(record, "num_sponsored"),
        thresholds=(
            integer_of(thresholds, "low_threshold"),
            integer_of(thresholds, "med_threshold"),
            integer_of(thresholds, "high_threshold"),
        ),
        signers=_signers_of(record),
        is_authorization_required=flags.get("auth_required") is True,
        is_authorization_revocable=flags.get("auth_revocable") is True,
        is_clawback_enabled=flags.get("auth_clawback_enabled") is True,
        home_domain=text_of(record, "home_domain") if "home_domain" in record else "",
    )


def _signers_of(record: Mapping[str, Any]) -> dict[str, int]:
    signers = record.get("signers")
    if not isinstance(signers, list) or not all(isinstance(item, dict) for item in signers):
        raise GatewayError(f"signers: got {signers!r:.80}, want a list")
    found = {text_of(item, "key"): integer_of(item, "weight") for item in signers}
    return {key: weight for key, weight in found.items() if weight}
