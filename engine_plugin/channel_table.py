"""Every side channel of this process: how many there may be, and which of two stays.

At most one proved channel per key. Strangers, and channels from one address, are limited, so that
whoever opens many costs a bounded amount of memory and leaves room for others.

Not here: what a channel says (`side_channel`).
"""

from collections import Counter
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from engine_plugin.errors import EngineError
from engine_plugin.wire import ChannelRole, Endpoint

CHANNELS_MAX = 512
"""Most channels at once, unproved ones included."""

STRANGERS_PER_ADDRESS_MAX = 16
"""Most unproved channels from one address."""

PROVED_PER_ADDRESS_MAX = 64
"""Most proved channels from one address: a key costs nothing, an address does."""


class Refusal(StrEnum):
    """Why a channel was closed by us."""

    WRONG_NETWORK = "wrong_network"
    WRONG_BROADCASTER = "wrong_broadcaster"
    WRONG_ROLE = "wrong_role"
    WRONG_KEY = "wrong_key"
    OWN_KEY = "own_key"
    WEAK_KEY = "weak_key"
    PEER_ID_MISMATCH = "peer_id_mismatch"
    BAD_PROOF = "bad_proof"
    BAD_SEAL = "bad_seal"
    FOREIGN_ADDRESS = "foreign_address"
    MALFORMED = "malformed"
    OUT_OF_TURN = "out_of_turn"
    TOO_MANY = "too_many"
    TOO_FAST = "too_fast"
    TOO_SLOW = "too_slow"
    REPLACED = "replaced"
    CLOSED = "closed"


class ChannelRefusedError(EngineError):
    """The other side broke a rule of the channel; `refusal` says which."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(f"side channel: {refusal}{': ' if detail else ''}{detail}")
        self.refusal = refusal


class Tabled(Protocol):
    """What the table needs to know of a channel."""

    role: ChannelRole
    is_stranger: bool
    address: Endpoint
    origin: str
    """Under what it is counted: an address that is really the peer's, or one word for all whose
    address only they themselves state."""

    @property
    def peer_key(self) -> bytes:
        """The peer's session key."""

    @property
    def session_id(self) -> bytes:
        """The peer's process run."""

    @property
    def is_preferred(self) -> bool:
        """Whether the channel stays when both dialled at once."""

    def close(self) -> None:
        """End the channel."""


ChannelT = TypeVar("ChannelT", bound=Tabled)


class ChannelTable(Generic[ChannelT]):
    """Every channel of this process, at most one proved one per key."""

    def __init__(self) -> None:
        self.proved: dict[bytes, ChannelT] = {}
        self.strangers: Counter[str] = Counter()
        self.all: set[ChannelT] = set()
        self._proved_at: Counter[str] = Counter()

    def add(self, channel: ChannelT) -> None:
        """Take a new, unproved channel.

        Raises:
            ChannelRefusedError: There are too many, in all or from one address.
        """
        is_crowded = self.strangers[channel.origin] >= STRANGERS_PER_ADDRESS_MAX
        if is_crowded or len(self.all) >= CHANNELS_MAX:
            raise ChannelRefusedError(Refusal.TOO_MANY, channel.origin)
        self.all.add(channel)
        self.strangers[channel.origin] += 1

    def admit(self, channel: ChannelT) -> None:
        """Make a channel the one of its key; both sides choose the same of two.

        Raises:
            ChannelRefusedError: Another channel of the key is kept, or its address has too many.
        """
        self._leave_strangers(channel)
        current = self.proved.get(channel.peer_key)
        if current is not None:
            is_same_run = current.session_id == channel.session_id
            # Both dialled at once: the channel that the smaller key dialled stays. Otherwise the
            # peer has come back, and the newer channel is the one it listens on.
            if is_same_run and current.role is not channel.role and current.is_preferred:
                raise ChannelRefusedError(Refusal.REPLACED)
            self._leave_proved(current)
            current.close()
        if self._proved_at[channel.origin] >= PROVED_PER_ADDRESS_MAX:
            raise ChannelRefusedError(Refusal.TOO_MANY, channel.origin)
        self.proved[channel.peer_key] = channel
        self._proved_at[channel.origin] += 1

    def forget(self, channel: ChannelT) -> None:
        """Drop a channel that has ended."""
        if self.proved.get(channel.peer_key) is channel:
            self._leave_proved(channel)
        if channel in self.all:
            self._leave_strangers(channel)
            self.all.discard(channel)

    def _leave_proved(self, channel: ChannelT) -> None:
        del self.proved[channel.peer_key]
        _subtract(self._proved_at, channel.origin)

    def _leave_strangers(self, channel: ChannelT) -> None:
        if channel in self.all and channel.is_stranger:
            channel.is_stranger = False
            _subtract(self.strangers, channel.origin)


def _subtract(counts: Counter[str], address: str) -> None:
    counts[address] -= 1
    if not counts[address]:
        del counts[address]
