"""Validators and issuer in a simulated network: what they take, and that they give it back."""

from ledger.devnet.entries import AUTHORIZED
from ledger.simulation.domain import ASSET_CODE, SimulatedDomain, WorldPlan
from ledger.simulation.faults import CALM, FaultKind
from ledger.stellar.gateway import EntryKey, TrustlineState

LEDGERS = 12


def make_domain(kind: FaultKind) -> SimulatedDomain:
    return SimulatedDomain(
        WorldPlan(seed=4, payees=3, earning_epochs=1, batch_payments=4, focus=kind)
    )


def lines_of(domain: SimulatedDomain) -> list[TrustlineState]:
    """The payees' trustlines as a source tells of them."""
    asset = (ASSET_CODE, domain.made.issuer)
    keys = [EntryKey(account=payee, asset=asset) for payee in domain.payees]
    return [domain.sources[0].entries([key]).entries[key] for key in keys]


def test_the_issuer_revokes_while_the_spell_is_on_and_authorizes_again_after_it() -> None:
    domain = make_domain(FaultKind.REVOKED)
    revoked = 0
    for _ in range(LEDGERS):
        domain.weather.turn_to(FaultKind.REVOKED)
        domain.powers.act()
        domain.network.close()
        revoked = max(revoked, sum(not line.is_authorized for line in lines_of(domain)))
    domain.weather.turn_to(CALM)
    for _ in range(2):
        domain.powers.act()
        domain.network.close()
    assert revoked == 2
    assert all(line.is_authorized for line in lines_of(domain))
    assert domain.weather.struck[FaultKind.REVOKED] >= 2


def test_a_frozen_trustline_is_told_by_one_source_and_free_again_after_the_spell() -> None:
    domain = make_domain(FaultKind.FROZEN)
    for _ in range(LEDGERS):
        domain.weather.turn_to(FaultKind.FROZEN)
        domain.powers.act()
        domain.network.close()
    asset = (ASSET_CODE, domain.made.issuer)
    keys = [EntryKey(account=payee, asset=asset) for payee in domain.payees]
    told = {source.name: source.entries(keys).frozen for source in domain.sources}
    frozen = {key for key in keys if domain.network.is_frozen(key.account)}
    assert len(frozen) == 2
    assert told == {"source 0": frozen, "source 1": None}
    domain.weather.turn_to(CALM)
    domain.powers.act()
    assert not any(domain.network.is_frozen(payee) for payee in domain.payees)


def test_the_issuer_claws_back_from_who_has_something_and_from_escrow_if_it_does() -> None:
    domain = make_domain(FaultKind.CLAWED_BACK)
    escrow = domain.network.line_of(domain.made.escrow)
    assert escrow is not None
    domain.powers.seize(17)
    domain.network.close()
    after = domain.network.line_of(domain.made.escrow)
    assert after is not None
    assert escrow.balance - after.balance == 17
    assert after.flags & AUTHORIZED
    # No payee has anything yet: nothing to strike, and no strike is counted.
    for _ in range(LEDGERS):
        domain.weather.turn_to(FaultKind.CLAWED_BACK)
        domain.powers.act()
        domain.network.close()
    assert domain.weather.struck[FaultKind.CLAWED_BACK] == 0
    assert len(domain.powers.seizures) == 1
