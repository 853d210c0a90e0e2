"""The instructions of an epoch as one file beside its log: `instructions/<epoch>`.

The seal leaf says how many there are and their root; with the file anybody can compute what they
came to. Layout: for each instruction in `order_of_instruction`, its length as u16 little-endian and
the signed record. Epochs without instructions have no file.
"""

import re
from collections.abc import Iterable
from typing import Final

from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.instruction import INSTRUCTION_SIZE_MAX
from ledger.evidence.leaf import SealLeaf
from ledger.evidence.merkle import root_hash

INSTRUCTION_LIST_BYTES_MAX: Final = 10_000 * (INSTRUCTION_SIZE_MAX + 2)
"""Longest file: an epoch seals at most 10,000 instructions."""

_PATH: Final = re.compile(r"instructions/(0|[1-9][0-9]{0,9})", re.ASCII)


def instruction_list_path(epoch: int) -> str:
    """Return the path of an epoch's file, relative to the log."""
    return f"instructions/{epoch}"


def is_instruction_list_path(path: str) -> bool:
    """Tell whether a path is one of these files'."""
    return _PATH.fullmatch(path) is not None


def format_instruction_list(raws: Iterable[bytes]) -> bytes:
    """Return the file of instructions as they were signed, in their order in the seal."""
    return b"".join(len(raw).to_bytes(2, "little") + raw for raw in raws)


def parse_instruction_list(data: bytes) -> tuple[bytes, ...]:
    """Return the signed records of a file; nothing is said about what they are.

    Raises:
        MalformedRecordError: A length runs beyond the end, or is beyond what a record can have.
    """
    raws: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        end = at + 2 + size
        if at + 2 > len(data) or end > len(data) or not 0 < size <= INSTRUCTION_SIZE_MAX:
            raise MalformedRecordError(
                "instruction_list.length", got=size, want="that of a whole record"
            )
        raws.append(data[at + 2 : end])
        at = end
    return tuple(raws)


def are_sealed(raws: tuple[bytes, ...], seal: SealLeaf) -> bool:
    """Tell whether instructions are exactly those of a seal."""
    return len(raws) == seal.instruction_count and root_hash(list(raws)) == seal.instructions_root
