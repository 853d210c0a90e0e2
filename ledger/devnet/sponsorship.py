"""Who pays the reserve of an entry or a signer: its account or a sponsor (CAP-33).

Follows the rules of protocol 18 and later (sum of sub-entries and sponsored entries bounded).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ledger.devnet.balances import available_balance, min_balance
from ledger.devnet.entries import (
    Account,
    ClaimableBalance,
    Entry,
    Signer,
    TrustLine,
)
from ledger.devnet.state import Header, Overlay, StateError
from ledger.devnet.wire import UINT32_MAX

SUB_ENTRY_LIMIT: Final = 1_000


class Sponsoring(Enum):
    """Verdict on creating, removing or moving a reserve."""

    SUCCESS = "success"
    LOW_RESERVE = "low reserve"
    TOO_MANY_SUBENTRIES = "too many sub-entries"
    TOO_MANY_SPONSORING = "too many sponsoring"
    TOO_MANY_SPONSORED = "too many sponsored"


def reserve_units(entry: Entry) -> int:
    """Base reserves an entry takes."""
    if isinstance(entry.body, Account):
        return 2
    if isinstance(entry.body, ClaimableBalance):
        return len(entry.body.claimants)
    if isinstance(entry.body, TrustLine) and entry.body.asset[3] == 3:
        return 2
    return 1


def is_sub_entry(entry: Entry) -> bool:
    """Whether an entry counts among its account's sub-entries."""
    return not isinstance(entry.body, Account | ClaimableBalance)


def _sum_too_large(account: Account, units: int) -> bool:
    return account.sponsoring + account.sub_entries + units > UINT32_MAX


def can_establish(
    header: Header, sponsor: Account, sponsored: Account | None, units: int
) -> Sponsoring:
    """Whether a sponsor can take over a reserve."""
    if available_balance(header, sponsor) < units * header.base_reserve:
        return Sponsoring.LOW_RESERVE
    if sponsor.sponsoring > UINT32_MAX - units or _sum_too_large(sponsor, units):
        return Sponsoring.TOO_MANY_SPONSORING
    if sponsored is not None and sponsored.sponsored > UINT32_MAX - units:
        return Sponsoring.TOO_MANY_SPONSORED
    return Sponsoring.SUCCESS


def can_remove(
    header: Header, sponsor: Account, sponsored: Account | None, units: int
) -> Sponsoring:
    """Whether a sponsored account can take its reserve back."""
    if sponsor.sponsoring < units:
        raise StateError(f"sponsoring: got {sponsor.sponsoring}, want at least {units}")
    if sponsored is not None and sponsored.sponsored < units:
        raise StateError(f"sponsored: got {sponsored.sponsored}, want at least {units}")
    if sponsored is not None and available_balance(header, sponsored) < units * header.base_reserve:
        return Sponsoring.LOW_RESERVE
    return Sponsoring.SUCCESS


def can_transfer(header: Header, old: Account, new: Account, units: int) -> Sponsoring:
    """Whether a reserve can move from one sponsor to another."""
    verdict = can_remove(header, old, None, units)
    if verdict is not Sponsoring.SUCCESS:
        return verdict
    return can_establish(header, new, None, units)


def _level_two(account: Account) -> Account:
    account.level = max(account.level, 2)
    return account


def establish(entry: Entry, sponsor: Account, sponsored: Account | None) -> None:
    """Make an account the sponsor of an entry."""
    units = reserve_units(entry)
    entry.extended, entry.sponsor = True, sponsor.account
    _level_two(sponsor).sponsoring += units
    if sponsored is not None:
        _level_two(sponsored).sponsored += units


def remove(entry: Entry, sponsor: Account, sponsored: Account | None) -> None:
    """End an entry's sponsorship."""
    units = reserve_units(entry)
    if entry.sponsor != sponsor.account:
        raise StateError("sponsor: got another account, want the entry's sponsor")
    entry.sponsor = None
    sponsor.sponsoring -= units
    if sponsored is not None:
        sponsored.sponsored -= units


def transfer(entry: Entry, old: Account, new: Account) -> None:
    """Move an entry from one sponsor to another."""
    units = reserve_units(entry)
    entry.sponsor = new.account
    _level_two(new).sponsoring += units
    old.sponsoring -= units


def establish_signer(signer: Signer, sponsor: Account, sponsored: Account) -> None:
    """Make an account the sponsor of a signer."""
    signer.sponsor = sponsor.account
    _level_two(sponsored).sponsored += 1
    _level_two(sponsor).sponsoring += 1


def remove_signer_sponsor(signer: Signer, sponsor: Account, sponsored: Account) -> None:
    """End a signer's sponsorship."""
    signer.sponsor = None
    sponsored.sponsored -= 1
    sponsor.sponsoring -= 1


def transfer_signer(signer: Signer, old: Account, new: Account) -> None:
    """Move a signer from one sponsor to another."""
    signer.sponsor = new.account
    _level_two(new).sponsoring += 1
    old.sponsoring -= 1


def _check_plain(header: Header, entry: Entry, owner: Account | None) -> Sponsoring:
    if isinstance(entry.body, Account):
        low = entry.body.balance < min_balance(header, entry.body)
        return Sponsoring.LOW_RESERVE if low else Sponsoring.SUCCESS
    if owner is None:
        raise StateError("owner: got none, want the entry's account")
    units = reserve_units(entry)
    if owner.sub_entries > SUB_ENTRY_LIMIT - units or _sum_too_large(owner, units):
        return Sponsoring.TOO_MANY_SUBENTRIES
    if available_balance(header, owner) < units * header.base_reserve:
        return Sponsoring.LOW_RESERVE
    return Sponsoring.SUCCESS


def create_reserve(overlay: Overlay, entry: Entry, owner: Account | None) -> Sponsoring:
    """Take the reserve of a new entry from its owner or the sponsor in force.

    A claimable balance is always sponsored: by the sponsor in force or by its creator (`owner`).
    The entry itself is added by the caller after SUCCESS.
    """
    header = overlay.header
    claimable = isinstance(entry.body, ClaimableBalance)
    if isinstance(entry.body, Account):
        beneficiary = entry.body.account
    elif owner is not None:
        beneficiary = owner.account
    else:
        raise StateError("owner: got none, want the entry's account")
    sponsor_id = overlay.sponsorships.get(beneficiary)
    if sponsor_id is None and claimable:
        sponsor_id = beneficiary
    if sponsor_id is None:
        verdict = _check_plain(header, entry, owner)
    else:
        verdict = _create_sponsored(overlay, entry, owner, sponsor_id)
    if verdict is Sponsoring.SUCCESS and owner is not None and is_sub_entry(entry):
        owner.sub_entries += reserve_units(entry)
    return verdict


def _create_sponsored(
    overlay: Overlay, entry: Entry, owner: Account | None, sponsor_id: bytes
) -> Sponsoring:
    header, units = overlay.header, reserve_units(entry)
    sponsor = overlay.need_account(sponsor_id)
    sponsored: Account | None
    if isinstance(entry.body, Account):
        sponsored = entry.body
    elif isinstance(entry.body, ClaimableBalance):
        sponsored = None
    else:
        sponsored = owner
        if owner is not None and owner.sub_entries > SUB_ENTRY_LIMIT - units:
            return Sponsoring.TOO_MANY_SUBENTRIES
        if owner is not None and _sum_too_large(owner, units):
            return Sponsoring.TOO_MANY_SUBENTRIES
    verdict = can_establish(header, sponsor, sponsored, units)
    if verdict is Sponsoring.SUCCESS:
        establish(entry, sponsor, sponsored)
    return verdict


def release_reserve(overlay: Overlay, entry: Entry, owner: Account | None) -> None:
    """Give back the reserve of an entry that the caller then erases."""
    units = reserve_units(entry)
    if entry.sponsor is not None:
        sponsor = overlay.need_account(entry.sponsor)
        if isinstance(entry.body, Account):
            remove(entry, sponsor, entry.body)
        elif isinstance(entry.body, ClaimableBalance):
            remove(entry, sponsor, None)
        else:
            remove(entry, sponsor, owner)
    if owner is not None and is_sub_entry(entry):
        if owner.sub_entries < units:
            raise StateError(f"sub-entries: got {owner.sub_entries}, want at least {units}")
        owner.sub_entries -= units


def _signer_order(signer: Signer) -> tuple[bytes, bytes]:
    """Type and key, then the payload, in which a shorter one comes before its continuations."""
    size = int.from_bytes(signer.key[36:40])
    return signer.key[:36], signer.key[40 : 40 + size]


def create_signer(overlay: Overlay, owner: Account, signer: Signer) -> Sponsoring:
    """Add a signer with its reserve; signers stay sorted by key as the protocol keeps them."""
    sponsor_id = overlay.sponsorships.get(owner.account)
    if owner.sub_entries > SUB_ENTRY_LIMIT - 1 or _sum_too_large(owner, 1):
        return Sponsoring.TOO_MANY_SUBENTRIES
    if sponsor_id is None:
        if available_balance(overlay.header, owner) < overlay.header.base_reserve:
            return Sponsoring.LOW_RESERVE
    else:
        sponsor = overlay.need_account(sponsor_id)
        verdict = can_establish(overlay.header, sponsor, owner, 1)
        if verdict is not Sponsoring.SUCCESS:
            return verdict
        establish_signer(signer, sponsor, owner)
    owner.sub_entries += 1
    owner.signers.append(signer)
    owner.signers.sort(key=_signer_order)
    return Sponsoring.SUCCESS


def remove_signer(overlay: Overlay, owner: Account, signer: Signer) -> None:
    """Remove a signer and give back its reserve."""
    if signer.sponsor is not None:
        remove_signer_sponsor(signer, overlay.need_account(signer.sponsor), owner)
    if owner.sub_entries < 1:
        raise StateError("sub-entries: got 0, want at least 1")
    owner.sub_entries -= 1
    owner.signers.remove(signer)
