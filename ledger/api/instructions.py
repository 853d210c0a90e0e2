"""Instructions: takes a signed word about money in, and says what became of it.

In the request: size, strict parse, network, broadcaster, every signature, and that its signer is
the right one; a payee's word needs a payee. Whatever passes is durable and stands in the next seal,
which gives it its code (`ledger.books.instructing`). The same words again are answered the same, so
re-sending is harmless. Not here: the routes (`instruction_routes`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Any, Final

from ledger.api.answers import RefusedError, refuse_malformed
from ledger.api.collector import Collector
from ledger.books.instructing import INSTRUCTIONS_MAX, InstructionCode, judge_instruction
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import MalformedError
from ledger.evidence.instruction import (
    Instruction,
    PayeeInstruction,
    code_of_instruction,
    parse_instruction,
    subject_of,
)
from ledger.store.engine import Session
from ledger.store.errors import UnknownBroadcasterError
from ledger.store.instruction_store import (
    StoredInstruction,
    count_waiting,
    find_instruction,
    keep_instruction,
    list_instructions,
    load_payee_accounts,
    newest_computed_epoch,
)
from ledger.store.shard_store import Shard, activation_in_force, find_shard, terms_in_force

WAITING_OF_SUBJECT_MAX: Final = 8
"""Most instructions about one account or transaction that wait for a seal at once."""

WAITING_MAX: Final = 2 * INSTRUCTIONS_MAX
"""Most instructions of one broadcaster that wait for a seal at once."""

_RETRY_S: Final = 60

_REFUSALS: Mapping[InstructionCode, tuple[int, str, str]] = MappingProxyType(
    {
        InstructionCode.WRONG_NETWORK: (400, "wrong_network", "the terms' network"),
        InstructionCode.BAD_SIGNATURE: (400, "bad_signature", "signatures of all whom it names"),
        InstructionCode.WRONG_SIGNER: (403, "wrong_signer", "the log key or DAO key in force"),
        InstructionCode.FORBIDDEN_ADDRESS: (
            422,
            "forbidden_address",
            "an account that is not the settlement's own, nor the asset's issuer",
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """Takes instructions for every broadcaster of the database."""

    collector: Collector
    _payees: dict[int, tuple[int, frozenset[bytes]]] = field(default_factory=dict, repr=False)
    """Broadcaster's number → newest computed epoch, and who is owed something since then."""

    _lock: Lock = field(default_factory=Lock, repr=False)

    def take(self, raw: bytes) -> dict[str, Any]:
        """Keep an instruction and tell what became of it so far.

        Args:
            raw: The bytes as they came; the size was bounded while they were read.

        Raises:
            RefusedError: Malformed, not signed by whom it takes, for nobody here, by a payee whom
                nobody owes anything; or too much waits already.
        """
        try:
            signed = parse_instruction(raw)
        except MalformedError as error:
            raise refuse_malformed(error) from None
        now = self.collector.read_time()
        with self.collector.sessions.begin() as session:
            shard = _shard_of(session, signed.value)
            known = find_instruction(session, shard, signed.digest)
            if known is not None:
                return describe_instruction(known)
            newest = terms_in_force(session, shard).value
            epoch = newest.epoch_at(now.now_s)
            terms = terms_in_force(session, shard, epoch).value
            dao_key = activation_in_force(session, shard, epoch).value.dao_key
            code = judge_instruction(signed, terms, dao_key=dao_key)
            if code != InstructionCode.APPLIED:
                raise _refuse(signed, code)
            self._require_payee(session, shard, signed.value)
            _require_room(session, shard, signed.value)
            keep_instruction(session, shard, signed)
            stored = find_instruction(session, shard, signed.digest)
        # The instruction is durable from here on.
        if stored is None:
            raise AssertionError(f"instruction {signed.digest.hex()}: kept, and not there")
        return describe_instruction(stored)

    def read(self, session: Session, shard: Shard, digest: bytes) -> dict[str, Any]:
        """Tell what became of an instruction.

        Raises:
            RefusedError: 404, there is none with this digest.
        """
        stored = find_instruction(session, shard, digest)
        if stored is None:
            raise RefusedError(
                404, "unknown_instruction", field="digest", got=digest, want="a kept instruction"
            )
        return describe_instruction(stored)

    def list_of(self, session: Session, shard: Shard, subject: bytes, after: int) -> dict[str, Any]:
        """Tell what became of everything that was said about an account or transaction."""
        rows = list_instructions(session, shard, subject, after=after)
        return {
            "subject": subject.hex(),
            "instructions": [describe_instruction(row) for row in rows],
        }

    def _require_payee(self, session: Session, shard: Shard, value: Instruction) -> None:
        if not isinstance(value, PayeeInstruction):
            return
        if value.account not in self._payee_accounts(session, shard):
            raise RefusedError(
                422,
                "unknown_account",
                field="payee_instruction.account",
                got=value.account,
                want="an account that an earlier epoch credited",
            )

    def _payee_accounts(self, session: Session, shard: Shard) -> frozenset[bytes]:
        """Return who was ever owed anything, read once an epoch."""
        epoch = newest_computed_epoch(session, shard)
        if epoch is None:
            return frozenset()
        with self._lock:
            at, accounts = self._payees.get(shard.id, (-1, frozenset()))
            if at != epoch:
                accounts = load_payee_accounts(session, shard, epoch)
                self._payees[shard.id] = (epoch, accounts)
        return accounts


def _shard_of(session: Session, value: Instruction) -> Shard:
    try:
        return find_shard(session, value.broadcaster_account)
    except UnknownBroadcasterError as error:
        raise RefusedError(
            404,
            "unknown_broadcaster",
            field="instruction.broadcaster_account",
            got=error.account,
            want="a broadcaster of this collector",
        ) from None


def _refuse(signed: Signed[Instruction], code: InstructionCode) -> RefusedError:
    status, word, want = _REFUSALS[code]
    return RefusedError(
        status,
        word,
        field=code_of_instruction(signed.value).name.lower(),
        got=subject_of(signed.value),
        want=want,
    )


def _require_room(session: Session, shard: Shard, value: Instruction) -> None:
    subject = subject_of(value)
    if count_waiting(session, shard, subject) >= WAITING_OF_SUBJECT_MAX:
        raise RefusedError(
            429,
            "too_many_instructions",
            field="instruction.subject",
            got=subject,
            want=f"at most {WAITING_OF_SUBJECT_MAX} before the next seal",
            retry_after_s=_RETRY_S,
        )
    if count_waiting(session, shard) >= WAITING_MAX:
        raise RefusedError(503, "instructions_full", retry_after_s=_RETRY_S)


def describe_instruction(stored: StoredInstruction) -> dict[str, Any]:
    """Return an instruction's fate as JSON objects."""
    signed = parse_instruction(stored.raw)
    state = "waiting" if stored.sealed_epoch is None else "sealed"
    if stored.code is not None:
        state = "without_effect" if stored.code else "applied"
    return {
        "id": stored.id,
        "digest": stored.digest.hex(),
        "kind": code_of_instruction(signed.value).name.lower(),
        "subject": subject_of(signed.value).hex(),
        "state": state,
        "sealed_epoch": stored.sealed_epoch,
        "code": None if stored.code is None else int(stored.code),
        "code_name": None if stored.code is None else stored.code.name.lower(),
    }
