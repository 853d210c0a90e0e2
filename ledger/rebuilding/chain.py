"""What the chain says of a settlement's accounts, read from nothing."""

from collections.abc import Iterable, Sequence

from ledger.books.transactions import NetworkFact
from ledger.rebuilding.errors import RebuildError
from ledger.stellar.gateway import START, Gateway, Place


def read_facts(gateways: Sequence[Gateway], accounts: Iterable[bytes]) -> tuple[NetworkFact, ...]:
    """Return every transaction of some accounts, in chain order, as any source tells of it.

    Args:
        gateways: Sources of one network; what one of them leaves out another may tell.
        accounts: Account keys, 32 bytes each.

    Raises:
        GatewayError: A source gave no usable answer.
        RebuildError: Two sources tell different things of one place.
    """
    facts: dict[Place, NetworkFact] = {}
    for gateway in gateways:
        for account in sorted(set(accounts)):
            for fact in _facts_of(gateway, account):
                if facts.setdefault(fact.order, fact) != fact:
                    raise RebuildError(
                        f"{gateway.name}: got another transaction at {fact.order}, want one"
                    )
    return tuple(facts[place] for place in sorted(facts))


def _facts_of(gateway: Gateway, account: bytes) -> Iterable[NetworkFact]:
    place = START
    while True:
        page = gateway.transactions_of(account, after=place)
        yield from page.facts
        if page.is_last:
            return
        last = page.facts[-1].order if page.facts else place
        place = max(last, page.through)
