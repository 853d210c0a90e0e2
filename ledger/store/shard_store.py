"""Broadcasters, their terms and activations: what a shard is made of.

Registration verifies everything that is signed before it is stored, and repeating it changes
nothing. Not here: which DAO key may activate a contract (the reader's trust file says so).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from contracts.registry import RELEASED_DIGESTS, Rule, load_standard
from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import (
    BadSignatureError,
    EvidenceError,
    MalformedRecordError,
    VerificationError,
)
from ledger.evidence.leaf import ACTIVATION, Activation
from ledger.evidence.terms import Terms, parse_terms, require_valid_terms
from ledger.store.errors import UnknownBroadcasterError, UnknownRulesError, UnprovenError
from ledger.store.raw_cursor import raw_cursor
from ledger.store.tables import (
    ActivationRow,
    BroadcasterRow,
    BundleRow,
    EpochRow,
    IssuingBindingRow,
    TermsRow,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One broadcaster as the database knows it."""

    id: int
    """The database's number of it."""

    account: bytes
    """Stellar account key; 32 bytes."""

    network_id: bytes
    """32 bytes."""

    binding: bytes
    """The signed binding of its first issuing key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a broadcaster brings: all of it verified by `parse_registration`."""

    terms: Signed[Terms]
    binding: Signed[Binding]
    activation: Signed[Activation]


def parse_registration(*, terms: bytes, binding: bytes, activation: bytes) -> Registration:
    """Read and verify terms, the issuing key's binding, and the contract's activation.

    Raises:
        MalformedRecordError: One of them is malformed, or they do not belong together.
        BadSignatureError: A signature is not valid.
    """
    signed_terms = parse_terms(terms)
    require_valid_terms(signed_terms)
    signed_binding = BINDING.parse(binding)
    if not is_valid_binding(signed_binding):
        raise BadSignatureError("binding: signature not valid under its account and key")
    signed_activation = ACTIVATION.parse(activation)
    ACTIVATION.require_signed_by(signed_activation, signed_activation.value.dao_key)
    _require_together(signed_terms.value, signed_binding.value, signed_activation.value)
    return Registration(terms=signed_terms, binding=signed_binding, activation=signed_activation)


def _require_together(terms: Terms, binding: Binding, activation: Activation) -> None:
    checks = (
        ("binding.account", binding.account, terms.broadcaster_account),
        ("binding.key", binding.key, terms.issuing_key),
        ("binding.network_id", binding.network_id, terms.network_id),
        ("activation.broadcaster_account", activation.broadcaster_account,
         terms.broadcaster_account),
        ("activation.network_id", activation.network_id, terms.network_id),
        ("activation.rules_digest", activation.rules_digest, terms.rules_digest),
    )  # fmt: skip
    for field, got, want in checks:
        if got != want:
            raise MalformedRecordError(field, got=got.hex(), want=want.hex())
    if not binding.covers(Role.ISSUING, terms.first_epoch):
        raise VerificationError("binding: got one that does not cover the terms' first epoch")


def register(session: Session, registration: Registration) -> Shard:
    """Store a broadcaster with its terms and activation; what is stored already stays.

    Raises:
        MalformedRecordError: The first contract begins with another epoch than the first terms:
            an epoch would be computed by a contract that its log does not name. Or later terms name
            other accounts for the money, another asset or other epochs: the books go on. Or what
            is new begins too early: terms with an epoch that has bundles, which were judged by
            those before, or terms or an activation with one that is closed.
    """
    terms, activation = registration.terms, registration.activation
    session.execute(
        insert(BroadcasterRow)
        .values(
            account=terms.value.broadcaster_account,
            network_id=terms.value.network_id,
            binding=registration.binding.raw,
        )
        .on_conflict_do_nothing(index_elements=["account"])
    )
    shard = find_shard(session, terms.value.broadcaster_account)
    add_issuing_binding(session, shard, registration.binding)
    is_known = session.scalar(select(exists().where(TermsRow.broadcaster_id == shard.id)))
    if not is_known and activation.value.first_epoch != terms.value.first_epoch:
        raise MalformedRecordError(
            "activation.first_epoch",
            got=activation.value.first_epoch,
            want=str(terms.value.first_epoch),
        )
    if is_known:
        _require_kept(terms_in_force(session, shard).value, terms.value)
        _require_ahead(session, shard, registration)
    session.execute(
        insert(TermsRow)
        .values(
            broadcaster_id=shard.id,
            digest=terms.digest,
            raw=terms.raw,
            first_epoch=terms.value.first_epoch,
            last_epoch=terms.value.last_epoch,
        )
        .on_conflict_do_nothing(index_elements=["digest"])
    )
    session.execute(
        insert(ActivationRow)
        .values(
            broadcaster_id=shard.id,
            first_epoch=activation.value.first_epoch,
            rules_digest=activation.value.rules_digest,
            raw=activation.raw,
        )
        .on_conflict_do_nothing(index_elements=["broadcaster_id", "first_epoch"])
    )
    return shard


_KEPT: Final = (
    "network_id",
    "log_origin",
    "genesis_s",
    "epoch_length_s",
    "grace_s",
    "asset_code",
    "asset_issuer",
    "escrow_account",
    "payout_account",
    "anchor_account",
)
"""What all terms of a ledger have in common: its books are one balance of one asset, an epoch
is anchored when the next terms may be known already, and auditors' trust files name the times."""


def _require_kept(known: Terms, new: Terms) -> None:
    """Raise if later terms change what the books of the ledger stand on."""
    for name in _KEPT:
        got, want = getattr(new, name), getattr(known, name)
        if got != want:
            shown = want.hex() if isinstance(want, bytes) else want
            raise MalformedRecordError(f"terms.{name}", got=got, want=f"{shown} as before")


def _require_ahead(session: Session, shard: Shard, registration: Registration) -> None:
    """Raise if new terms or a new activation would change what was judged or sealed already."""
    terms, activation = registration.terms, registration.activation
    if not session.scalar(select(exists().where(TermsRow.digest == terms.digest))):
        # No bundle enters an epoch whose row is locked: one that comes finds the new terms.
        epochs = select(EpochRow.number).where(
            EpochRow.broadcaster_id == shard.id, EpochRow.number >= terms.value.first_epoch
        )
        session.execute(epochs.with_for_update())
        free = max(_first_open(session, shard), _first_without_bundles(session, shard))
        _require_from("terms.first_epoch", terms.value.first_epoch, free)
    stored = session.scalar(
        select(ActivationRow.raw).where(
            ActivationRow.broadcaster_id == shard.id,
            ActivationRow.first_epoch == activation.value.first_epoch,
        )
    )
    if stored is None:
        free = _first_open(session, shard)
        _require_from("activation.first_epoch", activation.value.first_epoch, free)
    elif stored != activation.raw:
        raise MalformedRecordError(
            "activation",
            got=f"another one from epoch {activation.value.first_epoch}",
            want="the one that is known",
        )


def _require_from(field: str, first_epoch: int, free: int) -> None:
    if first_epoch < free:
        raise MalformedRecordError(
            field, got=first_epoch, want=f">= {free}: epochs before have bundles or are closed"
        )


def _first_open(session: Session, shard: Shard) -> int:
    """Return the first epoch after all that are closed to bundles; 0 if none is."""
    newest = session.scalar(
        select(func.max(EpochRow.number)).where(
            EpochRow.broadcaster_id == shard.id, EpochRow.state != "open"
        )
    )
    return 0 if newest is None else newest + 1


def _first_without_bundles(session: Session, shard: Shard) -> int:
    """Return the first epoch after all whose seals have bundles; 0 if none has."""
    newest = session.scalar(
        select(func.max(BundleRow.sealing_epoch)).where(BundleRow.broadcaster_id == shard.id)
    )
    return 0 if newest is None else newest + 1


def add_issuing_binding(session: Session, shard: Shard, signed: Signed[Binding]) -> None:
    """Store a binding of an issuing key: of a new key, or a newer one that revokes.

    Storing it again changes nothing. What bundles were judged by stays as it was: a newer binding
    may change only epochs for which no bundle has come.

    Raises:
        BadSignatureError: The account and the key did not both sign it.
        MalformedRecordError: It is another account's, network's or role's; it is older than what
            is known and differs; or it would change an epoch that has bundles.
    """
    binding = signed.value
    for field, got, want in (
        ("account", binding.account, shard.account),
        ("network_id", binding.network_id, shard.network_id),
    ):
        if got != want:
            raise MalformedRecordError(f"binding.{field}", got=got.hex(), want=want.hex())
    if binding.role != Role.ISSUING:
        raise MalformedRecordError("binding.role", got=binding.role, want=str(int(Role.ISSUING)))
    if not is_valid_binding(signed):
        raise BadSignatureError("binding: signature not valid under its account and key")
    known = list_issuing_bindings(session, shard, binding.key)
    if any(one.raw == signed.raw for one in known):
        return
    if known and binding.serial <= known[-1].value.serial:
        raise MalformedRecordError(
            "binding.serial", got=binding.serial, want=f"> {known[-1].value.serial}"
        )
    for epoch in session.scalars(
        select(BundleRow.epoch).where(BundleRow.broadcaster_id == shard.id).distinct()
    ):
        if known and binding.covers(Role.ISSUING, epoch) != known[-1].value.covers(
            Role.ISSUING, epoch
        ):
            raise MalformedRecordError(
                "binding.last_epoch",
                got=binding.last_epoch,
                want=f"no change of epoch {epoch}, which has bundles",
            )
    session.execute(
        insert(IssuingBindingRow)
        .values(broadcaster_id=shard.id, key=binding.key, serial=binding.serial, raw=signed.raw)
        .on_conflict_do_nothing()
    )


def list_issuing_bindings(session: Session, shard: Shard, key: bytes) -> list[Signed[Binding]]:
    """Return the bindings of one of a broadcaster's issuing keys, oldest first."""
    raws = session.scalars(
        select(IssuingBindingRow.raw)
        .where(IssuingBindingRow.broadcaster_id == shard.id, IssuingBindingRow.key == key)
        .order_by(IssuingBindingRow.serial)
    )
    later = [BINDING.parse(raw) for raw in raws]
    first = BINDING.parse(shard.binding)
    is_listed = first.value.key != key or any(one.raw == first.raw for one in later)
    return later if is_listed else [first, *later]


def issuing_binding(
    session: Session, shard: Shard, key: bytes, epoch: int | None = None
) -> Signed[Binding]:
    """Return the binding that decides whether an issuing key acts in an epoch.

    The first one while all known ones agree that it does, so that what was written before a
    revocation is written the same after it; else the newest.

    Args:
        session: In a transaction.
        shard: Whose key.
        key: The issuing key of its terms.
        epoch: None: the newest binding.

    Raises:
        UnprovenError: No binding by the broadcaster's account names this key.
    """
    known = [
        signed
        for signed in list_issuing_bindings(session, shard, key)
        if signed.value.account == shard.account and is_valid_binding(signed)
    ]
    if not known:
        raise UnprovenError(
            f"binding: got issuing key {key.hex()}, want one that account {shard.account.hex()} "
            "bound"
        )
    agree = epoch is not None and all(one.value.covers(Role.ISSUING, epoch) for one in known)
    return known[0] if agree else known[-1]


def issued_through(session: Session, shard: Shard, terms: Terms, epoch: int) -> int:
    """Return the last epoch in which the terms' issuing key acts, as far as an epoch's seal asks.

    Raises:
        UnprovenError: No binding by the broadcaster's account names this key.
    """
    return issuing_binding(session, shard, terms.issuing_key, epoch).value.last_epoch


def list_shards(session: Session) -> list[Shard]:
    """Return all broadcasters, oldest first."""
    rows = session.scalars(select(BroadcasterRow).order_by(BroadcasterRow.id))
    return [_shard_of(row) for row in rows]


def find_shard(session: Session, account: bytes) -> Shard:
    """Return the broadcaster with this account key.

    Raises:
        UnknownBroadcasterError: There is none.
    """
    query = b"SELECT id, account, network_id, binding FROM broadcasters WHERE account = %s"
    with raw_cursor(session) as cursor:
        row = cursor.execute(query, (account,)).fetchone()
    if row is None:
        raise UnknownBroadcasterError(account)
    return Shard(id=row[0], account=row[1], network_id=row[2], binding=row[3])


def load_shard(session: Session, broadcaster_id: int) -> Shard:
    """Return the broadcaster with this number of the database's own."""
    return _shard_of(session.get_one(BroadcasterRow, broadcaster_id))


def _shard_of(row: BroadcasterRow) -> Shard:
    return Shard(id=row.id, account=row.account, network_id=row.network_id, binding=row.binding)


_parse_terms = lru_cache(maxsize=64)(parse_terms)


def terms_in_force(session: Session, shard: Shard, epoch: int | None = None) -> Signed[Terms]:
    """Return the newest terms that cover an epoch; the newest of all when None.

    An epoch that none cover has the newest of those that began before it, else the first: its
    borders must be computable whether or not anything is on offer in it.

    Raises:
        UnknownBroadcasterError: The broadcaster has no terms.
    """
    query = b"SELECT raw, first_epoch, last_epoch FROM terms WHERE broadcaster_id = %s ORDER BY id"
    with raw_cursor(session) as cursor:
        rows = cursor.execute(query, (shard.id,)).fetchall()
    return _choose_terms(shard.account, rows, epoch)


def _choose_terms(
    account: bytes, rows: Sequence[tuple[Any, ...]], epoch: int | None
) -> Signed[Terms]:
    """Return the terms that `terms_in_force` means, of all in the order they were registered."""
    if not rows:
        raise UnknownBroadcasterError(account)
    if epoch is None:
        return _parse_terms(rows[-1][0])
    begun = [(raw, last) for raw, first, last in rows if first <= epoch]
    covering = [raw for raw, last in begun if epoch <= last]
    if covering:
        return _parse_terms(covering[-1])
    # Terms that are registered later and begin later change nothing here.
    return _parse_terms(begun[-1][0] if begun else rows[0][0])


_FIND_INTAKE: Final = b"""
SELECT broadcasters.id, network_id, binding,
  (SELECT max(number) FROM epochs WHERE broadcaster_id = broadcasters.id),
  raw, first_epoch, last_epoch
FROM broadcasters JOIN terms ON terms.broadcaster_id = broadcasters.id
WHERE account = %s ORDER BY terms.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What a collector asks of a broadcaster for every bundle, in one statement."""

    shard: Shard
    terms: Signed[Terms]
    """In force in the bundle's epoch."""

    newest_epoch: int | None
    """Highest number of an epoch that has a row."""


def find_intake(session: Session, account: bytes, epoch: int) -> Intake:
    """Return the broadcaster with this account key, and its terms as `terms_in_force` does.

    Raises:
        UnknownBroadcasterError: There is none, or it has no terms.
    """
    with raw_cursor(session) as cursor:
        rows = cursor.execute(_FIND_INTAKE, (account,)).fetchall()
    terms = _choose_terms(account, [row[4:] for row in rows], epoch)
    shard_id, network_id, binding, newest_epoch = rows[0][:4]
    shard = Shard(id=shard_id, account=account, network_id=network_id, binding=binding)
    return Intake(shard=shard, terms=terms, newest_epoch=newest_epoch)


def authentic_terms(session: Session, shard: Shard, epoch: int | None = None) -> Signed[Terms]:
    """Return the terms in force, with proof that the broadcaster's account stands behind them.

    What money depends on is read with this: rows are not enough to change a price, a key or an
    account. That `shard.account` is the broadcaster's is for the caller to know.

    Raises:
        UnknownBroadcasterError: The broadcaster has no terms.
        UnprovenError: They are not signed by an issuing key that the account bound.
    """
    signed = terms_in_force(session, shard, epoch)
    terms = signed.value
    try:
        require_valid_terms(signed)
        binding = issuing_binding(session, shard, terms.issuing_key)
    except EvidenceError as error:
        raise UnprovenError(f"terms or binding of {shard.account.hex()}: {error}") from error
    bound = (binding.value.key, terms.broadcaster_account)
    is_bound = bound == (terms.issuing_key, shard.account)
    if not (is_bound and binding.value.covers(Role.ISSUING, terms.first_epoch)):
        raise UnprovenError(
            f"terms {signed.digest.hex()}: got issuing key {terms.issuing_key.hex()}, "
            f"want one that account {shard.account.hex()} bound"
        )
    return signed


def rule_in_force(session: Session, shard: Shard, epoch: int) -> Rule:
    """Return the contract that computes an epoch.

    Raises:
        UnknownRulesError: No contract is active then, or none with its digest is installed.
    """
    digest = session.scalar(
        select(ActivationRow.rules_digest)
        .where(ActivationRow.broadcaster_id == shard.id, ActivationRow.first_epoch <= epoch)
        .order_by(ActivationRow.first_epoch.desc())
        .limit(1)
    )
    for name, known in RELEASED_DIGESTS.items():
        if digest is not None and known == digest.hex():
            return load_standard(name)
    raise UnknownRulesError(epoch, digest)


def activations_of(session: Session, shard: Shard, epoch: int) -> tuple[Signed[Activation], ...]:
    """Return the activations that begin with an epoch."""
    raws = session.scalars(
        select(ActivationRow.raw).where(
            ActivationRow.broadcaster_id == shard.id, ActivationRow.first_epoch == epoch
        )
    )
    return tuple(ACTIVATION.parse(raw) for raw in raws)


def activation_in_force(session: Session, shard: Shard, epoch: int) -> Signed[Activation]:
    """Return the activation of the contract that computes an epoch.

    Raises:
        UnknownRulesError: No contract is active then.
    """
    raw = session.scalar(
        select(ActivationRow.raw)
        .where(ActivationRow.broadcaster_id == shard.id, ActivationRow.first_epoch <= epoch)
        .order_by(ActivationRow.first_epoch.desc())
        .limit(1)
    )
    if raw is None:
        raise UnknownRulesError(epoch, None)
    return ACTIVATION.parse(raw)
