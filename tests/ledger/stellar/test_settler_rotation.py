"""Settlers when terms rotate channels: open slots of earlier ones are still paid and explained."""

from dataclasses import replace
from pathlib import Path

import pytest
from simulated_operator import address, key, seed
from treasury_scene import CHANNELS, PASSPHRASE, treasury_scene

from ledger.evidence.terms import sign_terms
from ledger.stellar.burning import sign_burn
from ledger.stellar.signing import AccountSigner, SeedKeys

pytestmark = pytest.mark.process
A, B, C = "settler a", "settler b", "settler c"


def test_open_slots_of_channels_that_newer_terms_drop_are_paid_or_burned(tmp_path: Path) -> None:
    with treasury_scene(tmp_path) as scene:
        operator = scene.operator
        operator.close([operator.owe()])
        operator.close([operator.owe(5_999_983)])
        (funding, payment), (later, _last) = operator.plans[0], operator.plans[1]
        dropped, kept = funding.channel_account, payment.channel_account
        assert dropped == later.channel_account != kept
        operator.terms = replace(operator.terms, channel_accounts=(kept,), first_epoch=2)
        operator.signed_terms = sign_terms(operator.terms, seed("issuing"))
        operator.close()
        assert scene.pay(funding, A, B)
        assert scene.pay(payment, B, C)
        signer = AccountSigner(SeedKeys({key(name): seed(name) for name in CHANNELS}))
        number = scene.attempt(later)
        burn = sign_burn(later, number, operator.terms, PASSPHRASE, signer, isolates=False)
        assert scene.gateway.submit(burn.envelope).status == "pending"
        # The burn touches nothing but the dropped channel, and is a fact of the new terms' epoch.
        operator.close()
        for name in (A, C):
            settler = scene.settlers.get(name) or scene.settler(name)
            settler.look()
            assert settler.halt is None
            assert settler.next_epoch == operator.epoch


def test_transactions_of_accounts_that_later_terms_name_stop_nobody(tmp_path: Path) -> None:
    """Anybody can create the account of an announced channel before its terms are in force."""
    with treasury_scene(tmp_path) as scene:
        operator = scene.operator
        operator.close([operator.owe()])
        operator.accounts |= {key("channel 2")}
        creation = operator.builder("issuer", 0).append_create_account_op(address("channel 2"), "5")
        operator.fact(creation, "issuer")
        operator.close()
        settler = scene.settler(A)
        settler.look()
        assert settler.halt is None
        assert settler.next_epoch == operator.epoch
