"""Tells whether the process that an engine works for is gone."""

import os


class OrphanWatch:
    """Watches one process; made while it still lives."""

    def __init__(self, pid: int | None) -> None:
        """Bind a watch.

        Args:
            pid: The process to watch; None: nobody is watched and nothing is ever gone.
        """
        self._pid = pid
        self._first_parent_pid = os.getppid()

    def is_orphan(self) -> bool:
        """Tell whether the watched process is gone."""
        if self._pid is None:
            return False
        # A killed parent may linger unreaped; that its child has another parent now is certain.
        if self._first_parent_pid == self._pid:
            return os.getppid() != self._pid
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
