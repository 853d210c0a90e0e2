"""Names of result codes as Horizon writes them (`tx_failed`, `op_underfunded`)."""

from __future__ import annotations

from typing import Any, Final

from stellar_sdk import xdr

from ledger.devnet.results import TxCode, TxResult

_TX_NAMES: Final[dict[TxCode, str]] = {TxCode.NO_ACCOUNT: "tx_no_source_account"}
_OUTER_NAMES: Final[dict[int, str]] = {
    -1: "op_bad_auth",
    -2: "op_no_source_account",
    -3: "op_not_supported",
    -4: "op_too_many_subentries",
    -5: "op_exceeded_work_limit",
    -6: "op_too_many_sponsoring",
}
# Horizon's spelling where it is not the XDR name without its prefix.
_EXCEPTIONS: Final[dict[str, str]] = {
    "CREATE_ACCOUNT_ALREADY_EXIST": "op_already_exists",
    "CHANGE_TRUST_INVALID_LIMIT": "op_invalid_limit",
    "ACCOUNT_MERGE_NO_ACCOUNT": "op_no_account",
    "MANAGE_DATA_NAME_NOT_FOUND": "op_data_name_not_found",
    "MANAGE_DATA_INVALID_NAME": "op_data_invalid_name",
}


def tx_code_name(code: TxCode) -> str:
    """Horizon's name of a transaction result code."""
    return _TX_NAMES.get(code, f"tx_{code.name.lower()}")


def operation_code_names(result: TxResult) -> list[str]:
    """Horizon's names of the operations' codes, of the inner transaction under a fee bump."""
    inner = result.inner or result
    if inner.code not in (TxCode.SUCCESS, TxCode.FAILED):
        return []
    return [_operation_name(operation.xdr) for operation in inner.operations]


def _operation_name(raw: bytes) -> str:
    outer = int.from_bytes(raw[:4], signed=True)
    if outer != 0:
        return _OUTER_NAMES[outer]
    decoded = xdr.OperationResult.from_xdr_bytes(raw)
    tr = decoded.tr
    arms = [] if tr is None else [v for k, v in vars(tr).items() if k != "type" and v is not None]
    if tr is None or not arms:
        return "op_unknown"
    name: str = arms[0].code.name
    if name.endswith("_SUCCESS"):
        return "op_success"
    # A passive offer answers with the codes of a sell offer.
    prefix = f"{tr.type.name.replace('CREATE_PASSIVE', 'MANAGE')}_"
    return _EXCEPTIONS.get(name, "op_" + name.removeprefix(prefix).lower())


def result_codes(result: TxResult) -> dict[str, Any]:
    """The `result_codes` object of a failed submission."""
    codes: dict[str, Any] = {"transaction": tx_code_name(result.code)}
    if result.inner is not None and not result.ok:
        codes["inner_transaction"] = tx_code_name(result.inner.code)
    operations = operation_code_names(result)
    if operations:
        codes["operations"] = operations
    return codes
