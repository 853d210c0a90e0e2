"""Outlook: what every source says the newest ledger is, held against what it said before.

Each source has a high-water mark in the database that only rises. A source below its own mark is
a replica that lags: others are asked first, and nothing is concluded from what it lacks. The ledger
of the mark must still be in the chain with its close time, tick after tick, so from the first mark
on a changed history is noticed, such as a test network that began anew under the same passphrase.
Sources whose newest ledgers closed too far apart are not believed to see the same network now. No
clock of this machine is asked: all times are ledgers' close times.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.stellar.domain import SettlementDomain
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import Gateway, NetworkLedger
from ledger.store import source_store
from ledger.store.engine import SessionFactory
from ledger.store.settlement_store import LedgerPoint

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the sources say now."""

    gateways: tuple[Gateway, ...]
    """All of them; those that lag behind what they once said last. The first is read from."""

    latest: NetworkLedger
    """Newest closed ledger of the first one."""

    closed: NetworkLedger
    """What as many sources have closed as must agree: the least number and time they tell."""

    apart_s: int
    """Seconds between the newest closes of the sources that answered."""

    looks: int
    """How often the first one was asked since it told a newer ledger."""

    contradiction: str
    """How the network contradicts its own past; empty if it does not."""

    marks: dict[str, LedgerPoint]
    """Source → the newest closed ledger it ever told."""

    @property
    def primary(self) -> Gateway:
        """The source that is read from and submitted to."""
        return self.gateways[0]


def look(
    sessions: SessionFactory, gateways: Sequence[Gateway], domain: SettlementDomain
) -> Outlook:
    """Ask every source for its newest ledger, and raise the marks in one commit.

    Raises:
        GatewayError: Fewer sources answered than must agree.
    """
    with sessions() as session:
        marks = source_store.load_marks(session, domain.broadcaster)
    current: list[tuple[Gateway, NetworkLedger]] = []
    behind: list[tuple[Gateway, NetworkLedger]] = []
    contradiction, problems = "", []
    for gateway in gateways:
        try:
            latest = gateway.latest_ledger()
            is_behind, found = _compare(gateway, latest, marks.get(gateway.name))
        except GatewayError as error:
            problems.append(str(error))
            continue
        contradiction = contradiction or found
        (behind if is_behind else current).append((gateway, latest))
    for gateway, latest in behind:
        _log.warning("source %s: got ledger %d, older than before", gateway.name, latest.sequence)
    told = [*current, *behind]
    if len(told) < max(1, domain.policy.evidence_sources):
        raise GatewayError("; ".join(problems))
    points = {
        gateway.name: LedgerPoint(sequence=latest.sequence, close_time_s=latest.close_time_s)
        for gateway, latest in told
    }
    looks: dict[str, int] = {}
    if not contradiction:
        with sessions.begin() as session:
            looks = source_store.raise_marks(session, domain.broadcaster, points)
        for name, point in points.items():
            marks[name] = max(marks.get(name, point), point, key=_sequence_of)
    close_times = [latest.close_time_s for _, latest in told]
    agreeing = told[: max(1, domain.policy.evidence_sources)]
    return Outlook(
        gateways=tuple(gateway for gateway, _ in told),
        latest=told[0][1],
        closed=NetworkLedger(
            sequence=min(latest.sequence for _, latest in agreeing),
            close_time_s=min(latest.close_time_s for _, latest in agreeing),
        ),
        apart_s=max(close_times) - min(close_times),
        looks=looks.get(told[0][0].name, 0),
        contradiction=contradiction,
        marks=marks,
    )


def _sequence_of(point: LedgerPoint) -> int:
    return point.sequence


def _compare(gateway: Gateway, latest: NetworkLedger, mark: LedgerPoint | None) -> tuple[bool, str]:
    """Tell whether a source lags behind its mark, and how it contradicts it."""
    if mark is None or (latest.sequence, latest.close_time_s) == (mark.sequence, mark.close_time_s):
        return False, ""
    if latest.sequence < mark.sequence:
        if latest.close_time_s <= mark.close_time_s:
            return True, ""
        then, close_time_s = latest.sequence, latest.close_time_s
        return True, (
            f"{gateway.name}: ledger {then} closed at {close_time_s}, "
            f"want it before ledger {mark.sequence}, which closed at {mark.close_time_s}"
        )
    known = gateway.ledger(mark.sequence) if latest.sequence > mark.sequence else latest
    if known is None:
        return True, ""  # it has lost its history, and is not believed to lack anything
    if known.close_time_s != mark.close_time_s:
        return True, (
            f"{gateway.name}: ledger {mark.sequence} closed at {known.close_time_s}, "
            f"want {mark.close_time_s} as it said before"
        )
    return False, ""
