"""Contract calls: what they move nobody tells; where they are ours the books stop."""

import base64
from collections.abc import Callable
from typing import Any

import book_builders
import builders
import pytest
from network_transactions import (
    ALICE,
    BOB,
    PASSPHRASE,
    builder,
    done,
    envelope_of,
    fact_of,
    key,
    read,
    success,
)
from stellar_sdk import Keypair, TransactionBuilder

from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.xdr import MalformedXdrError
from ledger.books.draft import Draft
from ledger.books.errors import UnknownTransactionError
from ledger.books.folding import fold_transactions

Make = Callable[[TransactionBuilder], Any]

CONTRACTS: dict[str, Make] = {
    "invoke": lambda b: b.append_invoke_contract_function_op(CONTRACT, "transfer"),
    "extend": lambda b: b.append_extend_footprint_ttl_op(5),
    "restore": lambda b: b.append_restore_footprint_op(),
}
CONTRACT = "CA7QYNF7SOWQ3GLR2BGMZEHXAVIRZA4KVWLTJJFC7MGXUA74P7UJUWDA"


CONTRACT_RESULTS = {"invoke": (24, bytes(32)), "extend": (25, b""), "restore": (26, b"")}


def contract_call(name: str) -> TransactionBuilder:
    made = builder()
    CONTRACTS[name](made)
    return made.add_hash_memo(b"\x07" * 32)


@pytest.mark.parametrize("name", CONTRACTS)
def test_contract_moves_what_nobody_tells(name: str) -> None:
    kind, body = CONTRACT_RESULTS[name]
    transaction = read(contract_call(name), done(kind, body))
    assert [(m.source, m.is_exact) for m in transaction.movements] == [(key(ALICE), False)]
    assert transaction.memo_hash == b"\x07" * 32


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("signers", [0, 1, 3])
def test_contract_in_a_fee_bump_is_named_by_its_inner_hash(name: str, signers: int) -> None:
    inner = envelope_of(contract_call(name))
    for number in range(signers):
        inner.sign(Keypair.from_raw_ed25519_seed(builders.seed_of(f"signer {number}")))
    bump = TransactionBuilder.build_fee_bump_transaction(BOB, 500, inner, PASSPHRASE)
    bump.sign(BOB)
    kind, body = CONTRACT_RESULTS[name]
    result = success(done(kind, body))
    told = (600).to_bytes(8, "big") + (1).to_bytes(4, "big") + inner.hash() + result + bytes(4)
    transaction = read_transaction(fact_of(bump.to_xdr(), told))
    assert (transaction.tx_hash, transaction.fee_account) == (inner.hash(), key(BOB))


def test_contract_of_ours_stops_the_books_and_a_strangers_does_not() -> None:
    transaction = read(contract_call("invoke"), done(*CONTRACT_RESULTS["invoke"]))
    draft = Draft.of(book_builders.genesis())
    fold_transactions(draft, builders.terms(), [transaction])
    assert draft.entries == []
    with pytest.raises(UnknownTransactionError, match="conversion"):
        fold_transactions(draft, builders.terms(escrow_account=key(ALICE)), [transaction])


def test_contract_beside_another_operation_is_refused() -> None:
    made = contract_call("extend").append_bump_sequence_op(99)
    results = success(done(25), done(11))
    with pytest.raises(MalformedXdrError):
        read_transaction(fact_of(envelope_of(made).to_xdr(), results))


def test_contract_without_signatures_at_the_end_is_refused() -> None:
    envelope = base64.b64decode(envelope_of(contract_call("extend")).to_xdr()) + b"\xff" * 1500
    text = base64.b64encode(envelope).decode()
    with pytest.raises(MalformedXdrError, match="signatures"):
        read_transaction(fact_of(text, success(done(25))))
