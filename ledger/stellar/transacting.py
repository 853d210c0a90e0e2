"""Transactions that people start: built, sent, and followed until a ledger decided them.

For set-up, deposits and tests only. Payouts and anchors never pass here: they need their envelopes
on disk before they are sent (`ledger.stellar.settlement`).
"""

import time
from collections.abc import Sequence
from typing import Final, TypeAlias

from stellar_sdk import (
    Asset,
    LedgerBounds,
    MuxedAccount,
    Preconditions,
    TimeBounds,
    Transaction,
    TransactionEnvelope,
)
from stellar_sdk.operation import (
    AccountMerge,
    ChangeTrust,
    Clawback,
    CreateAccount,
    ManageData,
    Operation,
    PathPaymentStrictReceive,
    Payment,
    SetOptions,
    SetTrustLineFlags,
)
from stellar_sdk.operation.set_options import AuthorizationFlag
from stellar_sdk.operation.set_trust_line_flags import TrustLineFlags

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.evidence.keys import public_key_of
from ledger.evidence.units import format_stroops
from ledger.stellar.envelopes import SignedEnvelope, asset_of, sign_envelope
from ledger.stellar.errors import NotSubmittedError
from ledger.stellar.gateway import MEMO_REQUIRED, Gateway, SubmitStatus
from ledger.stellar.horizon import result_code_of
from ledger.stellar.signing import Demand, SeedSigner, Threshold

SIGNATURES_MAX: Final = 20
"""Most signatures of one Stellar envelope."""

OPERATIONS_MAX: Final = 100
"""Most operations of one Stellar transaction."""

FEE_BID_STROOPS: Final = 1_000
"""Bid per operation of set-up transactions."""

WINDOW_LEDGERS: Final = 60
WINDOW_S: Final = 300
_POLL_S: Final = 0.1

Step: TypeAlias = Operation
"""One operation of a transaction."""

Work = tuple[Sequence[Step], Sequence[bytes]]
"""Operations and the seeds that sign; the first seed's account is the transaction's source."""


def account_creation(source: bytes, account: bytes, start_stroops: int) -> Operation:
    """Return an operation that creates an account with XLM."""
    return CreateAccount(
        destination=format_account(account),
        starting_balance=format_stroops(start_stroops),
        source=format_account(source),
    )


def trust(account: bytes, asset: tuple[str, bytes], *, limit_stroops: int = 2**63 - 1) -> Operation:
    """Return an operation by which an account trusts an asset up to a limit; 0: no more."""
    return ChangeTrust(
        asset=Asset(asset[0], format_account(asset[1])),
        limit=format_stroops(limit_stroops),
        source=format_account(account),
    )


def account_merge(account: bytes, heir: bytes) -> Operation:
    """Return an operation that closes an account and gives its XLM to another."""
    return AccountMerge(destination=format_account(heir), source=format_account(account))


def memo_wish(account: bytes, *, is_wanted: bool) -> Operation:
    """Return an operation by which an account asks for memos, or no longer does (SEP-29)."""
    value = b"1" if is_wanted else None
    return ManageData(MEMO_REQUIRED.decode(), value, source=format_account(account))


def issuer_powers(issuer: bytes) -> Operation:
    """Return an operation by which an issuer can revoke and claw back what is trusted later."""
    revocable = AuthorizationFlag.AUTHORIZATION_REVOCABLE
    clawback_enabled = AuthorizationFlag.AUTHORIZATION_CLAWBACK_ENABLED
    return SetOptions(set_flags=revocable | clawback_enabled, source=format_account(issuer))


def authorization(holder: bytes, asset: tuple[str, bytes], *, is_given: bool) -> Operation:
    """Return an operation by which the issuer lets somebody hold its asset, or no longer."""
    flag = TrustLineFlags.AUTHORIZED_FLAG
    return SetTrustLineFlags(
        trustor=format_account(holder),
        asset=asset_of(*asset),
        set_flags=flag if is_given else None,
        clear_flags=None if is_given else flag,
        source=format_account(asset[1]),
    )


def clawback(holder: bytes, asset: tuple[str, bytes], amount_stroops: int) -> Operation:
    """Return an operation by which the issuer takes its asset from a holder (CAP-35)."""
    return Clawback(
        asset=asset_of(*asset),
        from_=format_account(holder),
        amount=format_stroops(amount_stroops),
        source=format_account(asset[1]),
    )


def path_payment(
    source: bytes, destination: bytes, asset: tuple[str, bytes], amount_stroops: int
) -> Operation:
    """Return a path payment that sends what it delivers: the same asset at both ends."""
    return PathPaymentStrictReceive(
        destination=format_account(destination),
        send_asset=asset_of(*asset),
        send_max=format_stroops(amount_stroops),
        dest_asset=asset_of(*asset),
        dest_amount=format_stroops(amount_stroops),
        path=[],
        source=format_account(source),
    )


def asset_payment(
    source: bytes, destination: bytes, asset: tuple[str, bytes], amount_stroops: int
) -> Operation:
    """Return a payment."""
    return Payment(
        destination=format_account(destination),
        asset=asset_of(*asset),
        amount=format_stroops(amount_stroops),
        source=format_account(source),
    )


class Transacting:
    """Builds, sends and follows transactions through one gateway."""

    def __init__(self, gateway: Gateway, passphrase: str) -> None:
        self._gateway = gateway
        self._passphrase = passphrase

    def apply_all(self, work: Sequence[Work]) -> list[bytes]:
        """Send transactions of different source accounts at once; wait until all are applied.

        Returns:
            Their hashes, in order.

        Raises:
            GatewayError: The network gave no usable answer; what was sent may be applied yet.
            NotSubmittedError: One was refused, failed or can no longer be applied.
        """
        envelopes = [self.sign(operations, seeds) for operations, seeds in work]
        self.follow(envelopes)
        return [envelope.tx_hash for envelope in envelopes]

    def follow(self, envelopes: Sequence[SignedEnvelope]) -> None:
        """Send signed transactions of different source accounts; wait until all are applied.

        Raises:
            GatewayError: The network gave no usable answer; what was sent may be applied yet.
            NotSubmittedError: One was refused, failed or can no longer be applied.
        """
        waiting = list(envelopes)
        sent_sequence = 0
        while waiting:
            latest = self._gateway.latest_ledger()
            if latest.sequence > sent_sequence:
                for envelope in waiting:
                    self._send(envelope)
                sent_sequence = latest.sequence
            waiting = [envelope for envelope in waiting if not self._is_applied(envelope)]
            for envelope in waiting:
                if envelope.bounds.passed_by(latest) and not self._is_applied(envelope):
                    raise NotSubmittedError(
                        f"transaction {envelope.tx_hash.hex()}: in no ledger up to its bounds"
                    )
            if waiting:
                time.sleep(_POLL_S)

    def sign(self, operations: Sequence[Operation], seeds: Sequence[bytes]) -> SignedEnvelope:
        """Return a transaction with the source account's next sequence number, signed.

        Raises:
            GatewayError: The network gave no usable answer.
            NotSubmittedError: The source account does not exist.
        """
        source = public_key_of(seeds[0])
        view = self._gateway.account(source)
        if view is None:
            raise NotSubmittedError(f"account {format_account(source)}: not on the network")
        latest = self._gateway.latest_ledger()
        transaction = Transaction(
            source=MuxedAccount(format_account(source)),
            sequence=view.sequence + 1,
            fee=FEE_BID_STROOPS * len(operations),
            operations=list(operations),
            preconditions=Preconditions(
                time_bounds=TimeBounds(0, latest.close_time_s + WINDOW_S),
                ledger_bounds=LedgerBounds(0, latest.sequence + WINDOW_LEDGERS),
            ),
            v1=True,
        )
        by_account = {public_key_of(seed): seed for seed in seeds}
        unsigned = TransactionEnvelope(transaction, self._passphrase)
        demands = [Demand(account=account, threshold=Threshold.HIGH) for account in by_account]
        return sign_envelope(unsigned, demands, SeedSigner(by_account))

    def _send(self, envelope: SignedEnvelope) -> None:
        answer = self._gateway.submit(envelope.envelope)
        # The sequence may be used up because the transaction is in a ledger already.
        if answer.status == SubmitStatus.REJECTED and not self._is_applied(envelope):
            raise NotSubmittedError(
                f"transaction {envelope.tx_hash.hex()}: refused with {answer.code}"
            )

    def _is_applied(self, envelope: SignedEnvelope) -> bool:
        fact = self._gateway.transaction(envelope.tx_hash)
        if fact is None:
            return False
        if not read_transaction(fact).succeeded:
            raise NotSubmittedError(
                f"transaction {envelope.tx_hash.hex()}: failed with {result_code_of(fact.result)}"
            )
        return True
