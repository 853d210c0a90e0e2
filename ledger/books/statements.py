"""Statements: one line per party of an epoch, salted, under the epoch's sum tree.

A line is what a payee (or a CDN) received credit for, what that cost the broadcaster, what the
network kept, and how its balance moved: opening + accrued - paid = closing. The sum tree's leaf is
(subject, credited bytes, charge): so Σ lines = bytes billed = money charged, provably.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger.books.errors import ConservationError
from ledger.books.standing import CarryReason
from ledger.evidence.encoding import ZERO_KEY, Layout, Reader, RecordCode
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.leaf import derive_salt
from ledger.evidence.sumtree import SumLine, SumTree

LINES_MAX = 50_000_000
_REASONS = frozenset(CarryReason)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One party's epoch.

    Raises:
        ConservationError: opening + accrued - paid is not closing.
    """

    subject: bytes
    """Account of the payee, or the key of a CDN without an account; 32 bytes."""

    salt: bytes
    """Salt of its leaf in the sum tree; 32 bytes."""

    bytes_p2p: int
    """Credited bytes it delivered as a peer."""

    bytes_cdn: int
    """Credited bytes it delivered as a CDN."""

    charge_stroops: int
    """What the broadcaster was charged for them."""

    fee_stroops: int
    """What the network kept of the charge."""

    opening_stroops: int
    """Owed to it when the epoch opened."""

    paid_stroops: int
    """Paid to it by network ledgers of this epoch."""

    closing_stroops: int
    """Owed to it when the epoch closed."""

    reason: int = CarryReason.NOTHING_OWED
    """Why that is carried: a `CarryReason`."""

    pay_to: bytes = ZERO_KEY
    """Account that its payments go to; zeros: the subject itself; 32 bytes."""

    next_pay_to: bytes = ZERO_KEY
    """Account that they go to from `next_from_s` on; zeros: no change is due; 32 bytes."""

    next_from_s: int = 0
    """Network time from which they go to `next_pay_to`; 0 without one."""

    def __post_init__(self) -> None:
        computed = self.opening_stroops + self.accrued_stroops - self.paid_stroops
        if computed != self.closing_stroops:
            raise ConservationError(
                "statement: opening + accrued - paid", got=computed, want=self.closing_stroops
            )
        if self.reason not in _REASONS:
            raise MalformedRecordError("statement.reason", got=self.reason, want="a known reason")

    @property
    def accrued_stroops(self) -> int:
        """Charge - fee."""
        return self.charge_stroops - self.fee_stroops

    @property
    def bytes_credited(self) -> int:
        """Bytes of both sources."""
        return self.bytes_p2p + self.bytes_cdn


def salt_of_line(epoch_salt_key: bytes, subject: bytes) -> bytes:
    """Return the salt of a party's line."""
    return derive_salt(epoch_salt_key, RecordCode.LEAF_RESULT, subject)


def sum_tree_of(lines: Iterable[StatementLine]) -> SumTree:
    """Return the epoch's sum tree; lines by ascending subject."""
    return SumTree([sum_line_of(line) for line in lines])


def sum_line_of(line: StatementLine) -> SumLine:
    """Return a statement line's leaf in the sum tree."""
    return SumLine(
        subject=line.subject,
        salt=line.salt,
        credited_bytes=line.bytes_credited,
        amount_stroops=line.charge_stroops,
    )


_LINE = Layout(
    "statement",
    [
        ("subject", "bytes32"),
        ("salt", "bytes32"),
        ("bytes_p2p", "u64"),
        ("bytes_cdn", "u64"),
        ("charge_stroops", "u64"),
        ("fee_stroops", "u64"),
        ("opening_stroops", "u64"),
        ("paid_stroops", "u64"),
        ("closing_stroops", "u64"),
        ("reason", "u16"),
        ("pay_to", "bytes32"),
        ("next_pay_to", "bytes32"),
        ("next_from_s", "u64"),
    ],
)
STATEMENT_LAYOUT = _LINE
"""One line, for the format document's test."""


def format_statements(lines: Sequence[StatementLine]) -> bytes:
    """Return canonical bytes: u32 count, then lines by ascending subject."""
    return len(lines).to_bytes(4, "little") + b"".join(_LINE.pack(line) for line in lines)


def parse_statements(data: bytes) -> list[StatementLine]:
    """Return lines from their canonical bytes.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
        ConservationError: A line's balance does not add up.
    """
    reader = Reader("statements", data)
    count = reader.integer(4, "count", limit=LINES_MAX)
    lines = [StatementLine(**_LINE.unpack(reader.take(_LINE.size, "line"))) for _ in range(count)]
    reader.finish()
    return lines
