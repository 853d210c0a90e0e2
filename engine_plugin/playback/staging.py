"""The order of the next pieces while a CDN helps a player who waits: priorities, no deadlines.

A piece with a deadline is asked for at once, of whoever is connected; a web seed, which comes up to
a second later, finds all of them taken, is asked for pieces of no use now, and the player waits for
the slowest peer's queue. So the next pieces have no deadline here. A web seed is asked for a long
run: from a piece of the highest priority backwards to the first untouched one, then forwards; so
the last pieces of the next run have that priority. What lies before the player is not wanted for as
long, or runs would begin there. Pieces that anybody has begun have it too: they are waited for.

Not here: when this order is of use (`hybrid`), and what the player needs (`piece_desk`).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from engine_plugin.torrents import TorrentFile

RUN_BYTES: Final = 1 << 20
"""The shortest run that libtorrent asks a web seed for, whatever it is told."""

_FIRST: Final = 7
_AS_USUAL: Final = 4
_NOT_WANTED: Final = 0
_END_PIECES: Final = 4
"""So many that peers do not take all of them before the web seed is asked."""

_LATE_S: Final = 0.7
"""A first piece that is awaited for so long has got stuck; large ones get time in proportion."""

_LATER_MS: Final = 60_000


class StagedSource(Protocol):
    """What a stage asks of a content; `engine_plugin.content.Content` is one."""

    @property
    def torrent(self) -> TorrentFile:
        """The torrent file's facts."""

    def has_piece(self, piece: int) -> bool:
        """Say whether a piece is here."""

    def touched_pieces(self) -> set[int]:
        """Return the missing pieces of which anything was asked for or is here."""

    def want_piece(self, piece: int, deadline_ms: int) -> None:
        """Ask for a piece before others; milliseconds from now."""

    def forget_deadlines(self) -> None:
        """Take back every `want_piece`."""

    def set_priorities(self, priorities: Mapping[int, int]) -> None:
        """Set pieces' priorities: 0 = not wanted, 4 = as usual, 7 = first."""


class Stage:
    """One content's order while a CDN helps out."""

    def __init__(self, source: StagedSource) -> None:
        """Bind a content; nothing is ordered yet.

        Args:
            source: The content.
        """
        self.is_on = False
        """Whether priorities order the next pieces now."""
        self._source = source
        self._run = max(1, RUN_BYTES // source.torrent.layout.piece_bytes)
        self._set: dict[int, int] = {}
        self._late_s = _LATE_S * max(1, source.torrent.layout.piece_bytes * 2 / RUN_BYTES)
        self._first, self._first_s, self._is_late = -1, 0.0, False

    def begin(self, pieces: Sequence[int], now_s: float, *, had_deadlines: bool) -> None:
        """Order pieces by priority, and have what was asked for taken back.

        Args:
            pieces: Missing ones, the first needed first.
            now_s: Monotonic seconds.
            had_deadlines: Whether any piece has one; they are forgotten.
        """
        self.is_on = True
        if had_deadlines and pieces:
            self._cancel(pieces)
        self.update(pieces, now_s)

    def update(self, pieces: Sequence[int], now_s: float) -> None:
        """Follow the player, and what was asked for meanwhile.

        Args:
            pieces: Missing ones, the first needed first.
            now_s: Monotonic seconds.
        """
        first = pieces[0] if pieces else -1
        if first != self._first:
            self._first, self._first_s, self._is_late = first, now_s, False
        elif pieces and now_s - self._first_s >= self._late_s:
            self._first_s = now_s
            if self._is_late:
                # Whoever holds it is gone: it is taken back.
                self._cancel(pieces)
            else:
                # Whoever holds it is asked for nothing else, and others are asked for it too.
                self._source.want_piece(first, 0)
            self._is_late = not self._is_late
        self._apply(self._grade(pieces) if pieces else {})

    def clear(self) -> None:
        """Let everything have its usual priority; deadlines are not touched."""
        self._apply({})
        self.is_on, self._first = False, -1

    def _apply(self, wanted: dict[int, int]) -> None:
        changes = {
            piece: priority
            for piece, priority in wanted.items()
            if self._set.get(piece) != priority
        }
        changes |= dict.fromkeys(self._missing(set(self._set) - set(wanted)), _AS_USUAL)
        self._set = wanted
        if changes:
            self._source.set_priorities(changes)

    def _cancel(self, pieces: Sequence[int]) -> None:
        self._source.forget_deadlines()
        # The first deadline after none has libtorrent cancel what was asked for without one.
        far = self._find_further(pieces)
        self._source.want_piece(pieces[-1] if far is None else far, _LATER_MS)

    def _missing(self, pieces: Collection[int]) -> list[int]:
        return [piece for piece in pieces if not self._source.has_piece(piece)]

    def _grade(self, pieces: Sequence[int]) -> dict[int, int]:
        graded: dict[int, int] = {}
        # With nothing wanted further on the content would count as finished for a moment.
        if self._find_further(pieces) is not None:
            behind = range(max(0, pieces[0] - self._run + 1), pieces[0])
            graded = dict.fromkeys(self._missing(behind), _NOT_WANTED)
        touched = self._source.touched_pieces()
        begun = [piece for piece in pieces[: 2 * self._run] if piece in touched]
        return graded | dict.fromkeys((*begun, *self._find_ends(pieces, touched)), _FIRST)

    def _find_ends(self, pieces: Sequence[int], touched: Collection[int]) -> list[int]:
        """Return the last pieces of the next runs that a web seed can be asked for."""
        runs: list[list[int]] = []
        for piece in pieces:
            if piece in touched:
                continue
            if runs and runs[-1][-1] == piece - 1 and len(runs[-1]) < self._run:
                runs[-1].append(piece)
            elif sum(map(len, runs)) >= _END_PIECES:
                break
            else:
                runs.append([piece])
        return [piece for run in runs for piece in run[-_END_PIECES:]]

    def _find_further(self, pieces: Sequence[int]) -> int | None:
        """Return a missing piece after all those; None: there is none."""
        after = range(max(pieces) + 1, self._source.torrent.layout.piece_count)
        return next((piece for piece in after if not self._source.has_piece(piece)), None)
