"""The database of simulated worlds: emptied for each, backed up within one, and brought back.

A world's workers use it as any client of Postgres does. Its backup holds all rows and sequences
(`ledger.store.copies`), so that what comes back is what was there, to the byte.
"""

from ledger.store.copies import RowCopies, Rows, copy_database, drop_database
from ledger.store.engine import SessionFactory, close_sessions, open_sessions


class WorldDatabase:
    """One database that worlds use one after another."""

    def __init__(self, server_url: str, template: str, name: str) -> None:
        """Make it.

        Args:
            server_url: The server's database `postgres`: connected to while another is copied.
            template: Name of a migrated database without rows, nobody connected to it.
            name: Of the new database.
        """
        self._server_url, self._name = server_url, name
        copy_database(server_url, template, name)
        url = server_url.replace("/postgres?", f"/{name}?")
        self.sessions: SessionFactory = open_sessions(url)
        """The factory of its sessions."""

        self._copies = RowCopies(url)
        self._backup: Rows | None = None

    def clear(self) -> None:
        """Delete all rows, for the next world."""
        close_sessions(self.sessions)
        self._copies.clear()
        self._backup = None

    def back_up(self) -> None:
        """Keep everything as it is now, instead of the backup before."""
        self._backup = self._copies.take()

    def restore(self) -> None:
        """Lose everything, and come back as it was at the last backup.

        Raises:
            ValueError: There is no backup.
        """
        if self._backup is None:
            raise ValueError("backup: got none, want one")
        # Nobody's connection outlives a database.
        close_sessions(self.sessions)
        self._copies.put_back(self._backup)

    def close(self) -> None:
        """Drop it."""
        close_sessions(self.sessions)
        self._copies.close()
        drop_database(self._server_url, self._name)
