"""Which accounts a transaction concerns, for the listings by account."""

from __future__ import annotations

from stellar_sdk import xdr

from ledger.devnet.envelope import Transaction, account_key_of, muxed_key


def participants(tx: Transaction) -> frozenset[bytes]:
    """Sources, fee source, and everyone an operation names."""
    found = {tx.source, tx.fee_source}
    for operation in tx.operations:
        if operation.source is not None:
            found.add(operation.source)
        found |= _named(operation.body)
    return frozenset(found)


def _named(body: xdr.OperationBody) -> set[bytes]:
    muxed: list[xdr.MuxedAccount] = []
    plain: list[xdr.AccountID] = []
    if body.create_account_op is not None:
        plain.append(body.create_account_op.destination)
    if body.payment_op is not None:
        muxed.append(body.payment_op.destination)
    if body.path_payment_strict_receive_op is not None:
        muxed.append(body.path_payment_strict_receive_op.destination)
    if body.path_payment_strict_send_op is not None:
        muxed.append(body.path_payment_strict_send_op.destination)
    if body.destination is not None:
        muxed.append(body.destination)
    if body.allow_trust_op is not None:
        plain.append(body.allow_trust_op.trustor)
    if body.set_trust_line_flags_op is not None:
        plain.append(body.set_trust_line_flags_op.trustor)
    if body.clawback_op is not None:
        muxed.append(body.clawback_op.from_)
    if body.begin_sponsoring_future_reserves_op is not None:
        plain.append(body.begin_sponsoring_future_reserves_op.sponsored_id)
    if body.create_claimable_balance_op is not None:
        claimants = body.create_claimable_balance_op.claimants
        plain += [c.v0.destination for c in claimants if c.v0 is not None]
    return {muxed_key(m) for m in muxed} | {account_key_of(a) for a in plain}
