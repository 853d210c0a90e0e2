"""Codes: the stable numbers that say what became of a bundle and of a receipt.

They stand in the public log, in audit files and in answers to senders; FORMATS.md lists them. Not
here: finding them (`bundle_check`, `lane_judgement`).
"""

from enum import IntEnum


class BundleCode(IntEnum):
    """Why a bundle was refused whole; 0 if it was not. Numbers are never reused."""

    ACCEPTED = 0
    MALFORMED = 1
    BAD_SIGNATURE = 2
    WRONG_NETWORK = 3
    WRONG_BROADCASTER = 4
    TOO_LATE = 5
    """Its epoch lies before the terms' correction window, or before the terms themselves."""

    POISON = 6
    """It stopped a worker repeatedly and was set aside."""


class ReceiptCode(IntEnum):
    """What became of a receipt; 0 = counted. Numbers are never reused."""

    COUNTED = 0
    SUPERSEDED = 1
    """A higher sequence of the same lane counts instead."""

    DUPLICATE = 2
    """The same receipt stands in an earlier bundle of this seal."""

    BUNDLE_REFUSED = 3
    BAD_SIGNATURE = 10
    WRONG_NETWORK = 11
    WRONG_EPOCH = 12
    WRONG_PAYEE = 13
    """The payee is not the bundle's submitter, or not a CDN of the terms."""

    UNBOUND_PAYEE = 14
    """No valid binding leads from the payee's key to an account."""

    OWN_PAYEE = 15
    """A session key cannot be its own payee."""

    UNKNOWN_ENTITLEMENT = 20
    BAD_ENTITLEMENT = 21
    """Not signed by the terms' issuing key, or for other terms, broadcaster, payer or network."""

    WRONG_SESSION = 22
    """The receipt's submitter or signer is not the entitlement's session key."""

    ENTITLEMENT_NOT_VALID = 23
    """Its time does not meet the epoch."""

    ENTITLEMENT_VOID = 24
    """Its session key signed contradicting receipts in an earlier epoch."""

    ISSUING_KEY_REVOKED = 25
    """The broadcaster's account revoked the key that issued it before this epoch."""

    EQUIVOCATION = 30
    """It contradicts another receipt of its lane; the smaller total counts."""

    TOO_MUCH = 31
    """With it the entitlement would count more in one seal than any session can receive."""

    NOT_COVERED = 32
    """The deposits do not cover it; once they do, it counts if it is sent again."""
