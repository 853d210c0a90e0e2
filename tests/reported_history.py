"""A small history worth reporting: two contents, two CDNs, caps, media time, refusals, payouts.

Fixed keys and times, so that the files and every report made from them are always the same bytes.
"""

from dataclasses import replace
from functools import cache
from hashlib import sha256

from simulated_operator import (
    Operator,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    make_terms,
    make_viewer_bundle,
)

from ledger.audit.trust import Trust
from ledger.evidence.receipt import FLAG_CDN
from ledger.evidence.terms import CdnTerms
from ledger.reports.figures import EpochFigures, read_figures

NEWS, FILM = sha256(b"news").digest(), sha256(b"film").digest()
GENESIS_S = 1_767_225_600  # 2026-01-01 00:00:00 UTC
PAID_CDN, OWN_CDN = "paid cdn", "cdn"


def make_operator() -> Operator:
    """An operator with a CDN that is paid through the books and one that bills by itself."""
    cdns = [
        CdnTerms(
            key=key(OWN_CDN),
            account=bytes(32),
            price_stroops=0,
            price_quantity_bytes=1,
            host="cdn.example",
        ),
        CdnTerms(
            key=key(PAID_CDN),
            account=key("paid cdn account"),
            price_stroops=300_000,
            price_quantity_bytes=10**9,
            host="paid.example:8443",
        ),
    ]
    terms = make_terms(
        genesis_s=GENESIS_S,
        price_stroops=1_000_000,
        price_quantity_bytes=10**9,
        cdns=tuple(sorted(cdns, key=lambda cdn: cdn.key)),
    )
    operator = Operator(terms=terms)
    operator.trust = replace(operator.trust, genesis_s=GENESIS_S)
    operator.set_up(10**9)
    return operator


def bundles_of(operator: Operator, epoch: int) -> list[bytes]:
    """Traffic of one epoch: ann watches the news, bob the film, cas the film with a cap."""
    ann = make_entitlement(operator, "ann", content_id=NEWS, not_after_s=2**32)
    bob = make_entitlement(operator, "bob", content_id=FILM, not_after_s=2**32)
    cas = make_entitlement(
        operator, "cas", content_id=FILM, max_bytes=1_500_000_000, not_after_s=2**32
    )
    played_ms = 61_000 * (epoch + 1)
    return [
        make_payee_bundle(
            "seeder",
            epoch,
            [ann, bob, cas],
            [
                make_receipt(
                    ann, "ann", "seeder", epoch, 3_000_000_019 + epoch, media_ms_total=played_ms
                ),
                make_receipt(bob, "bob", "seeder", epoch, 1_000_000_007),
                make_receipt(cas, "cas", "seeder", epoch, 1_000_000_000),
            ],
        ),
        make_payee_bundle(
            "ann",
            epoch,
            [bob],
            [
                make_receipt(bob, "bob", "ann", epoch, 700_000_001),
                make_receipt(bob, "cas", "ann", epoch, 5),
            ],
        ),
        make_viewer_bundle(
            "bob",
            epoch,
            [bob],
            [
                make_receipt(bob, "bob", OWN_CDN, epoch, 299_999_999),
                make_receipt(bob, "bob", PAID_CDN, epoch, 199_999_999, flags=FLAG_CDN),
            ],
        ),
    ]


@cache
def reported_files() -> tuple[tuple[bytes, ...], Trust]:
    """Audit files of five epochs: two with traffic, then payouts until nothing is owed."""
    operator = make_operator()
    files = [operator.close(bundles_of(operator, 0))]
    for _ in range(4):
        for payout in operator.result.payouts:
            operator.apply_payout(payout)
        epoch = operator.epoch
        files.append(operator.close(bundles_of(operator, epoch) if epoch == 1 else []))
    return tuple(files), operator.trust


@cache
def reported_figures() -> tuple[EpochFigures, ...]:
    """The figures of `reported_files`."""
    files, trust = reported_files()
    return tuple(read_figures(files, trust))
