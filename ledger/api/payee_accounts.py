"""What a payee sees of its own account: what is owed, what waits and why, what was paid.

Read from the closing state of the newest computed epoch and from statements, the same rows that are
sealed and audited; nothing here is computed that an auditor could not compute.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, Final

from ledger.api.answers import RefusedError
from ledger.audit.address import format_account
from ledger.books.standing import CarryReason, Standing
from ledger.books.state import OpenBatch, PayeeBalance, State
from ledger.books.statements import StatementLine, parse_statements
from ledger.evidence.encoding import ZERO_KEY
from ledger.evidence.leaf import PAYOUT_PAYMENTS
from ledger.evidence.terms import Terms
from ledger.store.engine import Session
from ledger.store.epoch_store import find_result, load_closing_state
from ledger.store.instruction_store import newest_computed_epoch
from ledger.store.shard_store import Shard, terms_in_force

STATEMENT_EPOCHS_MAX: Final = 96
"""Most epochs of one statement."""

_RESULTS_KEPT: Final = 8


@dataclass(slots=True)
class PayeeAccounts:
    """Answers payees; keeps the newest state of each broadcaster in memory."""

    _states: dict[int, tuple[int, State, "PayeeIndex"]] = field(default_factory=dict)
    """Broadcaster's number → newest computed epoch, its closing state, and what is whose in it."""

    _lock: Lock = field(default_factory=Lock)

    def describe(self, session: Session, shard: Shard, account: bytes) -> dict[str, Any]:
        """Return an account's balances, what waits for what, and where it is paid.

        Raises:
            RefusedError: 404, no epoch is computed yet or nothing was ever owed to it.
        """
        epoch, state, index = self._newest(session, shard)
        balance = state.payees.get(account)
        if balance is None:
            raise RefusedError(
                404, "no_payee", field="account", got=format_account(account), want="a payee"
            )
        terms = terms_in_force(session, shard, epoch).value
        return {
            "broadcaster": format_account(shard.account),
            "account": format_account(account),
            "asset": f"{terms.asset_code}:{format_account(terms.asset_issuer)}",
            "epoch": epoch,
            "threshold_stroops": terms.payout_threshold_stroops,
            "cash_out_least_stroops": terms.cash_out_least_stroops,
            **_amounts(index, balance, account, terms),
            "reason": self._reason(session, shard, epoch, account),
            **_address(state.standing.get(account, Standing()), account),
        }

    def statement(
        self, session: Session, shard: Shard, account: bytes, *, first: int, last: int
    ) -> list[dict[str, Any]]:
        """Return an account's lines of the computed epochs from first to last.

        Raises:
            RefusedError: 422, more than `STATEMENT_EPOCHS_MAX` epochs; 404, none is computed yet.
        """
        if not first <= last < first + STATEMENT_EPOCHS_MAX:
            raise RefusedError(
                422,
                "too_many_epochs",
                field="last",
                got=last,
                want=f"first to first + {STATEMENT_EPOCHS_MAX - 1}",
            )
        newest, state, _ = self._newest(session, shard)
        if account not in state.payees:
            return []  # nobody but payees makes the operator read whole epochs
        found: list[dict[str, Any]] = []
        for epoch in range(first, min(last, newest) + 1):
            result = find_result(session, shard, epoch)
            line = None if result is None else _lines_of(result.statements).get(account)
            if line is not None:
                found.append({"epoch": epoch, **_line(line)})
        return found

    def _newest(self, session: Session, shard: Shard) -> tuple[int, State, "PayeeIndex"]:
        epoch = newest_computed_epoch(session, shard)
        if epoch is None:
            raise RefusedError(404, "no_payee", field="epoch", got="none", want="a computed epoch")
        with self._lock:
            known = self._states.get(shard.id)
            if known is None or known[0] != epoch:
                state = load_closing_state(session, shard, epoch)
                if state is None:
                    raise AssertionError(f"epoch {epoch}: computed without a closing state")
                known = self._states[shard.id] = (epoch, state, PayeeIndex.of(state))
        return known

    @staticmethod
    def _reason(session: Session, shard: Shard, epoch: int, account: bytes) -> str:
        """Why money is carried, from the newest line; payees that rest have none in each epoch."""
        result = find_result(session, shard, epoch)
        line = None if result is None else _lines_of(result.statements).get(account)
        return "" if line is None else CarryReason(line.reason).name.lower()


@lru_cache(maxsize=_RESULTS_KEPT)
def _lines_of(statements: bytes) -> dict[bytes, StatementLine]:
    return {line.subject: line for line in parse_statements(statements)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeIndex:
    """Whose the rows of a state are that wait: read once an epoch, however many payees ask."""

    maturing: dict[bytes, list[tuple[int, int]]]
    """Payee → (close time from which it may be paid, stroops), the earliest first."""

    payments: dict[bytes, list[dict[str, Any]]]
    """Payee → what undecided batches would pay it, by batch, as it is told."""

    @classmethod
    def of(cls, state: State) -> "PayeeIndex":
        """Return the index of a state."""
        maturing: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)
        for (payee, from_s), stroops in state.maturing.items():
            maturing[payee].append((from_s, stroops))
        payments: defaultdict[bytes, list[tuple[OpenBatch, int, int]]] = defaultdict(list)
        for number, batch in state.batches.items():
            if batch.kind == PAYOUT_PAYMENTS:
                for place in range(len(batch.payments)):
                    payments[batch.payee_at(place)].append((batch, number, place))
        return cls(
            maturing={payee: sorted(rows) for payee, rows in maturing.items()},
            payments={payee: _described(rows) for payee, rows in payments.items()},
        )


def _described(rows: list[tuple[OpenBatch, int, int]]) -> list[dict[str, Any]]:
    return [
        {
            "batch": number,
            "stroops": batch.payments[place].amount_stroops,
            "channel": format_account(batch.channel_account),
            "sequence": batch.channel_sequence,
        }
        for batch, number, place in sorted(rows, key=lambda row: row[1:])
    ]


def _amounts(
    index: PayeeIndex, balance: PayeeBalance, account: bytes, terms: Terms
) -> dict[str, Any]:
    waiting = index.maturing.get(account, [])
    in_challenge: list[dict[str, Any]] = [
        {"stroops": stroops, "payable_from_s": from_s} for from_s, stroops in waiting
    ]
    under_way = index.payments.get(account, [])
    waiting_stroops = sum(stroops for _, stroops in waiting)
    under_way_stroops = sum(payment["stroops"] for payment in under_way)
    open_stroops = balance.owed_stroops - waiting_stroops - under_way_stroops
    return {
        "accrued_stroops": balance.accrued_stroops,
        "paid_stroops": balance.paid_stroops,
        "owed_stroops": balance.owed_stroops,
        "payable_stroops": max(0, open_stroops),
        "in_challenge": in_challenge,
        "under_way": under_way,
        "challenge_window_s": terms.challenge_window_s,
    }


def _address(standing: Standing, account: bytes) -> dict[str, Any]:
    is_changing = standing.next_pay_to != ZERO_KEY
    return {
        "pay_to": format_account(account if standing.pay_to == ZERO_KEY else standing.pay_to),
        "next_pay_to": format_account(standing.next_pay_to) if is_changing else None,
        "next_pay_to_from_s": standing.next_from_s if is_changing else None,
        "cash_out_asked": standing.cash_out_open,
    }


def _line(line: StatementLine) -> dict[str, Any]:
    return {
        "bytes_p2p": line.bytes_p2p,
        "bytes_cdn": line.bytes_cdn,
        "charge_stroops": line.charge_stroops,
        "fee_stroops": line.fee_stroops,
        "opening_stroops": line.opening_stroops,
        "accrued_stroops": line.accrued_stroops,
        "paid_stroops": line.paid_stroops,
        "closing_stroops": line.closing_stroops,
        "reason": CarryReason(line.reason).name.lower(),
    }
