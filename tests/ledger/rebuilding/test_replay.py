"""Books computed again without the operator's database: the log's word, or a reason why not."""

from dataclasses import replace
from hashlib import sha256

import pytest
from simulated_operator import PASSPHRASE, address, key, keypair, seed
from stellar_sdk import Account, TransactionBuilder
from survivors import EPOCHS, Survivors, refund

from ledger.audit.errors import DisprovenError
from ledger.evidence.instruction_list import (
    format_instruction_list,
    instruction_list_path,
)
from ledger.evidence.terms import sign_terms
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.mirror import mirror_log
from ledger.publiclog.source import FolderSource
from ledger.publiclog.verification import verify_folder
from ledger.rebuilding.errors import EvidenceMissingError, RebuildError
from ledger.rebuilding.evidence import Evidence
from ledger.sealing.publishing import log_folder
from ledger.store.epoch_store import load_closing_state

pytestmark = pytest.mark.postgres


def test_every_state_and_payout_comes_out_as_the_log_says(survivors: Survivors) -> None:
    rebuilt = survivors.replay()
    assert [epoch.number for epoch in rebuilt] == list(range(EPOCHS))
    assert any(epoch.seal.corrections for epoch in rebuilt)
    with survivors.scene.sessions() as session:
        for epoch in rebuilt:
            stored = load_closing_state(session, survivors.scene.shard, epoch.number)
            assert epoch.closing == stored


def test_a_bundle_that_nobody_brings_is_named(survivors: Survivors) -> None:
    digest = min(survivors.evidence.bundles)
    del survivors.evidence.bundles[digest]
    with pytest.raises(EvidenceMissingError, match=digest.hex()):
        survivors.replay()


def test_terms_that_nobody_brings_are_named(survivors: Survivors) -> None:
    survivors.evidence.terms.clear()
    with pytest.raises(EvidenceMissingError, match="terms"):
        survivors.replay()


def test_a_chain_that_tells_less_or_other_things_is_noticed(survivors: Survivors) -> None:
    survivors.facts = survivors.facts[1:]
    with pytest.raises(RebuildError, match="that were sealed"):
        survivors.replay()


def test_a_forged_fact_does_not_fit_the_seal(survivors: Survivors) -> None:
    first = survivors.facts[0]
    survivors.facts = (replace(first, close_time_s=first.close_time_s - 1), *survivors.facts[1:])
    with pytest.raises(RebuildError, match="seal"):
        survivors.replay()


def test_what_an_account_of_later_terms_did_before_is_not_taken_for_ours(
    survivors: Survivors,
) -> None:
    later = replace(
        survivors.scene.terms, first_epoch=EPOCHS, fee_account=key("fee"), fee_bid_max_stroops=9_999
    )
    survivors.evidence.add_terms(sign_terms(later, seed("issuing")).raw)
    builder = TransactionBuilder(Account(address("stranger"), 4), PASSPHRASE, base_fee=100)
    builder.append_create_account_op(address("fee"), "5").add_time_bounds(0, 0)
    envelope = builder.build()
    envelope.sign(keypair("stranger"))
    first = survivors.facts[0]
    strangers = replace(
        first, apply_order=999, envelope=envelope.to_xdr_object().to_xdr_bytes(), result=bytes(8)
    )
    survivors.facts = tuple(sorted((*survivors.facts, strangers), key=lambda fact: fact.order))
    assert len(survivors.replay()) == EPOCHS


def test_missing_and_other_instructions_are_noticed(survivors: Survivors) -> None:
    evidence = survivors.evidence
    whole = evidence.instructions[1]
    evidence.instructions[1] = ()
    with pytest.raises(RebuildError, match="instructions"):
        survivors.replay()
    evidence.instructions[1] = evidence.instructions[0]
    with pytest.raises(RebuildError, match="seal"):
        survivors.replay()
    evidence.instructions[1] = whole
    assert survivors.replay()


def test_a_bundle_with_other_receipts_under_a_digest_changes_nothing_unnoticed(survivors) -> None:
    digest, raw = next(iter(survivors.evidence.bundles.items()))
    survivors.evidence.bundles[digest] = raw[:-1] + bytes([raw[-1] ^ 1])
    with pytest.raises((RebuildError, ValueError)):
        survivors.replay()


@pytest.mark.parametrize("damage", ["missing", "other", "cut"])
def test_a_mirror_without_its_instructions_is_no_mirror(survivors, tmp_path, damage) -> None:
    folder = log_folder(survivors.scene.log_dir, survivors.scene.shard)
    keys = keys_of_trust(survivors.scene.operator.trust)
    for place in (survivors.mirror, folder):
        path = place / instruction_list_path(1)
        if damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            path.write_bytes(format_instruction_list([refund(8).raw]))
    with pytest.raises(DisprovenError, match="instructions/1"):
        verify_folder(survivors.mirror, keys)
    with pytest.raises(DisprovenError, match="instructions/1"):
        mirror_log(FolderSource(folder), tmp_path / "second", keys)
    assert not (tmp_path / "second" / "checkpoint").exists()


def test_evidence_of_others_is_refused(survivors: Survivors) -> None:
    other = Evidence(broadcaster=sha256(b"somebody else").digest())
    with pytest.raises(RebuildError, match="got those of"):
        other.add_terms(survivors.scene.operator.signed_terms.raw)
    with pytest.raises(RebuildError):
        other.add_binding(survivors.scene.operator.issuing_binding)
