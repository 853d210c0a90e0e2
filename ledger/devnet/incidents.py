"""Incidents: what happens at once on a network, done when it is asked for.

- `freeze`, `unfreeze`: validators freeze an account's key, or that of its trustline to `asset`
  (CAP-77), from the next network ledger on.
- `revoke`, `authorize`: the issuer takes an account's authorization for `asset` away, or gives it
  back, by a transaction that is queued.
- `clawback`: the issuer takes `stroops` of `asset` from an account, by a transaction.
- `lose_queue`: the queue is emptied now.
- `filter`: the node refuses transactions with operations of the types in `operations` from now on,
  by its own policy; an empty list ends that.

`account` is a G-address, `asset` CODE:ISSUER, `issuer_seed` the S-key of the issuer.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from stellar_sdk import Account as SdkAccount
from stellar_sdk import Asset, Keypair, TransactionBuilder
from stellar_sdk.exceptions import SdkError
from stellar_sdk.operation import Clawback, Operation, SetTrustLineFlags
from stellar_sdk.operation.set_trust_line_flags import TrustLineFlags

from ledger.devnet.codes import result_codes
from ledger.devnet.entries import account_key, trustline_key
from ledger.devnet.faults import FaultError, whole
from ledger.devnet.freezing import FreezeError
from ledger.devnet.network import Network, Status
from ledger.devnet.wire import INT64_MAX

_BID_FACTOR: Final = 100
_MAINTAIN: Final = TrustLineFlags.AUTHORIZED_TO_MAINTAIN_LIABILITIES_FLAG


def happen(network: Network, request: Mapping[str, Any]) -> None:
    """Let an incident happen, from its JSON form.

    Raises:
        FaultError: unknown kind, a value that cannot be, or the network refuses.
    """
    kind = request.get("kind")
    try:
        if kind == "lose_queue":
            network.queue.clear()
        elif kind == "freeze":
            network.freeze(_key_of(request))
        elif kind == "unfreeze":
            network.unfreeze(_key_of(request))
        elif kind == "filter":
            network.queue.filtered_kinds = _kinds(request)
        elif kind in ("revoke", "authorize", "clawback"):
            _issue(network, request, str(kind))
        else:
            raise FaultError(f"kind: got {kind!r}, want a known incident")
    except (FreezeError, SdkError, ValueError) as error:
        raise FaultError(str(error)) from error


def _kinds(request: Mapping[str, Any]) -> frozenset[int]:
    values = request.get("operations")
    if not isinstance(values, list) or any(type(v) is not int or v < 0 for v in values):
        raise FaultError(f"operations: got {values!r:.80}, want a list of operation types")
    return frozenset(values)


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise FaultError(f"{name}: got {value!r}, want text")
    return value


def _asset(request: Mapping[str, Any]) -> Asset:
    text = _text(request, "asset")
    code, _, issuer = text.partition(":")
    try:
        return Asset(code, issuer)
    except (SdkError, ValueError) as error:
        raise FaultError(f"asset: got {text!r:.80}, want CODE:ISSUER") from error


def _key_of(request: Mapping[str, Any]) -> bytes:
    account = Keypair.from_public_key(_text(request, "account")).raw_public_key()
    if "asset" not in request:
        return account_key(account)
    return trustline_key(account, _asset(request).to_xdr_object().to_xdr_bytes())


def _issue(network: Network, request: Mapping[str, Any], kind: str) -> None:
    issuer = Keypair.from_secret(_text(request, "issuer_seed"))
    account, asset = _text(request, "account"), _asset(request)
    operation: Operation
    if kind == "clawback":
        stroops = whole(request, "stroops", 0, 1, INT64_MAX)
        amount = f"{stroops // 10_000_000}.{stroops % 10_000_000:07d}"
        operation = Clawback(asset=asset, from_=account, amount=amount)
    elif kind == "authorize":
        operation = SetTrustLineFlags(account, asset, set_flags=TrustLineFlags.AUTHORIZED_FLAG)
    else:
        gone = TrustLineFlags.AUTHORIZED_FLAG | _MAINTAIN
        operation = SetTrustLineFlags(account, asset, clear_flags=TrustLineFlags(gone))
    _submit(network, issuer, operation)


def _submit(network: Network, source: Keypair, operation: Operation) -> None:
    state = network.account(source.raw_public_key())
    if state is None:
        raise FaultError(f"issuer_seed: got {source.public_key}, want an account of the network")
    account = SdkAccount(source.public_key, state.sequence)
    bid = _BID_FACTOR * network.header.base_fee
    builder = TransactionBuilder(account, network.settings.passphrase, bid)
    envelope = builder.append_operation(operation).add_time_bounds(0, 0).build()
    envelope.sign(source)
    answer = network.submit(network.parse(base64.b64decode(envelope.to_xdr())))
    if answer.status is not Status.PENDING:
        codes = result_codes(answer.result) if answer.result else {}
        raise FaultError(f"transaction: got {answer.status.value} {codes}, want it queued")
