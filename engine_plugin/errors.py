"""What can go wrong in the engine plugin.

EngineError
├── ContentError    the content or its torrent cannot be used; the person can mend it
├── SessionError    libtorrent could not be started or refused a request
├── JournalError    the meter journal could not be written or read; metering goes on in memory
│   └── ScopeError  the same torrent cannot be metered for two streams
├── CollectorUnavailableError  no answer of the collector that counts; it may come later
├── CollectorRefusedError      the collector's refusal, with its code
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


class CollectorUnavailableError(EngineError):
    """No answer that counts; asking again may help. `retry_after_s` is what the server wished."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CollectorRefusedError(EngineError):
    """A refusal with a stable code; sending the same again does not help."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
