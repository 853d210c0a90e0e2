"""Evidence: what parties and public have of an operator's epochs, found by digest.

Bundles come from the spools of those who sent them; terms and bindings are public and signed;
instructions stand beside the log. Whoever brings something is not believed: what counts is that its
digest is the one that the log's key signed for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.encoding import Signed
from ledger.evidence.instruction import Instruction, order_of_instruction, parse_instruction
from ledger.evidence.terms import Terms, parse_terms, require_valid_terms
from ledger.publiclog.spool_file import read_bundle_bytes
from ledger.rebuilding.errors import RebuildError


@dataclass(kw_only=True)
class Evidence:
    """Everything that was brought, by digest."""

    broadcaster: bytes
    """Account key whose books are rebuilt; 32 bytes."""

    bundles: dict[bytes, bytes] = field(default_factory=dict)
    terms: dict[bytes, Signed[Terms]] = field(default_factory=dict)
    bindings: list[Signed[Binding]] = field(default_factory=list)
    instructions: dict[int, tuple[Signed[Instruction], ...]] = field(default_factory=dict)
    """By the epoch that sealed them, in `order_of_instruction`."""

    promises: dict[bytes, bytes] = field(default_factory=dict)
    """What the collector promised, signed, by the bundle's digest, as far as a party kept it."""

    def add_spool(self, path: Path) -> int:
        """Take the bundles of a party's spool; returns how many were new.

        Raises:
            UndecidableError: It is no spool.
        """
        before = len(self.bundles)
        for bundle, raw in read_bundle_bytes(path):
            self.bundles[bundle.digest] = raw
            if bundle.promise is not None:
                self.promises[bundle.digest] = bundle.promise.raw
        return len(self.bundles) - before

    def add_terms(self, raw: bytes) -> None:
        """Take signed terms of the broadcaster.

        Raises:
            EvidenceError: They are malformed or not signed by the key they name.
            RebuildError: They are another broadcaster's.
        """
        signed = parse_terms(raw)
        require_valid_terms(signed)
        if signed.value.broadcaster_account != self.broadcaster:
            raise RebuildError(
                f"terms {signed.digest.hex()}: got those of "
                f"{signed.value.broadcaster_account.hex()}, want {self.broadcaster.hex()}"
            )
        self.terms[signed.digest] = signed

    def add_binding(self, raw: bytes) -> None:
        """Take a binding of an issuing key by the broadcaster's account.

        Raises:
            EvidenceError: It is malformed.
            RebuildError: It is not signed by both, or binds no issuing key of this broadcaster.
        """
        signed = BINDING.parse(raw)
        binding = signed.value
        is_ours = binding.account == self.broadcaster and binding.role == Role.ISSUING
        if not is_ours or not is_valid_binding(signed):
            raise RebuildError(
                f"binding of {binding.key.hex()}: got an unusable one, want an issuing key's, "
                "signed by it and by the broadcaster's account"
            )
        self.bindings.append(signed)

    def add_instructions(self, epoch: int, raws: Iterable[bytes]) -> None:
        """Take an epoch's instructions as they were sent, in any order.

        Raises:
            EvidenceError: One is malformed.
        """
        signed = [parse_instruction(raw) for raw in raws]
        self.instructions[epoch] = tuple(sorted(signed, key=order_of_instruction))

    def instructions_of(self, epoch: int) -> tuple[Signed[Instruction], ...]:
        """Return what was brought of an epoch's instructions."""
        return self.instructions.get(epoch, ())

    def issued_through(self, issuing_key: bytes) -> int:
        """Return the last epoch in which an issuing key acts: its newest binding says.

        Raises:
            RebuildError: Nobody brought a binding of this key.
        """
        found = [one.value for one in self.bindings if one.value.key == issuing_key]
        if not found:
            raise RebuildError(f"issuing key {issuing_key.hex()}: got no binding, want one")
        return max(found, key=lambda binding: binding.serial).last_epoch


def find_spools(folders: Sequence[Path]) -> list[Path]:
    """Return every file below the folders that is named like an engine's spool."""
    return sorted(path for folder in folders for path in folder.rglob("spool.sqlite"))
