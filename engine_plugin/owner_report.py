"""What an owner asks of a state folder, by peer: delivered, taken, owed, credit left, refusals.

Read from the files of an engine that may run or be dead; every figure is what a restart would
find. Owed is the price of receipted bytes under the terms worked under last, before the network's
fee: what was paid already stands in the operator's statements, not here.

Not here: byte classes in all (`state_report`), showing it (`commands`).
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine_plugin.errors import EngineError, JournalError
from engine_plugin.journal_reading import read_peers
from engine_plugin.journal_records import PeerTotals, Source
from engine_plugin.standing import EnforcementPolicy
from engine_plugin.wire import ReceiptVerdict
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.terms import Terms, parse_terms
from ledger.evidence.units import STROOPS_PER_TOKEN, charge_for

TERMS_FILE = "terms.bin"
"""Copy of the terms an engine last worked under."""

ENDPOINTS_SHOWN_MAX = 8

_BUSY_S = 5.0
_TERMS_SIZE_MAX = 1 << 16


@dataclass(slots=True, kw_only=True)
class PeerAccount:
    """One peer's key, or one endpoint without a key; content bytes over all runs."""

    key: bytes | None
    endpoints: list[str] = field(default_factory=list)
    attested_bytes: int = 0
    """Received, and its key is proved."""
    unattested_bytes: int = 0
    cdn_bytes: int = 0
    sent_bytes: int = 0
    receipted_bytes: int = 0
    """What it signed for of what was sent to it."""
    refusals: list[str] = field(default_factory=list)
    """Why it refused receipts of ours, by the newest of each lane."""

    def credit_left(self, policy: EnforcementPolicy) -> int:
        """Return what it may still take before it has to acknowledge."""
        allowed = policy.known_bytes if self.receipted_bytes else policy.unknown_bytes
        return max(allowed - max(self.sent_bytes - self.receipted_bytes, 0), 0)


def read_accounts(folder: Path) -> list[PeerAccount]:
    """Return what the journal and the spool of a state folder hold by peer, the busiest first.

    Raises:
        JournalError: The meter journal is missing or cannot be read.
    """
    accounts: dict[bytes | str, PeerAccount] = {}
    for peer in read_peers(folder / "meter.sqlite"):
        _add_peer(accounts, peer)
    spool = folder / "spool.sqlite"
    if spool.exists() and spool.stat().st_size:
        for key, count in _read(
            spool, "receipt", "SELECT session_key, sum(bytes_total) FROM receipt WHERE kind = 1"
            " GROUP BY session_key",
        ):  # fmt: skip
            account = accounts.setdefault(key, PeerAccount(key=key))
            account.receipted_bytes = count
    for key, verdict in _read(
        folder / "meter.sqlite",
        "lane_receipt",
        "SELECT DISTINCT payee_key, verdict FROM lane_receipt WHERE verdict <> 0 ORDER BY 1, 2",
    ):
        account = accounts.setdefault(key, PeerAccount(key=key))
        account.refusals.append(name_verdict(verdict))
    return sorted(
        accounts.values(),
        key=lambda one: one.sent_bytes + one.attested_bytes + one.cdn_bytes + one.unattested_bytes,
        reverse=True,
    )


def load_kept_terms(folder: Path) -> Signed[Terms] | None:
    """Return the terms the folder's engine worked under last, or None.

    Raises:
        EngineError: The copy cannot be read.
    """
    path = folder / TERMS_FILE
    try:
        with path.open("rb") as file:
            return parse_terms(file.read(_TERMS_SIZE_MAX))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
    except EvidenceError as error:
        raise EngineError(f"{path}: {error}") from None


def describe_accounts(folder: Path) -> dict[str, Any]:
    """Return the accounts of a state folder as plain data.

    Raises:
        EngineError: The folder's files cannot be read.
    """
    accounts = read_accounts(folder)
    terms = load_kept_terms(folder)
    policy = EnforcementPolicy()
    rows = [_describe(account, terms, policy) for account in accounts]
    receipted = sum(account.receipted_bytes for account in accounts)
    return {
        "accounts": rows,
        "asset": None if terms is None else terms.value.asset_code,
        "owed_stroops": None if terms is None else _price(terms.value, receipted),
        "months": _read_months(folder),
    }


def format_stroops(amount: int) -> str:
    """Return an amount with its seven decimals."""
    return f"{amount // STROOPS_PER_TOKEN}.{amount % STROOPS_PER_TOKEN:07}"


def name_verdict(verdict: int) -> str:
    """Return the name of a payee's answer."""
    known = {int(one): one.name.lower() for one in ReceiptVerdict}
    return known.get(verdict, f"verdict_{verdict}")


def _add_peer(accounts: dict[bytes | str, PeerAccount], peer: PeerTotals) -> None:
    place = peer.url if peer.source is Source.CDN else peer.peer.endpoint
    account = accounts.setdefault(peer.public_key or place, PeerAccount(key=peer.public_key))
    if place and place not in account.endpoints:
        account.endpoints.append(place)
    if peer.source is Source.CDN:
        account.cdn_bytes += peer.firm_bytes
    elif peer.public_key is None:
        account.unattested_bytes += peer.firm_bytes
    else:
        account.attested_bytes += peer.firm_bytes
    account.sent_bytes += peer.sent_bytes


def _describe(
    account: PeerAccount, terms: Signed[Terms] | None, policy: EnforcementPolicy
) -> dict[str, Any]:
    return {
        "key": None if account.key is None else account.key.hex(),
        "endpoints": account.endpoints[-ENDPOINTS_SHOWN_MAX:],
        "attested_bytes": account.attested_bytes,
        "unattested_bytes": account.unattested_bytes,
        "cdn_bytes": account.cdn_bytes,
        "sent_bytes": account.sent_bytes,
        "receipted_bytes": account.receipted_bytes,
        "owed_stroops": None if terms is None else _price(terms.value, account.receipted_bytes),
        "credit_left_bytes": None if account.cdn_bytes else account.credit_left(policy),
        "refusals": account.refusals,
    }


def _price(terms: Terms, byte_count: int) -> int:
    return charge_for(terms.price_stroops, terms.price_quantity_bytes, byte_count)


def _read_months(folder: Path) -> dict[str, int]:
    query = "SELECT month, uploaded_bytes FROM owner_month ORDER BY month"
    return dict(_read(folder / "meter.sqlite", "owner_month", query))


def _read(path: Path, table: str, query: str) -> list[Any]:
    """Return rows of a table that an older folder may not have."""
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=_BUSY_S)
        ) as connection:
            known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,))
            return [] if known.fetchone() is None else connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise JournalError(f"{path}: {error}") from error
