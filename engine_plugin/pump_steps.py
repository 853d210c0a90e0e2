"""What one step of the pump brought. Plain data."""

from dataclasses import dataclass, field

from engine_plugin.journal_records import Source
from engine_plugin.libtorrent_door import Notice, PieceRead


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step brought."""

    notices: tuple[Notice, ...]
    credited_bytes: int
    """Content bytes that became firm in this step."""
    committed: bool
    """Whether a batch was made durable."""
    journal_error: str | None = None
    """Why the batch could not be written; it is kept and tried again."""
    pieces: tuple[tuple[int, int, int], ...] = ()
    """(`EventKind` PASSED, FAILED or CHECKING, torrent, piece), in queue order."""
    reads: tuple[PieceRead, ...] = ()
    removed_bytes: dict[Source, int] = field(default_factory=dict)
    """Firm content bytes by source of the torrent that this step removed."""

    @property
    def tells_something(self) -> bool:
        """Whether anybody need look at it: most steps of an upload bring sent blocks only."""
        told = self.notices or self.pieces or self.reads or self.removed_bytes
        return bool(told) or self.committed or self.journal_error is not None


def join_steps(first: StepResult, second: StepResult) -> StepResult:
    """Return two steps as one; whether it is durable is the second's word."""
    return StepResult(
        notices=(*first.notices, *second.notices),
        credited_bytes=first.credited_bytes + second.credited_bytes,
        committed=second.committed,
        journal_error=second.journal_error,
        pieces=(*first.pieces, *second.pieces),
        reads=(*first.reads, *second.reads),
    )
