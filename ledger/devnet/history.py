"""Transactions that closed network ledgers took: bytes kept, decoded only while they are looked at.

A batch of a hundred payments takes 14 kB as XDR and twenty times that decoded, so only the latest
stay decoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from stellar_sdk import xdr

from ledger.devnet.envelope import Transaction, parse_envelope
from ledger.devnet.participants import participants
from ledger.devnet.results import OpResult, TxCode, TxResult

_KEPT_DECODED: Final = 256


def decode_result(raw: bytes) -> TxResult:
    """TxResult from TransactionResult XDR, whose operations' XDR stays as it is."""
    decoded = xdr.TransactionResult.from_xdr_bytes(raw)
    body = decoded.result
    pair = body.inner_result_pair
    if pair is None:
        operations = _operations(body.results)
        return TxResult(decoded.fee_charged.int64, TxCode(body.code.value), operations)
    inner_body = pair.result.result
    inner = TxResult(
        pair.result.fee_charged.int64,
        TxCode(inner_body.code.value),
        _operations(inner_body.results),
    )
    code = TxCode(body.code.value)
    return TxResult(decoded.fee_charged.int64, code, [], pair.transaction_hash.hash, inner)


def _operations(results: list[xdr.OperationResult] | None) -> list[OpResult]:
    found = []
    for result in results or []:
        raw = result.to_xdr_bytes()
        found.append(OpResult(ok=raw[:4] == bytes(4) and raw[8:12] == bytes(4), xdr=raw))
    return found


class Record:
    """A transaction in a closed network ledger; `index` is one-based."""

    __slots__ = (
        "_network",
        "_result",
        "_tx",
        "hash",
        "index",
        "inner_hash",
        "ledger",
        "raw",
        "result_xdr",
    )

    def __init__(
        self,
        *,
        network: bytes,
        ledger: int,
        index: int,
        raw: bytes,
        result_xdr: bytes,
        hashes: tuple[bytes, bytes | None],
    ) -> None:
        self._network = network
        self.ledger = ledger
        self.index = index
        self.raw = raw
        self.result_xdr = result_xdr
        self.hash, self.inner_hash = hashes
        self._tx: Transaction | None = None
        self._result: TxResult | None = None

    def know(self, tx: Transaction, result: TxResult) -> None:
        """Keep what the bytes decode to."""
        self._tx, self._result = tx, result

    def forget(self) -> None:
        """Keep the bytes only."""
        self._tx = self._result = None

    @property
    def token(self) -> int:
        """Total order id (SEP-35) of the transaction."""
        return self.ledger << 32 | self.index << 12

    @property
    def tx(self) -> Transaction:
        """The envelope, decoded."""
        return self._tx or parse_envelope(self.raw, self._network)

    @property
    def result(self) -> TxResult:
        """The result, decoded."""
        return self._result or decode_result(self.result_xdr)

    @property
    def accounts(self) -> frozenset[bytes]:
        """Keys of everyone the transaction concerns."""
        return participants(self.tx)


class History:
    """All records of one network, oldest first, and the ways to find them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._decoded: deque[Record] = deque()
        self._by_hash: dict[bytes, Record] = {}
        self._by_account: dict[bytes, list[Record]] = {}

    def add(self, record: Record, accounts: Iterable[bytes]) -> None:
        """Append a record and who it concerns."""
        self.records.append(record)
        self._by_hash[record.hash] = record
        if record.inner_hash is not None:
            self._by_hash[record.inner_hash] = record
        for account in accounts:
            self._by_account.setdefault(account, []).append(record)

    def keep_decoded(self, record: Record, tx: Transaction, result: TxResult) -> None:
        """Let a new record keep its decoded form until enough newer ones came."""
        record.know(tx, result)
        self._decoded.append(record)
        if len(self._decoded) > _KEPT_DECODED:
            self._decoded.popleft().forget()

    def find(self, tx_hash: bytes) -> Record | None:
        """By outer or inner hash."""
        return self._by_hash.get(tx_hash)

    def of_account(self, account: bytes) -> list[Record]:
        """Those an account took part in, oldest first."""
        return self._by_account.get(account, [])
