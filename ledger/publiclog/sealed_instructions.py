"""Instructions beside a log: exactly those that the seal leaves count, or the log is not whole."""

from collections.abc import Iterator

from ledger.audit.errors import DisprovenError
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import EvidenceError
from ledger.evidence.instruction_list import (
    are_sealed,
    instruction_list_path,
    parse_instruction_list,
)
from ledger.evidence.leaf import SEAL_LEAF, SealLeaf, code_of_leaf


def seal_with_instructions(leaf: bytes) -> Iterator[SealLeaf]:
    """Yield a leaf if it seals instructions, nothing else.

    Raises:
        MalformedRecordError: It is no leaf.
    """
    if code_of_leaf(leaf) == RecordCode.LEAF_SEAL:
        seal = SEAL_LEAF.parse_body(leaf)
        if seal.instruction_count:
            yield seal


def require_instructions(content: bytes | None, seal: SealLeaf) -> tuple[bytes, ...]:
    """Return the instructions of a file that must be those of a seal.

    Args:
        content: The file; None: there is none.
        seal: What the log says of them.

    Raises:
        DisprovenError: They are not.
    """
    path = instruction_list_path(seal.epoch)
    if content is None:
        raise DisprovenError(f"{path}: got no file, want {seal.instruction_count} instructions")
    try:
        raws = parse_instruction_list(content)
    except EvidenceError as error:
        raise DisprovenError(f"{path}: {error}") from error
    if not are_sealed(raws, seal):
        raise DisprovenError(f"{path}: got other instructions, want those of the seal")
    return raws
