"""What can go wrong in the engine plugin.

EngineError
├── ContentError    the content or its torrent cannot be used; the person can mend it
├── SessionError    libtorrent could not be started or refused a request
├── JournalError    the meter journal could not be written or read; metering goes on in memory
│   └── ScopeError  the same torrent cannot be metered for two streams
└── WrongInputError an option, a setting or a typed text is wrong; each field has its own
"""


class EngineError(Exception):
    """Base of the plugin's own errors."""


class WrongInputError(EngineError):
    """What was typed or configured is wrong: field, got, want. Trying again does not help."""


class ContentError(EngineError):
    """A file, folder or torrent cannot be shared or fetched; the message names it and says why."""


class SessionError(EngineError):
    """libtorrent could not listen, or refused a torrent or a setting."""


class JournalError(EngineError):
    """The journal's database refused a read or a write; a retry may succeed (disk full, locked)."""


class ScopeError(JournalError):
    """A torrent has been metered for another stream or content; trying again does not help."""
