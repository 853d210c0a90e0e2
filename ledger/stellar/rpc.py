"""The gateway over Stellar RPC, through stellar-sdk's SorobanServer.

The SDK asks and reads answers, over a client that is bounded and repeats nothing; envelopes and
results are kept as the raw bytes that were answered. RPC has no history by account: what an
account took part in is found by reading the whole network's transactions after a place, a bounded
number of pages a call. It keeps some days of them only, so a place before its oldest ledger is
refused, never passed over. Every answer of RPC names the ledger it was given as of.
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from stellar_sdk import SorobanServer, soroban_rpc, xdr
from stellar_sdk.exceptions import SdkError, SorobanRpcErrorResponse
from xdrlib3 import Error as UnpackError

from ledger.audit.xdr import MalformedXdrError
from ledger.books.transactions import NetworkFact
from ledger.evidence.keys import network_id_of
from ledger.stellar.bounded_http import EXCHANGE_TIMEOUT_S
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import (
    FILTERED,
    LAST_ORDER,
    NATIVE,
    PERCENTILES,
    START,
    AccountState,
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
    TrustlineState,
)
from ledger.stellar.horizon_records import rejection_of
from ledger.stellar.ledger_entries import (
    FROZEN_KEYS,
    decode_entry,
    entry_state_of,
    frozen_among,
    ledger_key_of,
    sequence_ledger_of,
)
from ledger.stellar.participants import takes_part
from ledger.stellar.sdk_client import BoundedSdkClient
from ledger.stellar.slots import is_known_by, spends

PAGE_LIMIT: Final = 200
"""Most transactions, and most ledger keys, that RPC takes at once."""

PAGES_MAX: Final = 25
"""Most pages read in one call for an account's transactions."""

SLOT_PAGES_MAX: Final = 500
"""Most pages read for a slot."""

LAG_LEDGERS: Final = 4
"""How far behind the newest ledger reading goes on from the next time, so as to see it twice."""

_PAGES_KEPT: Final = 16
_LEDGERS_KEPT: Final = 4_096
_NO_HASH: Final = "00" * 32
_REFUSED: Final = frozenset({-32600, -32602})
"""JSON-RPC's invalid request and invalid parameters."""

_STATUSES: Final = {
    soroban_rpc.SendTransactionStatus.PENDING: SubmitStatus.PENDING,
    soroban_rpc.SendTransactionStatus.DUPLICATE: SubmitStatus.DUPLICATE,
    soroban_rpc.SendTransactionStatus.TRY_AGAIN_LATER: SubmitStatus.TRY_AGAIN,
}

_INVALID_STATUS: Final = "invalid status from stellar-core"
"""What RPC says of a node's status that it does not know, such as that of a node that filters."""

_T = TypeVar("_T")
_Page = soroban_rpc.GetTransactionsResponse
_Entries = dict[EntryKey, xdr.LedgerEntryData]


class RpcRefusedError(GatewayError):
    """RPC answered with an error of its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class RpcGateway:
    """`ledger.stellar.gateway.Gateway` over one instance of Stellar RPC."""

    def __init__(self, url: str, passphrase: str, *, timeout_s: float = EXCHANGE_TIMEOUT_S) -> None:
        """Make a gateway; nothing is asked yet.

        Args:
            url: Of the JSON-RPC endpoint.
            passphrase: The network's.
            timeout_s: Seconds that one exchange may take.

        Raises:
            SourceError: The URL is not http or https.
        """
        self._url = url
        self._network_id = network_id_of(passphrase)
        self._is_network_known = False
        self._client = BoundedSdkClient(url, timeout_s=timeout_s)
        self._server = SorobanServer(url, self._client)
        self._pages: OrderedDict[str, _Page] = OrderedDict()
        self._ledgers: OrderedDict[int, NetworkLedger] = OrderedDict()

    @property
    def name(self) -> str:
        """The URL."""
        return self._url

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
        passphrase = self._call(self._server.get_network).passphrase
        if network_id_of(passphrase) != self._network_id:
            raise GatewayError(f"{self.name}: network: got {passphrase!r}, want the configured one")
        self._is_network_known = True

    def latest_ledger(self) -> NetworkLedger:
        """Return the newest closed ledger the source knows."""
        # Any look-up tells it; getLatestLedger would carry the whole ledger with it.
        found = self._ask(lambda: self._server.get_transaction(_NO_HASH))
        return self._keep(found.latest_ledger, found.latest_ledger_close_time)

    def ledger(self, sequence: int) -> NetworkLedger | None:
        """Return a closed ledger, or None if the source does not have it."""
        if sequence in self._ledgers:
            return self._ledgers[sequence]
        if sequence < 1:
            return None
        try:
            return self._find_ledger(sequence)
        except RpcRefusedError as error:
            health = self._ask(self._server.get_health)
            if error.code in _REFUSED and not (
                health.oldest_ledger <= sequence <= health.latest_ledger
            ):
                return None
            raise

    def transactions_of(self, account: bytes, *, after: Place) -> TransactionPage:
        """Return transactions an account took part in, after a place, failed ones included."""
        place, creation = (after, 0) if after != START else self._origin_of(account)
        facts: list[NetworkFact] = []
        page: _Page | None = None
        for page in self._pages_after(place, PAGES_MAX):
            for item in page.transactions:
                if self._takes_part(account, item):
                    facts.append(self._fact_of(item))
                place = (item.ledger, item.application_order)
        if page is None:
            raise GatewayError(f"{self.name}: transactions: got no page, want one")
        if creation and not (facts and facts[0].ledger_sequence == creation):
            raise GatewayError(
                f"{self.name}: history of {account.hex()}: got no creation in {creation}, want it"
            )
        is_last = len(page.transactions) < PAGE_LIMIT
        if is_last:
            seen_twice = (page.latest_ledger - LAG_LEDGERS, LAST_ORDER)
            place = max(after, seen_twice, facts[-1].order if facts else START)
        return TransactionPage(
            facts=tuple(facts),
            is_last=is_last,
            as_of_sequence=page.latest_ledger,
            through=place,
        )

    def transaction(self, tx_hash: bytes) -> NetworkFact | None:
        """Return an applied transaction by its inner or outer hash, or None if it is not known."""
        found = self._ask(lambda: self._server.get_transaction(tx_hash.hex()))
        if found.status == soroban_rpc.GetTransactionStatus.NOT_FOUND:
            return None
        ledger, order, closed = found.ledger, found.application_order, found.create_at
        if ledger is None or order is None or closed is None:
            raise GatewayError(f"{self.name}: transaction: got no place, want it")
        fact = self._fact(ledger, order, closed, found.envelope_xdr, found.result_xdr)
        if not is_known_by(fact, tx_hash):
            raise GatewayError(f"{self.name}: transaction {tx_hash.hex()}: got another, want it")
        return fact

    def transaction_of_slot(self, account: bytes, sequence: int, *, since: int) -> SlotView:
        """Return the transaction that consumed a sequence number of an account."""
        view = self.account(account)
        if view is not None and view.sequence < sequence:
            return SlotView(fact=None, as_of_sequence=view.as_of_sequence)
        if view is not None and view.sequence == sequence:
            since = max(since, view.sequence_ledger)
        as_of_sequence, is_last = 0, False
        for page in self._pages_after((since - 1, LAST_ORDER), SLOT_PAGES_MAX):
            as_of_sequence = page.latest_ledger
            is_last = len(page.transactions) < PAGE_LIMIT
            for item in page.transactions:
                if self._takes_part(account, item):
                    fact = self._fact_of(item)
                    if self._spends(fact, account, sequence):
                        return SlotView(fact=fact, as_of_sequence=as_of_sequence)
        if not is_last:
            raise GatewayError(f"{self.name}: slot: not within {SLOT_PAGES_MAX} pages")
        return SlotView(fact=None, as_of_sequence=as_of_sequence)

    def account(self, account: bytes, *, assets: Sequence[AssetKey] = ()) -> AccountView | None:
        """Return an account, or None if the source knows none.

        RPC lists no trustlines: the balances are XLM's and those of `assets`.
        """
        owner = EntryKey(account=account)
        lines = [EntryKey(account=account, asset=asset) for asset in assets if asset != NATIVE]
        found, as_of_sequence = self._entries([owner, *lines])
        entry = found.get(owner)
        if entry is None or entry.account is None:
            return None
        states = {key: entry_state_of(key, data) for key, data in found.items()}
        return AccountView(
            account=account,
            sequence=entry.account.seq_num.sequence_number.int64,
            balances=AskedBalances(
                {key.asset or NATIVE: _balance_of(state) for key, state in states.items()},
                frozenset((NATIVE, *assets)),
            ),
            as_of_sequence=as_of_sequence,
            sequence_ledger=sequence_ledger_of(entry.account),
        )

    def entries(self, keys: Sequence[EntryKey]) -> EntriesView:
        """Return ledger entries, and which of them the network has frozen."""
        states: dict[EntryKey, EntryState] = {}
        as_of_sequences: list[int] = []
        for start in range(0, len(keys), PAGE_LIMIT):
            found, as_of_sequence = self._entries(keys[start : start + PAGE_LIMIT])
            states |= {key: entry_state_of(key, data) for key, data in found.items()}
            as_of_sequences.append(as_of_sequence)
        # Last, so that a key frozen meanwhile is told.
        frozen, as_of_sequence = self._frozen(keys)
        return EntriesView(
            entries=states,
            frozen=frozen,
            as_of_sequence=min([*as_of_sequences, as_of_sequence]),
        )

    def fee_statistics(self) -> FeeStatistics:
        """Return what inclusion cost in the last ledgers."""
        newest = self._ask(self._server.get_latest_ledger)
        statistics = self._ask(self._server.get_fee_stats)
        try:
            header = xdr.LedgerHeader.from_xdr_bytes(self._bytes(newest.header_xdr))
        except (UnpackError, ValueError, EOFError, TypeError) as error:
            raise GatewayError(f"{self.name}: header: {error}") from error
        least = header.base_fee.uint32
        charged = statistics.inclusion_fee
        return FeeStatistics(
            as_of_sequence=statistics.latest_ledger,
            base_fee_stroops=least,
            base_reserve_stroops=header.base_reserve.uint32,
            operations_max=header.max_tx_set_size.uint32,
            charged_stroops={
                percent: max(least, int(getattr(charged, f"p{percent}"))) for percent in PERCENTILES
            },
        )

    def submit(self, envelope: bytes) -> SubmitAnswer:
        """Hand an envelope to the network without waiting for a ledger; never raises for it."""
        text = base64.b64encode(envelope).decode()
        try:
            self._require_known_network()
            answer = self._call(lambda: self._server.send_transaction(text))
        except GatewayError as error:
            code = FILTERED if _INVALID_STATUS in str(error) else error.reason
            return SubmitAnswer(status=SubmitStatus.UNKNOWN, code=code)
        if answer.status == soroban_rpc.SendTransactionStatus.ERROR:
            return rejection_of(answer.error_result_xdr)
        return SubmitAnswer(status=_STATUSES[answer.status])

    # Asking

    def _ask(self, ask: Callable[[], _T]) -> _T:
        self._require_known_network()
        return self._call(ask)

    def _require_known_network(self) -> None:
        if not self._is_network_known:
            self.require_network()

    def _call(self, ask: Callable[[], _T]) -> _T:
        """Ask through the SDK; whatever it makes of a bad answer becomes a GatewayError."""
        try:
            return ask()
        except SorobanRpcErrorResponse as error:
            message = f"{self.name}: got error {error.code}: {error.message}"
            raise RpcRefusedError(message, error.code) from error
        except (SdkError, ValueError, TypeError, AssertionError, RecursionError) as error:
            raise GatewayError(f"{self.name}: {type(error).__name__}: {error}") from error

    def _keep(self, sequence: int, close_time_s: int) -> NetworkLedger:
        if sequence < 1 or close_time_s < 0:
            raise GatewayError(f"{self.name}: ledger: got {sequence} at {close_time_s}, want one")
        ledger = NetworkLedger(sequence=sequence, close_time_s=close_time_s)
        self._ledgers[sequence] = ledger
        if len(self._ledgers) > _LEDGERS_KEPT:
            self._ledgers.popitem(last=False)
        return ledger

    def _find_ledger(self, sequence: int) -> NetworkLedger:
        # The ledger's first transaction tells its time too, at a fraction of the ledger's size.
        page = self._ask(lambda: self._server.get_transactions(start_ledger=sequence, limit=1))
        if page.latest_ledger == sequence:
            return self._keep(sequence, page.latest_ledger_close_timestamp)
        for item in page.transactions:
            if item.ledger == sequence:
                return self._keep(sequence, item.created_at)
        found = self._ask(lambda: self._server.get_ledgers(start_ledger=sequence, limit=1))
        for ledger in found.ledgers:
            if ledger.sequence == sequence:
                return self._keep(sequence, ledger.ledger_close_time)
        raise GatewayError(f"{self.name}: ledger {sequence}: got others, want it")

    # Transactions

    def _origin_of(self, account: bytes) -> tuple[Place, int]:
        """Return the place after which all of an account's history lies, and its creation's ledger.

        That is 0 if the source has everything. If not, it is read off the sequence number: an
        account's numbers begin with the ledger of its creation in their upper half, as long as it
        bumped none; the caller checks that it was created there.
        """
        oldest = self._ask(self._server.get_health).oldest_ledger
        if oldest <= 2:  # the first ledger has no transactions
            return (oldest - 1, LAST_ORDER), 0
        view = self.account(account)
        creation = 0 if view is None else view.sequence >> 32
        if creation < oldest:
            raise GatewayError(
                f"{self.name}: history of {account.hex()}: begins before ledger {oldest}"
            )
        return (creation - 1, LAST_ORDER), creation

    def _pages_after(self, place: Place, count: int) -> Iterator[_Page]:
        """Yield pages of the whole network's transactions after a place, the last one included."""
        for _ in range(count):
            page = self._page_after(place)
            if page.oldest_ledger > place[0] + (place[1] == LAST_ORDER) and page.oldest_ledger > 2:
                raise GatewayError(
                    f"{self.name}: history: begins at ledger {page.oldest_ledger}, want {place[0]}"
                )
            for item in page.transactions:
                order = (item.ledger, item.application_order)
                if order <= place or item.ledger > page.latest_ledger:
                    raise GatewayError(f"{self.name}: transaction {order}: want after {place}")
                place = order
            yield page
            if len(page.transactions) < PAGE_LIMIT:
                return

    def _page_after(self, place: Place) -> _Page:
        ledger, order = place
        cursor = str((ledger + 1) << 32 if order == LAST_ORDER else ledger << 32 | order << 12)
        if cursor in self._pages:
            self._pages.move_to_end(cursor)
            return self._pages[cursor]
        page = self._ask(lambda: self._server.get_transactions(cursor=cursor, limit=PAGE_LIMIT))
        # A full page stands: nothing comes between closed ledgers. The next account reads it again.
        if len(page.transactions) == PAGE_LIMIT:
            self._pages[cursor] = page
            if len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
        return page

    def _takes_part(self, account: bytes, item: soroban_rpc.Transaction) -> bool:
        meta = self._bytes(item.result_meta_xdr) if item.result_meta_xdr else b""
        return takes_part(account, self._bytes(item.envelope_xdr), meta)

    def _spends(self, fact: NetworkFact, account: bytes, sequence: int) -> bool:
        try:
            return spends(fact, (account, sequence))
        except MalformedXdrError as error:
            raise GatewayError(f"{self.name}: envelope: {error}") from error

    def _fact_of(self, item: soroban_rpc.Transaction) -> NetworkFact:
        return self._fact(
            item.ledger, item.application_order, item.created_at, item.envelope_xdr, item.result_xdr
        )

    def _fact(
        self, ledger: int, order: int, closed: int, envelope: str | None, result: str | None
    ) -> NetworkFact:
        if ledger < 1 or not 1 <= order <= LAST_ORDER:
            raise GatewayError(f"{self.name}: place: got ({ledger}, {order}), want one in a ledger")
        return NetworkFact(
            network_id=self._network_id,
            ledger_sequence=ledger,
            close_time_s=closed,
            apply_order=order,
            envelope=self._bytes(envelope),
            result=self._bytes(result),
        )

    def _bytes(self, text: str | None) -> bytes:
        try:
            data = base64.b64decode(text or "", validate=True)
        except (binascii.Error, ValueError) as error:
            raise GatewayError(f"{self.name}: got no base64, want XDR") from error
        if not data:
            raise GatewayError(f"{self.name}: got nothing, want XDR")
        return data

    # Entries

    def _entries(self, keys: Sequence[EntryKey]) -> tuple[_Entries, int]:
        """Return those of at most `PAGE_LIMIT` entries that exist, and as of which ledger."""
        wanted = {key: ledger_key_of(key) for key in keys}
        by_text = {value.to_xdr(): key for key, value in wanted.items()}
        answer = self._ask(lambda: self._server.get_ledger_entries(list(wanted.values())))
        found: _Entries = {}
        for item in answer.entries or []:
            key = by_text.get(item.key)
            if key is None:
                raise GatewayError(f"{self.name}: entry {item.key}: not asked for")
            found[key] = decode_entry(item.xdr)
        return found, answer.latest_ledger

    def _frozen(self, keys: Sequence[EntryKey]) -> tuple[frozenset[EntryKey] | None, int]:
        try:
            answer = self._ask(lambda: self._server.get_ledger_entries([FROZEN_KEYS]))
        except RpcRefusedError as error:
            if error.code not in _REFUSED:
                raise
            # An instance that does not know the setting cannot tell.
            return None, self.latest_ledger().sequence
        items = answer.entries or []
        setting = decode_entry(items[0].xdr) if items else None
        return frozenset(frozen_among(keys, setting)), answer.latest_ledger


class AskedBalances(Mapping[AssetKey, int]):
    """Balances of which only some were asked for: what was not is unknown, and never 0."""

    def __init__(self, found: Mapping[AssetKey, int], asked: frozenset[AssetKey]) -> None:
        self._found = found
        self._asked = asked

    def __getitem__(self, asset: AssetKey) -> int:
        if asset not in self._asked:
            raise ValueError(f"balance: got {asset[0]}, want an asset that was asked for")
        return self._found[asset]

    def __iter__(self) -> Iterator[AssetKey]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _balance_of(state: EntryState) -> int:
    if isinstance(state, AccountState | TrustlineState):
        return state.balance_stroops
    raise GatewayError("balance: got a data entry, want an account or a trustline")
