"""When the world misbehaves, and how: faults in spells, chosen by a seed.

A spell is a kind of fault over a few network ledgers. While one is on, answers and ledgers are
spoiled by chance, so that good and bad ones mix as they do in life.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

SPELL_LEDGERS_MAX: Final = 8
SPELL_SHARE: Final = 0.6
"""Share of answers and ledgers that a spell spoils."""

BAD_LINE_SHARE: Final = 0.05
"""The same of every other spell of lost requests: a tick asks dozens of times, and gets on then."""

CALM: Final = "none"
"""No spell is on."""


class FaultKind(StrEnum):
    """What can go wrong outside of us."""

    DROP = "drop"
    """A request is lost before it has an effect."""

    RESET_AFTER_ACCEPT = "reset_after_accept"
    """A submission is taken, and the connection breaks before the answer."""

    GATEWAY_TIMEOUT = "gateway_timeout"
    """A submission is taken, and the answer is HTTP 504."""

    LATE = "late"
    """A submission times out here and reaches the node some ledgers later."""

    DUPLICATE = "duplicate"
    """A submission reaches the node twice, the second time later."""

    STALE_REPLICA = "stale_replica"
    """A source answers as of some ledgers ago."""

    HIDDEN = "hidden"
    """A source knows newer ledgers, and none of their transactions yet."""

    SURGE = "surge"
    """Others fill the network ledgers."""

    STALL = "stall"
    """No network ledger closes."""

    TIME_JUMP = "time_jump"
    """A network ledger closes much later than expected."""

    LOST_QUEUE = "lost_queue"
    """The node forgets what waited."""

    RESTORED_BACKUP = "restored_backup"
    """The database comes back as it was some ledgers ago."""

    FROZEN = "frozen"
    """The validators freeze a payee's trustline (CAP-77) as long as the spell lasts."""

    REVOKED = "revoked"
    """The issuer takes a payee's authorization to hold the asset as long as the spell lasts."""

    CLAWED_BACK = "clawed_back"
    """The issuer claws back what a payee was paid (CAP-35)."""


SPELLS: Final = (*map(str, FaultKind), CALM)
"""All that can be on."""


@dataclass
class Weather:
    """The spells of one world, ledger by ledger."""

    chance: random.Random
    focus: FaultKind | None
    """The kind that most spells have; None: any."""

    calm: bool = False
    """Nothing goes wrong."""

    struck: Counter[str] = field(default_factory=Counter)
    """How often each kind struck."""

    _now: FaultKind | None = None
    _left: int = 0
    _share: float = SPELL_SHARE

    def turn(self) -> None:
        """Go on by one network ledger."""
        if self._left > 0:
            self._left -= 1
            return
        self._now = None
        if self.calm or self.chance.random() < 0.3:
            return
        kinds = list(FaultKind)
        is_focused = self.focus is not None and self.chance.random() < 0.6
        self._set(self.focus if is_focused else self.chance.choice(kinds))

    def turn_to(self, spell: str) -> None:
        """Begin a spell at once, to last into the next network ledgers; `CALM`: none."""
        self._set(None if spell == CALM else FaultKind(spell))
        self._left += 1

    def _set(self, kind: FaultKind | None) -> None:
        self._now = kind
        self._left = self.chance.randrange(SPELL_LEDGERS_MAX)
        is_bad_line = kind is FaultKind.DROP and self.chance.random() < 0.5
        self._share = BAD_LINE_SHARE if is_bad_line else SPELL_SHARE

    def strikes(self, kind: FaultKind) -> bool:
        """Tell whether a fault of a kind strikes here; counted if so."""
        if self.calm or self._now is not kind or self.chance.random() >= self._share:
            return False
        self.struck[kind] += 1
        return True

    @property
    def spell(self) -> str:
        """The kind whose spell is on, or `CALM`."""
        return str(self._now) if self._now is not None and not self.calm else CALM

    def clear_up(self) -> None:
        """Let nothing go wrong any more."""
        self.calm = True
