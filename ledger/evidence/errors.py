"""What can be wrong with a piece of evidence.

    EvidenceError
    ├── MalformedError                the bytes are not in the format; carries field, got, want
    │   ├── MalformedRecordError      a fixed-width binary record (terms, receipt, bundle, …)
    │   ├── MalformedNoteError        a signed note, a key line or a key name
    │   ├── MalformedCheckpointError  the body of a checkpoint
    │   ├── MalformedProofError       a Merkle, sum-tree or transparency-log proof
    │   └── MalformedTileError        a tile, its path or an entry bundle
    └── VerificationError             the bytes are in the format and the statement is not proven
        ├── BadSignatureError
        ├── InclusionError
        └── ConsistencyError

A malformed input was never a statement at all; a failed verification is a statement that does
not hold. A caller that reads untrusted bytes catches `EvidenceError`. A wrong argument from our
own code is a programming error and raises `ValueError`, which is not in this tree.
"""

_LONGEST_SHOWN = 120


class EvidenceError(Exception):
    """Base of everything in this package that untrusted bytes can cause."""


class MalformedError(EvidenceError):
    """The bytes are not in the format, or would not print back identically.

    Attributes:
        field: Where in the format the fault is, such as "checkpoint.size".
        got: What stood there; long values are shortened in the message, not here.
        want: What the format asks for.
    """

    def __init__(self, field: str, *, got: object, want: str) -> None:
        super().__init__(f"{field}: got {_shortened(got)}, want {want}")
        self.field = field
        self.got = got
        self.want = want


class MalformedRecordError(MalformedError):
    """A fixed-width binary record is malformed."""


class MalformedNoteError(MalformedError):
    """A signed note, a verifier key line or a key name is malformed."""


class MalformedCheckpointError(MalformedError):
    """The body of a checkpoint is malformed."""


class MalformedProofError(MalformedError):
    """A Merkle, sum-tree or transparency-log proof is malformed."""


class MalformedTileError(MalformedError):
    """A tile, its path or an entry bundle is malformed."""


class VerificationError(EvidenceError):
    """The input is well-formed and does not prove what it should."""


class BadSignatureError(VerificationError):
    """A signature is missing, or does not verify under the key it names."""


class BadSealError(VerificationError):
    """Bytes were not sealed between these two keys."""


class InclusionError(VerificationError):
    """A leaf is not shown to be in the tree."""


class ConsistencyError(VerificationError):
    """One tree is not shown to be a prefix of the other."""


def _shortened(value: object) -> str:
    if isinstance(value, bytes | str) and len(value) > _LONGEST_SHOWN:
        # Never print a hostile gigabyte only to cut it.
        kind = "bytes" if isinstance(value, bytes) else "characters"
        return f"{value[:_LONGEST_SHOWN]!r:.{_LONGEST_SHOWN}}… ({len(value)} {kind})"
    text = repr(value)
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[:_LONGEST_SHOWN]}… ({len(text)} characters)"
