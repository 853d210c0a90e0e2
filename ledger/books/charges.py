"""Charges: judged lanes through the contract, and its answer in the books' words.

The contract sees sealed lanes, its own part of the opening state and the terms' prices, nothing
else; `contracts.settlement` refuses whatever it returns that cannot be right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts import settlement as contract
from contracts.registry import Rule
from ledger.books.lanes import JudgedLane, Lanes
from ledger.books.state import CapUse, Cumulative, CumulativeKey, State
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.terms import Terms

_SOURCES = (contract.LaneSource.P2P, contract.LaneSource.CDN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What the contract decided about an epoch."""

    lanes: Lanes
    """The lanes it saw, in order."""

    outcomes: contract.LaneOutcomes
    """One per lane."""

    charges: tuple[contract.Charge, ...]
    """What the epoch adds, by payer, payee, source and price version."""

    cap_use: Mapping[bytes, CapUse]
    """Closing cap use."""

    cumulative: Mapping[CumulativeKey, Cumulative]
    """Closing cumulative totals."""

    steps: int
    """Steps the contract took."""


def run_contract(
    rule: Rule, terms: Terms, lanes: Sequence[JudgedLane], opening: State
) -> Settlement:
    """Run the contract on judged lanes.

    Raises:
        SettlementError: What goes in or comes out cannot be right.
        LanguageError: The contract fails or exceeds its bounds.
    """
    columns = Lanes.of(lanes)
    result = contract.settle(
        rule,
        _lane_columns(columns),
        _parameters(terms),
        _contract_state(opening),
    )
    known = {
        **{digest: (use.last_epoch, use.max_bytes) for digest, use in opening.cap_use.items()},
        **{one.digest: (one.last_epoch, one.max_bytes) for one in columns.entitlements},
    }
    return Settlement(
        lanes=columns,
        outcomes=result.outcomes,
        charges=result.charges,
        cap_use={
            row.entitlement: CapUse(
                credited_bytes=row.credited_bytes,
                media_ms=row.media_ms,
                last_epoch=known[row.entitlement][0],
                max_bytes=known[row.entitlement][1],
            )
            for row in result.closing.cap_use
        },
        cumulative={
            (row.payer, row.payee, _SOURCES.index(row.source), row.price_version): Cumulative(
                bytes_total=row.total_bytes,
                charge_stroops=row.charge_stroops,
                fee_stroops=row.fee_stroops,
            )
            for row in result.closing.cumulative
        },
        steps=result.steps,
    )


def _lane_columns(lanes: Lanes) -> contract.LaneColumns:
    entitlements, payees = lanes.entitlements, lanes.payees
    return contract.LaneColumns(
        entitlements=[entitlement.digest for entitlement in entitlements],
        payers=[entitlement.payer_account for entitlement in entitlements],
        payees=[b"" if payee.account == ZERO_KEY else payee.account for payee in payees],
        payee_keys=[payee.key for payee in payees],
        contents=[entitlement.content_id for entitlement in entitlements],
        are_cdn=[payee.is_cdn for payee in payees],
        received_bytes=list(lanes.bytes_new()),
        media_ms=lanes.numbers.media_ms_totals,
        max_bytes=[entitlement.max_bytes for entitlement in entitlements],
        max_media_ms=[entitlement.max_media_ms for entitlement in entitlements],
    )


def _parameters(terms: Terms) -> contract.Parameters:
    return contract.Parameters(
        price_version=terms.price_version,
        price_stroops=terms.price_stroops,
        price_quantity_bytes=terms.price_quantity_bytes,
        fee_ppm=terms.fee_ppm,
        cdn_prices={
            cdn.key: (cdn.price_stroops, cdn.price_quantity_bytes)
            for cdn in terms.cdns
            if cdn.account != ZERO_KEY
        },
    )


def _contract_state(opening: State) -> contract.ContractState:
    return contract.ContractState(
        cap_use=tuple(
            contract.CapUse(
                entitlement=digest, credited_bytes=use.credited_bytes, media_ms=use.media_ms
            )
            for digest, use in sorted(opening.cap_use.items())
        ),
        cumulative=tuple(
            sorted(
                (
                    contract.CumulativeRow(
                        payer=payer,
                        payee=payee,
                        source=_SOURCES[source],
                        price_version=version,
                        total_bytes=total.bytes_total,
                        charge_stroops=total.charge_stroops,
                        fee_stroops=total.fee_stroops,
                    )
                    for (payer, payee, source, version), total in opening.cumulative.items()
                ),
                # The contract orders sources by name, "cdn" before "p2p"; the state by number.
                key=lambda row: row.key,
            )
        ),
    )
