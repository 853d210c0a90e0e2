"""Gathering: the checked bundles of a seal, of which only what judging needs stays in memory.

Bundles come in the seal's order, one at a time. Of each stays a head (digest, codes, who sent it),
and of every receipt that passed its bundle's check one line in columns: lane, entitlement, payee,
sequence, totals. Whoever needs a whole bundle again gets it from where it came. Not here: the
verdicts (`bundle_check` before, `lane_judgement` after).
"""

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, pairwise
from operator import itemgetter
from typing import NamedTuple, overload

from ledger.books.bundle_check import BundleCheck
from ledger.books.codes import BundleCode, ReceiptCode
from ledger.evidence.entitlement import ENTITLEMENT
from ledger.evidence.receipt import RECEIPT
from ledger.evidence.receipt_rows import ReceiptRows

_LINE = struct.Struct("<70xH32x32s32sI4xQQQ32x")
"""Of a signed receipt: flags, entitlement, payee, epoch, sequence, bytes, media milliseconds."""

if _LINE.size != RECEIPT.size:
    raise AssertionError("gathering and the layout of a receipt differ")


class BundleHead(NamedTuple):
    """What stays of a bundle."""

    digest: bytes
    epoch: int
    submitter_key: bytes
    code: BundleCode
    receipt_codes: Sequence[ReceiptCode]
    """As its own check found them."""

    payee_account: bytes
    key: bytes
    """The 72 bytes that name it."""

    @property
    def order(self) -> tuple[bytes, bytes]:
        """Sort key of bundles in a seal."""
        return self.key, self.digest


class ReceiptLines(NamedTuple):
    """Receipts that passed their bundle's check: a column each, in the order they came."""

    lanes: list[bytes]
    """Lane digests."""

    bundles: "array[int]"
    """Place of the receipt's bundle in the seal."""

    places: "array[int]"
    """Place of the receipt in its bundle."""

    entitlements: "array[int]"
    """Place in `GatheredChecks.entitlements`."""

    payees: "array[int]"
    """Place in `GatheredChecks.payees`."""

    epochs: "array[int]"
    sequences: "array[int]"
    bytes_totals: "array[int]"
    media_ms_totals: "array[int]"


class GatheredEntitlement(NamedTuple):
    """What lanes need of an entitlement."""

    digest: bytes
    payer_account: bytes
    content_id: bytes
    max_bytes: int
    max_media_ms: int
    not_after_s: int


_ENTITLEMENT_ROW = ("flags", "network_id", *(field.name for field in ENTITLEMENT.layout.fields))
_read_entitlement = itemgetter(
    *(_ENTITLEMENT_ROW.index(name) for name in GatheredEntitlement._fields[1:])
)


class GatheredPayee(NamedTuple):
    """Whom receipts name, and the account bound to the bundle they came in."""

    key: bytes
    account: bytes
    is_cdn: bool


class GatheredChecks(Sequence[BundleCheck]):
    """The bundles of one seal, in its order."""

    def __init__(
        self,
        load: Callable[[int], BundleCheck],
        load_all: Callable[[], Iterator[BundleCheck]] | None = None,
    ) -> None:
        """Begin without any bundle.

        Args:
            load: Returns again the bundle with this place in the seal.
            load_all: Yields all again in order, where that is quicker than one after the other.
        """
        self._load = load
        self._load_all = load_all
        self._entitlement_places: dict[bytes, int] = {}
        self._payee_places: dict[GatheredPayee, int] = {}
        self.heads: list[BundleHead] = []
        self._shared: dict[bytes, bytes] = {}
        self.entitlements: list[GatheredEntitlement] = []
        """Every entitlement that a receipt names, once."""

        self.payees: list[GatheredPayee] = []
        self.lines = ReceiptLines(
            [],
            array("I"),
            array("I"),
            array("I"),
            array("I"),
            array("I"),
            array("Q"),
            array("Q"),
            array("Q"),
        )

    def __len__(self) -> int:
        return len(self.heads)

    @overload
    def __getitem__(self, index: int) -> BundleCheck: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[BundleCheck, ...]: ...

    def __getitem__(self, index: int | slice) -> BundleCheck | tuple[BundleCheck, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        return self._load(range(len(self))[index])

    def __iter__(self) -> Iterator[BundleCheck]:
        if self._load_all is not None:
            return self._load_all()
        return (self._load(at) for at in range(len(self)))

    def are_ordered(self) -> bool:
        """Tell whether the bundles came in the seal's order."""
        return all(before.order <= after.order for before, after in pairwise(self.heads))

    def lanes_before(self, epoch: int) -> dict[bytes, int]:
        """Return the lanes of earlier epochs among the gathered receipts, with their epochs."""
        epochs = self.lines.epochs
        if not epochs or min(epochs) >= epoch:
            return {}
        pairs = zip(self.lines.lanes, epochs, strict=True)
        return {lane: of_lane for lane, of_lane in pairs if of_lane < epoch}

    def add(self, check: BundleCheck) -> None:
        """Take the next bundle.

        Raises:
            ValueError: It is not framed.
        """
        if check.bundle is None:
            raise ValueError("bundle: got one that does not parse, want only framed ones in a seal")
        bundle = check.bundle.value
        head = BundleHead(
            check.bundle.digest,
            bundle.epoch,
            bundle.submitter_key,
            check.code,
            check.receipt_codes,
            check.payee_account,
            bundle.key,
        )
        self.heads.append(head)
        passed = check.receipt_codes.count(ReceiptCode.COUNTED)
        if check.code == BundleCode.ACCEPTED and passed:
            self._add_receipts(check, passed)

    def _add_receipts(self, check: BundleCheck, passed: int) -> None:
        if check.bundle is None:
            raise AssertionError("an accepted bundle is framed")
        rows = check.bundle.value.receipts
        selected = [code == ReceiptCode.COUNTED for code in check.receipt_codes]
        is_all = passed == len(rows)
        view = memoryview(rows.buffer)[rows.start : rows.start + len(rows) * RECEIPT.size]
        lines: Iterable[tuple[int, bytes, bytes, int, int, int, int]] = _LINE.iter_unpack(view)
        if not is_all:
            lines = compress(lines, selected)
        flags, entitlements, keys, epochs, sequences, totals, media = zip(*lines, strict=True)
        columns = self.lines
        columns.lanes.extend(_selected(rows, selected, is_all=is_all))
        columns.bundles.extend([len(self.heads) - 1] * passed)
        columns.places.extend(compress(range(len(rows)), selected))
        columns.entitlements.extend(self._places_of_entitlements(check, entitlements))
        columns.payees.extend(self._places_of_payees(check, keys, flags))
        columns.epochs.extend(epochs)
        columns.sequences.extend(sequences)
        columns.bytes_totals.extend(totals)
        columns.media_ms_totals.extend(media)

    def _places_of_entitlements(
        self, check: BundleCheck, digests: Sequence[bytes]
    ) -> Sequence[int]:
        known = self._entitlement_places
        if check.bundle is not None and not known.keys() >= set(digests):
            wanted = set(digests)
            rows = check.bundle.value.entitlements
            share = self._shared.setdefault
            for at, digest in enumerate(rows.digests()):
                if digest in wanted and digest not in known:
                    payer, content, *numbers = _read_entitlement(rows.row(at))
                    known[digest] = len(self.entitlements)
                    self.entitlements.append(
                        GatheredEntitlement(
                            digest, share(payer, payer), share(content, content), *numbers
                        )
                    )
        return [known[digest] for digest in digests]

    def _places_of_payees(
        self, check: BundleCheck, keys: Sequence[bytes], flags: Sequence[int]
    ) -> Sequence[int]:
        account = check.payee_account
        if keys.count(keys[0]) == len(keys) and flags.count(flags[0]) == len(flags):
            place = self._place_of_payee(GatheredPayee(keys[0], account, bool(flags[0])))
            return [place] * len(keys)
        return [
            self._place_of_payee(GatheredPayee(key, account, bool(flag)))
            for key, flag in zip(keys, flags, strict=True)
        ]

    def _place_of_payee(self, payee: GatheredPayee) -> int:
        place = self._payee_places.setdefault(payee, len(self.payees))
        if place == len(self.payees):
            self.payees.append(payee)
        return place


def _selected(rows: ReceiptRows, selected: Sequence[bool], *, is_all: bool) -> Iterable[bytes]:
    digests = rows.lane_digests()
    return digests if is_all else compress(digests, selected)


def gather_checks(checks: Sequence[BundleCheck]) -> GatheredChecks:
    """Return the bundles of a seal gathered; themselves if they are already.

    Raises:
        ValueError: One is not framed.
    """
    if isinstance(checks, GatheredChecks):
        return checks
    gathered = GatheredChecks(checks.__getitem__)
    for check in checks:
        gathered.add(check)
    return gathered
