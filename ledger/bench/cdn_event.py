"""A simulated event: viewers of a hybrid delivery, three CDNs, their logs and invoices, the truth.

Every fault is put in on purpose and counted: lines logged twice, late, lost or in conflict, answers
that viewers left, viewers that sign nothing, traffic between the CDN's own servers, headers beside
every body, and one invoice that bills too much. What a reader of logs and signatures finds can then
be held against what happened. The same seed makes the same bytes.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote
from uuid import UUID

from ledger.books.invoices import Invoice
from ledger.books.reconciliation import KnownSession, SignedKey
from ledger.cdnlogs.contents import Contents
from ledger.cdnlogs.timestamps import DAY_MS

EVENT_START_MS: Final = 20_500 * DAY_MS + 22 * 3_600_000
"""An evening at 22:00 UTC; the event lasts until after midnight."""

EVENT_LENGTH_MS: Final = 3 * 3_600_000
EPOCH_MS: Final = 300_000
LINES_PER_FILE: Final = 50_000
PPM: Final = 1_000_000

CDNS: Final = {"aurora.example": "cloudfront", "borealis.example": "cloudflare",
               "cirrus.example": "nginx"}  # fmt: skip
CONTENT_IDS: Final = tuple(bytes([number]) * 32 for number in (1, 2, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFaults:
    """How much of what goes wrong, in parts per million of the deliveries unless said otherwise."""

    duplicate_ppm: int = 5_000
    late_ppm: int = 10_000
    lost_ppm: int = 3_000
    header_ppm: int = 20_000
    """Header bytes beside body bytes."""

    aborted_ppm: int = 2_000
    conflict_ppm: int = 100
    unknown_viewer_ppm: int = 30_000
    """Of the viewers: those that sign nothing."""

    midgress_ppm: int = 2_000
    inflated_ppm: int = 10_000
    """How much one invoice bills too much."""


@dataclass(slots=True, kw_only=True)
class CdnTruth:
    """What one CDN really did, and what its log hides; payload bytes unless said otherwise."""

    delivered_bytes: int = 0
    """Bodies sent to viewers: what a log that loses and repeats nothing would show."""

    total_bytes: int = 0
    """The same with headers: what an honest invoice bills."""

    lines: int = 0
    """In all files, repeats and others included."""

    by_cause: Counter[str] = field(default_factory=Counter)
    """Bytes by cause: duplicate, late, lost, conflict, aborted, unknown_session, headers,
    midgress."""


@dataclass(slots=True, kw_only=True)
class CdnEvent:
    """One CDN's part of the event."""

    cdn: str
    format_name: str
    files: list[bytes]
    """Gzip, in time."""

    late_files: list[bytes]
    """Gzip, after the days were closed."""

    invoice: Invoice
    truth: CdnTruth


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    request_id: str
    sid: UUID
    content: int
    end_ms: int
    sent_bytes: int
    body_bytes: int
    """Of the whole answer."""

    header_bytes: int

    @property
    def is_aborted(self) -> bool:
        return self.sent_bytes < self.body_bytes


class SimulatedEvent:
    """Makes the event, one CDN at a time, so that one CDN's log is in memory at most."""

    def __init__(self, *, viewers: int, seed: int, faults: EventFaults) -> None:
        """Prepare an event.

        Args:
            viewers: ≥ 1.
            seed: Any integer.
            faults: What goes wrong.
        """
        self._viewers = viewers
        self._seed = seed
        self._faults = faults
        rng = random.Random(f"{seed}/event")  # noqa: S311 - a simulation, no secret
        self.inflated_cdn = rng.choice(sorted(CDNS))
        self.signed: dict[SignedKey, int] = {}
        """What viewers signed; grows with every CDN that is made."""

        self.sessions: dict[bytes, KnownSession] = {}
        self._sids = [UUID(int=rng.getrandbits(128)) for _ in range(viewers)]
        self._signs = [rng.randrange(PPM) >= faults.unknown_viewer_ppm for _ in range(viewers)]
        self._content_of = [rng.randrange(len(CONTENT_IDS)) for _ in range(viewers)]
        for number, sid in enumerate(self._sids):
            if self._signs[number]:
                self.sessions[sid.bytes] = KnownSession(
                    session=self._session(number),
                    content_id=CONTENT_IDS[self._content_of[number]],
                )
        self.contents = Contents.of(
            {f"/event/{place}/": content for place, content in enumerate(CONTENT_IDS)}
        )

    @staticmethod
    def _session(number: int) -> bytes:
        return number.to_bytes(32, "big")

    def make_cdn(self, cdn: str) -> CdnEvent:
        """Make one CDN's log and invoice, and what viewers sign for it."""
        rng = random.Random(f"{self._seed}/{cdn}")  # noqa: S311 - a simulation, no secret
        truth = CdnTruth()
        lines: list[str] = []
        late: list[str] = []
        for number in range(self._viewers):
            for answer in self._answers(rng, number):
                self._log(rng, cdn, number, answer, truth, lines, late)
        rng.shuffle(lines)
        header = _HEADERS.get(CDNS[cdn], "")
        truth.lines = len(lines) + len(late)
        return CdnEvent(
            cdn=cdn,
            format_name=CDNS[cdn],
            files=list(_files(header, lines)),
            late_files=list(_files(header, late)),
            invoice=self._invoice(cdn, truth),
            truth=truth,
        )

    def _answers(self, rng: random.Random, number: int) -> Iterator[_Answer]:
        """Yield what a CDN sends to one viewer: an answer that was left is asked for again."""
        faults = self._faults
        for _ in range(rng.choice((0, 1, 2, 2, 3, 4))):
            body_bytes = rng.randrange(200_000, 4_000_000)
            end_ms = EVENT_START_MS + rng.randrange(EVENT_LENGTH_MS)
            spread = rng.randrange(-100, 101)
            header_bytes = body_bytes * faults.header_ppm // PPM + spread
            is_left = rng.randrange(PPM) < faults.aborted_ppm
            for sent_bytes in ([rng.randrange(body_bytes)] if is_left else []) + [body_bytes]:
                yield _Answer(
                    request_id=f"{rng.getrandbits(96):024x}",
                    sid=self._sids[number],
                    content=self._content_of[number],
                    end_ms=end_ms,
                    sent_bytes=sent_bytes,
                    body_bytes=body_bytes,
                    header_bytes=header_bytes,
                )

    def _log(
        self,
        rng: random.Random,
        cdn: str,
        number: int,
        answer: _Answer,
        truth: CdnTruth,
        lines: list[str],
        late: list[str],
    ) -> None:
        """Let a viewer sign for an answer, and the CDN's log say of it what it says."""
        faults, size = self._faults, answer.sent_bytes
        truth.delivered_bytes += size
        truth.total_bytes += size + answer.header_bytes
        truth.by_cause["headers"] += answer.header_bytes
        if not self._signs[number]:
            truth.by_cause["unknown_session"] += size
        elif answer.is_aborted:
            truth.by_cause["aborted"] += size
        else:
            epoch_start_ms = answer.end_ms // EPOCH_MS * EPOCH_MS - EPOCH_MS
            key = SignedKey(
                cdn=cdn,
                content_id=CONTENT_IDS[answer.content],
                session=self._session(number),
                day=epoch_start_ms // DAY_MS,
            )
            self.signed[key] = self.signed.get(key, 0) + size
        line = _WRITERS[CDNS[cdn]](cdn, answer)
        fate = rng.randrange(PPM)
        if fate < faults.lost_ppm:
            truth.by_cause["lost"] += size
            return
        if (fate := fate - faults.lost_ppm) < faults.late_ppm:
            truth.by_cause["late"] += size
            late.append(line)
            return
        lines.append(line)
        if (fate := fate - faults.late_ppm) < faults.duplicate_ppm:
            truth.by_cause["duplicate"] += size
            lines.append(line)
        elif (fate := fate - faults.duplicate_ppm) < faults.conflict_ppm:
            truth.by_cause["conflict"] += size
            lines.append(line.replace("/event/", "/Event/", 1))
        elif fate - faults.conflict_ppm < faults.midgress_ppm and CDNS[cdn] == "cloudflare":
            truth.by_cause["midgress"] += size + answer.header_bytes
            inner = line.replace('"ParentRayID": "00"', '"ParentRayID": "7a"')
            lines.append(inner.replace(answer.request_id, f"{rng.getrandbits(96):024x}"))

    def _invoice(self, cdn: str, truth: CdnTruth) -> Invoice:
        billed = truth.total_bytes
        if cdn == self.inflated_cdn:
            billed += billed * self._faults.inflated_ppm // PPM
        unit = "GiB" if CDNS[cdn] == "nginx" else "GB"
        size = 1 << 30 if unit == "GiB" else 10**9
        millionths = (2 * billed * 10**6 + size) // (2 * size)
        first_day = EVENT_START_MS // DAY_MS
        return Invoice(
            cdn=cdn,
            number=f"{cdn}/{self._seed}",
            first_day=first_day - 1,
            last_day=first_day + 1,
            quantity=f"{millionths // 10**6}.{millionths % 10**6:06d}",
            unit=unit,
        )


def _files(header: str, lines: list[str]) -> Iterator[bytes]:
    for begin in range(0, len(lines), LINES_PER_FILE):
        text = header + "".join(lines[begin : begin + LINES_PER_FILE])
        yield gzip.compress(text.encode(), compresslevel=1, mtime=0)


def _query(answer: _Answer) -> str:
    return "CMCD=" + quote(f'ot=v,sid="{answer.sid}"', safe="")


def _path(answer: _Answer) -> str:
    return f"/event/{answer.content}/{answer.request_id[:6]}.ts"


_CLOUDFRONT_COLUMNS: Final = (
    "date time sc-bytes cs-method x-host-header cs-uri-stem sc-status cs-uri-query"
    " x-edge-request-id x-edge-detailed-result-type sc-content-len"
)


def _write_cloudfront(cdn: str, answer: _Answer) -> str:
    when = datetime.fromtimestamp(answer.end_ms // 1000, UTC)
    return (
        f"{when:%Y-%m-%d\t%H:%M:%S}\t{answer.sent_bytes + answer.header_bytes}\tGET\t{cdn}\t"
        f"{_path(answer)}\t{'000' if answer.is_aborted else '206'}\t{_query(answer)}\t"
        f"{answer.request_id}\t{'ClientCommError' if answer.is_aborted else 'Hit'}\t"
        f"{answer.body_bytes}\n"
    )


def _write_cloudflare(cdn: str, answer: _Answer) -> str:
    row = {
        "RayID": answer.request_id,
        "ParentRayID": "00",
        "EdgeEndTimestamp": answer.end_ms * 10**6,
        "ClientRequestHost": cdn,
        "ClientRequestMethod": "GET",
        "ClientRequestURI": f"{_path(answer)}?{_query(answer)}",
        "EdgeResponseStatus": 499 if answer.is_aborted else 206,
        "EdgeResponseBodyBytes": answer.sent_bytes,
        "EdgeResponseBytes": answer.sent_bytes + answer.header_bytes,
    }
    return json.dumps(row) + "\n"


def _write_nginx(cdn: str, answer: _Answer) -> str:
    when = datetime.fromtimestamp(answer.end_ms // 1000, UTC)
    return (
        f"198.51.100.7 - - [{when:%d/%b/%Y:%H:%M:%S} +0000] "
        f'"GET {_path(answer)}?{_query(answer)} HTTP/1.1" 206 {answer.sent_bytes} "-" "player/1" '
        f"{answer.request_id} {answer.sent_bytes + answer.header_bytes} "
        f'"{"" if answer.is_aborted else "OK"}" {cdn}\n'
    )


_WRITERS: Final = {
    "cloudfront": _write_cloudfront,
    "cloudflare": _write_cloudflare,
    "nginx": _write_nginx,
}
_HEADERS: Final = {"cloudfront": f"#Version: 1.0\n#Fields: {_CLOUDFRONT_COLUMNS}\n"}
