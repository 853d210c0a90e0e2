"""What a recording as a whole tells of ledger entries that a single case does not list.

A case lists only the entries that its ledger changed. What it left alone must come from the other
cases, or, for a claimable balance that no case ever lists, from the counts of those that pay for
it; such a guess is always reported. Results are never read here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ledger.devnet.entries import Account, ClaimableBalance, Entry, claimable_key, decode_entry
from ledger.devnet.envelope import Transaction
from ledger.devnet.operations.claimable import balance_id
from ledger.devnet.sponsorship import reserve_units
from ledger.devnet.wire import NATIVE_ASSET, UINT32_MAX

Json = dict[str, Any]
_ACCOUNT_KIND: Final = bytes(4)
_MOST_CANDIDATES: Final = 500_000
_MOST_NUMBERS: Final = 1_000
_MOST_OPERATIONS: Final = 100


def entries_of(items: Iterable[Json]) -> dict[bytes, bytes]:
    """Listed entries: LedgerEntry XDR by LedgerKey XDR."""
    return {base64.b64decode(item["key"]): base64.b64decode(item["entry"]) for item in items}


class RecordedState:
    """Entries with the ledgers they are known to stand at.

    An entry names the ledger that last modified it. Seen at a later ledger, it must have stood
    unchanged in between, also while cases ran that left it alone and therefore do not list it.
    Beyond that an entry is taken to stand until it is seen changed or deleted. `sequences` holds
    the highest sequence number ever seen of each account.
    """

    def __init__(self, cases: Sequence[Json]) -> None:
        self._until: dict[tuple[bytes, bytes], int] = {}
        standing: dict[bytes, bytes] = {}
        for case in cases:
            self._see(case["pre"], case["lcl"]["seq"], standing)
            if "ledger" not in case:
                continue
            if case["post"] != "unchanged":
                self._see(case["post"], case["ledger"]["seq"], standing)
            for text in case["deleted"]:
                self._end(base64.b64decode(text), case["lcl"]["seq"], standing)
        for key, raw in standing.items():
            self._until[key, raw] = UINT32_MAX
        self.sequences: dict[bytes, int] = {}
        for key, raw in self._until:
            if key[:4] == _ACCOUNT_KIND:
                body = decode_entry(raw).body
                if isinstance(body, Account):
                    highest = max(body.sequence, self.sequences.get(body.account, 0))
                    self.sequences[body.account] = highest

    def _see(self, items: Iterable[Json], sequence: int, standing: dict[bytes, bytes]) -> None:
        for key, raw in entries_of(items).items():
            self._until[key, raw] = max(sequence, self._until.get((key, raw), 0))
            if standing.get(key) != raw:
                self._end(key, _modified(raw) - 1, standing)
                standing[key] = raw

    def _end(self, key: bytes, sequence: int, standing: dict[bytes, bytes]) -> None:
        raw = standing.pop(key, None)
        if raw is not None:
            self._until[key, raw] = max(sequence, self._until[key, raw])

    def world_at(self, sequence: int) -> dict[bytes, bytes]:
        """Entries known to stand at a ledger."""
        return {
            key: raw
            for (key, raw), until in self._until.items()
            if _modified(raw) <= sequence <= until
        }


def _modified(raw: bytes) -> int:
    return int.from_bytes(raw[:4])


def unlisted_balances(
    tx: Transaction, world: Mapping[bytes, bytes], sequences: Mapping[bytes, int]
) -> dict[bytes, bytes]:
    """Stand-ins for claimable balances that a transaction claims and the recording never lists.

    Such a balance is taken to exist if some account sponsors more than the known entries explain,
    and if its id follows from a known account and a sequence number that this account is seen to
    have used. Its claimants and amount are unknown. That the recording does not list it says that
    the ledger left it alone, so the stand-in names nobody who may claim it now.
    """
    wanted = {
        key: claimed for claimed in _claimed(tx) if (key := claimable_key(claimed)) not in world
    }
    if not wanted:
        return {}
    entries = [decode_entry(raw) for raw in world.values()]
    if _unexplained_reserves(entries) <= 0:
        return {}
    made = _creatable(sequences, set(wanted.values()))
    return {
        key: Entry(ClaimableBalance(claimed, (), NATIVE_ASSET, 1), modified=1).encode()
        for key, claimed in wanted.items()
        if claimed in made
    }


def _claimed(tx: Transaction) -> Iterator[bytes]:
    for operation in tx.operations:
        claim = operation.body.claim_claimable_balance_op
        if claim is not None and claim.balance_id.v0 is not None:
            yield claim.balance_id.v0.hash


def _unexplained_reserves(entries: Sequence[Entry]) -> int:
    """Reserves that known accounts pay for entries which are not known."""
    paying: dict[bytes, int] = {}
    for entry in entries:
        body = entry.body
        if entry.sponsor is not None:
            paying[entry.sponsor] = paying.get(entry.sponsor, 0) - reserve_units(entry)
        if isinstance(body, Account):
            paying[body.account] = paying.get(body.account, 0) + body.sponsoring
            for signer in body.signers:
                if signer.sponsor is not None:
                    paying[signer.sponsor] = paying.get(signer.sponsor, 0) - 1
    return sum(units for units in paying.values() if units > 0)


def _creatable(sequences: Mapping[bytes, int], wanted: set[bytes]) -> set[bytes]:
    """Ids among the wanted that a used sequence number of a known account gives."""
    used = [
        (account, number)
        for account, last in sequences.items()
        for number in range(max(last >> 32 << 32, last - _MOST_NUMBERS) + 1, last + 1)
    ]
    found: set[bytes] = set()
    tried = 0
    for index in range(_MOST_OPERATIONS):
        for account, number in used:
            candidate = balance_id(account, number, index)
            if candidate in wanted:
                found.add(candidate)
        tried += len(used)
        if found == wanted or tried > _MOST_CANDIDATES:
            break
    return found
