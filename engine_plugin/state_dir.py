"""The state directory of one engine: its lock, its keys, its two databases.

    lock             held while an engine runs here
    session.seed     private seed of the session key (0600)
    account.seed     private seed of the account, when none was given (0600)
    engine.toml      the owner's settings
    terms.bin        the terms worked under last
    binding.bin      the account's signed binding of the session key
    meter.sqlite     the meter journal and the receipts signed over it
    spool.sqlite     receipts that pay this engine, bundles, promises, refusals

The session key persists with the journal because only it can go on with the lanes it has begun.
"""

import fcntl
import os
from pathlib import Path

from engine_plugin.damage import choose_aside, find_damage, move_database
from engine_plugin.errors import EngineError
from engine_plugin.key_files import load_or_make_seed, write_private
from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.encoding import Signed
from ledger.evidence.errors import EvidenceError
from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import Terms

SESSION_FILE = "session.seed"
ACCOUNT_FILE = "account.seed"


class StateDirError(EngineError):
    """The directory cannot be used: in use by another engine, not ours, or not writable."""


class StateDir:
    """An open, locked state directory."""

    def __init__(self, path: Path) -> None:
        """Create the directory if need be, and lock it.

        Raises:
            StateDirError: Another engine runs here, or the directory cannot be used.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateDirError(f"{path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StateDirError(f"{path}: another engine runs with this state directory") from None
        # SQLite gives its side files the mode of the database it finds.
        self.journal_path.touch(mode=0o600)
        self.spool_path.touch(mode=0o600)

    @property
    def journal_path(self) -> Path:
        """The meter journal."""
        return self.path / "meter.sqlite"

    @property
    def spool_path(self) -> Path:
        """The spool."""
        return self.path / "spool.sqlite"

    def set_damaged_aside(self) -> tuple[Path, str] | None:
        """Begin anew when the meter journal is damaged.

        Without its journal a session key does not know which lanes it has signed how far, and
        going on would contradict itself. So journal, spool and session key go together into a
        folder of their own, from which `engine send` still uploads what the spool holds; the
        next run has a new key.

        Returns:
            That folder and what is wrong, or None when the journal is sound.

        Raises:
            EngineError: It cannot be looked at or put aside.
        """
        reason = find_damage(self.journal_path)
        if reason is None:
            return None
        aside = choose_aside(self.path / "state")
        try:
            aside.mkdir(mode=0o700)
            for name in ("session.seed", "binding.bin"):
                if (self.path / name).exists():
                    (self.path / name).rename(aside / name)
            account = self.path / "account.seed"
            if account.exists():
                os.link(account, aside / account.name)
        except OSError as error:
            raise StateDirError(f"{aside}: {error.strerror}") from None
        move_database(self.spool_path, aside / self.spool_path.name)
        # The journal last: until it is gone, this is found again and ends the same.
        move_database(self.journal_path, aside / self.journal_path.name)
        self.journal_path.touch(mode=0o600)
        self.spool_path.touch(mode=0o600)
        return aside, reason

    def load_session_seed(self) -> bytes:
        """Return the session key's seed, made at first use.

        Raises:
            KeyFileError: The file cannot be read, made, or is open to others.
        """
        return load_or_make_seed(self.path / SESSION_FILE)

    def load_account_seed(self, given: Path | None) -> bytes:
        """Return the account's seed: of the given file, else of one made at first use.

        Raises:
            KeyFileError: The file cannot be read, made, or is open to others.
        """
        return load_or_make_seed(given if given is not None else self.path / ACCOUNT_FILE)

    def load_binding(
        self, terms: Terms, *, account_seed: bytes, session_seed: bytes
    ) -> Signed[Binding]:
        """Return the binding of session key to account, the same bytes at every start.

        Raises:
            StateDirError: The file cannot be written.
        """
        path = self.path / "binding.bin"
        wanted = (
            terms.network_id,
            public_key_of(account_seed),
            public_key_of(session_seed),
            terms.first_epoch,
            terms.last_epoch,
        )
        serial = 1
        try:
            stored = BINDING.parse(path.read_bytes())
            value = stored.value
            stated = (value.network_id, value.account, value.key)
            if (*stated, value.first_epoch, value.last_epoch) == wanted:
                if is_valid_binding(stored):
                    return stored
            elif stated == wanted[:3]:
                serial = value.serial + 1
        except FileNotFoundError:
            pass
        except EvidenceError:
            serial = 2
        binding = Binding(
            network_id=wanted[0],
            account=wanted[1],
            key=wanted[2],
            role=Role.SESSION,
            first_epoch=wanted[3],
            last_epoch=wanted[4],
            serial=serial,
        )
        signed = BINDING.sign(binding, account_seed, session_seed)
        try:
            write_private(path, signed.raw)
        except OSError as error:
            raise StateDirError(f"{path}: {error.strerror}") from None
        return signed

    def close(self) -> None:
        """Unlock the directory."""
        os.close(self._lock)
