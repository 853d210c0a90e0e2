"""The gateway over Horizon's HTTP API.

Reads are bounded in time and size and never repeated here: whether to ask again is the
settlement's to decide. XDR is passed on as the raw bytes that were answered; decoding and encoding
again may change it. Submission uses `/transactions_async`, which does not wait for a ledger.
Horizon says in the header `Latest-Ledger` up to which ledger it had ingested when it answered; of
a source without that header, the newest ledger it told before the read is taken. Horizon does not
tell which ledger keys the network has frozen.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from ledger.audit.address import format_account
from ledger.audit.xdr import MalformedXdrError
from ledger.books.transactions import NetworkFact
from ledger.evidence.keys import network_id_of
from ledger.stellar.bounded_http import EXCHANGE_TIMEOUT_S, Answer, BoundedHttp
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import (
    PERCENTILES,
    AccountView,
    AssetKey,
    EntriesView,
    EntryKey,
    EntryState,
    FeeStatistics,
    NetworkLedger,
    Place,
    SlotView,
    SubmitAnswer,
    SubmitStatus,
    TransactionPage,
)
from ledger.stellar.horizon_records import (
    account_states_of,
    balances_of,
    bytes_of,
    integer_of,
    ledger_of,
    mapping_of,
    optional_integer_of,
    records_of,
    submit_answer_of,
    text_of,
    time_of,
)
from ledger.stellar.results import result_code_of
from ledger.stellar.slots import is_known_by, spends

PAGE_LIMIT: Final = 200
"""Most records Horizon gives at once."""

SLOT_PAGES_MAX: Final = 50
"""Most pages read back for a slot."""

FRIENDBOT_TIMEOUT_S: Final = 60.0

_LATEST_LEDGER: Final = "latest-ledger"
_FORM: Final = "application/x-www-form-urlencoded"

__all__ = ["HorizonGateway", "result_code_of"]


class HorizonGateway:
    """`ledger.stellar.gateway.Gateway` over one Horizon instance."""

    def __init__(
        self, base_url: str, passphrase: str, *, timeout_s: float = EXCHANGE_TIMEOUT_S
    ) -> None:
        """Make a gateway; nothing is asked yet.

        Args:
            base_url: Of the instance.
            passphrase: The network's.
            timeout_s: Seconds that one exchange may take.

        Raises:
            SourceError: The URL is not http or https.
        """
        self._base_url = base_url.rstrip("/")
        self._network_id = network_id_of(passphrase)
        self._is_network_known = False
        self._http = BoundedHttp(self._base_url, timeout_s=timeout_s)

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
        self._http.close()

    def require_network(self) -> None:
        """Raise unless the source serves the network this gateway was made for.

        Raises:
            GatewayError: No usable answer, or another network.
        """
        passphrase = text_of(self._json(self._http.get(self._base_url + "/")), "network_passphrase")
        if network_id_of(passphrase) != self._network_id:
            raise GatewayError(f"{self.name}: network: got {passphrase!r}, want the configured one")
        self._is_network_known = True

    def latest_ledger(self) -> NetworkLedger:
        """Return the newest closed ledger the source knows."""
        return ledger_of(self._newest_ledger())

    def ledger(self, sequence: int) -> NetworkLedger | None:
        """Return a closed ledger, or None if the source does not have it."""
        answer = self._ask(f"/ledgers/{sequence}", {})
        if _is_absent(answer):
            return None
        ledger = ledger_of(self._json(answer))
        if ledger.sequence != sequence:
            raise GatewayError(f"{answer.url}: got ledger {ledger.sequence}, want {sequence}")
        return ledger

    def transactions_of(self, account: bytes, *, after: Place) -> TransactionPage:
        """Return transactions an account took part in, after a place, failed ones included."""
        records, as_of_sequence = self._account_page(account, str(_token_of(after)), "asc")
        facts = tuple(self._fact_of(record) for record in records)
        return TransactionPage(
            facts=facts,
            is_last=len(records) < PAGE_LIMIT,
            as_of_sequence=as_of_sequence,
            through=facts[-1].order if facts else after,
        )

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        """Return an applied transaction by its inner or outer hash, or None if it is not known."""
        answer = self._ask(f"/transactions/{tx_hash.hex()}", {})
        if answer.status == 404:
            return None
        fact = self._fact_of(self._json(answer))
        if not is_known_by(fact, tx_hash):
            raise GatewayError(f"{answer.url}: got another transaction, want it")
        return fact

    def transaction_of_slot(self, account: bytes, sequence: int, *, since: int) -> SlotView:
        """Return the transaction that consumed a sequence number of an account."""
        as_of_sequences: list[int] = []
        name = format_account(account)
        for record in self._records_back(account, as_of_sequences):
            if integer_of(record, "ledger") < since:
                break
            is_same = (
                text_of(record, "source_account") == name
                and integer_of(record, "source_account_sequence") == sequence
            )
            if is_same and self._spends(fact := self._fact_of(record), account, sequence):
                return SlotView(fact=fact, as_of_sequence=as_of_sequences[0])
        return SlotView(fact=None, as_of_sequence=as_of_sequences[0])

    def account(self, account: bytes, *, assets: Sequence[AssetKey] = ()) -> AccountView | None:
        """Return an account with all its balances, or None if the source knows none."""
        del assets
        answer, as_of_sequence = self._ask_as_of(f"/accounts/{format_account(account)}", {})
        if answer.status == 404:
            return None
        record = self._account_record(account, answer)
        return AccountView(
            account=account,
            sequence=integer_of(record, "sequence"),
            balances=balances_of(record),
            as_of_sequence=as_of_sequence,
            sequence_ledger=optional_integer_of(record, "sequence_ledger"),
        )

    def entries(self, keys: Sequence[EntryKey]) -> EntriesView:
        """Return ledger entries; one request for each account. Frozen keys are not known here."""
        found: dict[EntryKey, EntryState] = {}
        as_of_sequences: list[int] = []
        for account in dict.fromkeys(key.account for key in keys):
            answer, as_of_sequence = self._ask_as_of(f"/accounts/{format_account(account)}", {})
            as_of_sequences.append(as_of_sequence)
            if answer.status != 404:
                found |= account_states_of(account, self._account_record(account, answer))
        return EntriesView(
            entries={key: found[key] for key in keys if key in found},
            frozen=None,
            as_of_sequence=min(as_of_sequences) if keys else self.latest_ledger().sequence,
        )

    def fee_statistics(self) -> FeeStatistics:
        """Return what inclusion cost in the last ledgers."""
        newest = self._newest_ledger()
        record = self._get("/fee_stats")
        charged = mapping_of(record, "fee_charged")
        least = integer_of(newest, "base_fee_in_stroops")
        return FeeStatistics(
            as_of_sequence=integer_of(record, "last_ledger"),
            base_fee_stroops=least,
            base_reserve_stroops=integer_of(newest, "base_reserve_in_stroops"),
            operations_max=integer_of(newest, "max_tx_set_size"),
            charged_stroops={
                percent: max(least, integer_of(charged, f"p{percent}")) for percent in PERCENTILES
            },
        )

    def submit(self, envelope: bytes) -> SubmitAnswer:
        """Hand an envelope to the network without waiting for a ledger; never raises for it."""
        form = urlencode({"tx": base64.b64encode(envelope).decode()}).encode()
        try:
            self._require_known_network()
            answer = self._http.post(f"{self._base_url}/transactions_async", form, _FORM)
            record = answer.json()
        except GatewayError as error:
            return SubmitAnswer(status=SubmitStatus.UNKNOWN, code=error.reason)
        return submit_answer_of(answer.status, record)

    def fund_by_friendbot(self, account: bytes) -> None:
        """Ask a test network's friendbot for XLM.

        Raises:
            GatewayError: No friendbot, or it refused.
        """
        links = self._get("/").get("_links", {})
        template = text_of(links.get("friendbot", {}), "href") if "friendbot" in links else ""
        if not template:
            raise GatewayError(f"{self.name}: friendbot: got none, want a test network")
        url = template.partition("{")[0]
        friendbot = BoundedHttp(url, timeout_s=FRIENDBOT_TIMEOUT_S)
        try:
            answer = friendbot.get(url, {"addr": format_account(account)})
        finally:
            friendbot.close()
        if answer.status != 200:
            raise GatewayError(f"{url}: got HTTP {answer.status}, want 200")

    def _newest_ledger(self) -> dict[str, Any]:
        records = records_of(self._get("/ledgers", order="desc", limit="1"))
        if not records:
            raise GatewayError(f"{self.name}: ledgers: got none, want at least one")
        return records[0]

    def _account_page(
        self, account: bytes, cursor: str, order: str
    ) -> tuple[list[dict[str, Any]], int]:
        parameters = {"order": order, "limit": str(PAGE_LIMIT), "include_failed": "true"}
        if cursor:
            parameters["cursor"] = cursor
        path = f"/accounts/{format_account(account)}/transactions"
        answer, as_of_sequence = self._ask_as_of(path, parameters)
        # Horizon answers 404 for an account that never was on the network.
        records = [] if answer.status == 404 else records_of(self._json(answer))
        return records, as_of_sequence

    def _records_back(self, account: bytes, as_of: list[int]) -> Iterator[dict[str, Any]]:
        """Yield an account's transactions, newest first; note what each page was as of."""
        cursor = ""
        for _ in range(SLOT_PAGES_MAX):
            records, as_of_sequence = self._account_page(account, cursor, "desc")
            as_of.append(as_of_sequence)
            yield from records
            if len(records) < PAGE_LIMIT:
                return
            cursor = text_of(records[-1], "paging_token")
        raise GatewayError(f"{self.name}: slot: not within {SLOT_PAGES_MAX} pages")

    def _account_record(self, account: bytes, answer: Answer) -> dict[str, Any]:
        record = self._json(answer)
        if text_of(record, "account_id") != format_account(account):
            raise GatewayError(f"{answer.url}: got another account, want it")
        return record

    def _spends(self, fact: NetworkFact, account: bytes, sequence: int) -> bool:
        try:
            return spends(fact, (account, sequence))
        except MalformedXdrError as error:
            raise GatewayError(f"{self.name}: envelope_xdr: {error}") from error

    def _fact_of(self, record: Mapping[str, Any]) -> NetworkFact:
        token = integer_of(record, "paging_token")
        ledger_sequence = integer_of(record, "ledger")
        if token >> 32 != ledger_sequence:
            raise GatewayError(f"{self.name}: paging_token: got {token}, want ledger's")
        return NetworkFact(
            network_id=self._network_id,
            ledger_sequence=ledger_sequence,
            close_time_s=time_of(record, "created_at"),
            apply_order=(token >> 12) & 0xFFFFF,
            envelope=bytes_of(record, "envelope_xdr"),
            result=bytes_of(record, "result_xdr"),
        )

    def _ask_as_of(self, path: str, parameters: Mapping[str, str]) -> tuple[Answer, int]:
        """Return an answer and a ledger at or before the one it was given as of."""
        answer = self._ask(path, parameters)
        header = answer.headers.get(_LATEST_LEDGER, "")
        if header.isascii() and header.isdigit():
            return answer, int(header)
        if answer.status != 404:
            self._json(answer)  # what is unusable is not asked for again
        # Asked before the answer, so that it is at least as new as the ledger named.
        before_sequence = self.latest_ledger().sequence
        return self._ask(path, parameters), before_sequence

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        return self._json(self._ask(path, parameters))

    def _ask(self, path: str, parameters: Mapping[str, str]) -> Answer:
        self._require_known_network()
        return self._http.get(self._base_url + path, parameters)

    def _require_known_network(self) -> None:
        if not self._is_network_known:
            self.require_network()

    def _json(self, answer: Answer) -> dict[str, Any]:
        if answer.status != 200:
            raise GatewayError(f"{answer.url}: got HTTP {answer.status}, want 200")
        record = answer.json()
        if not isinstance(record, dict):
            raise GatewayError(f"{answer.url}: got {type(record).__name__}, want an object")
        return record


def _is_absent(answer: Answer) -> bool:
    """404: not there; 410: older than the history the instance keeps."""
    return answer.status in {404, 410}


def _token_of(place: Place) -> int:
    """Total order id (SEP-35) of a place."""
    return place[0] << 32 | place[1] << 12
