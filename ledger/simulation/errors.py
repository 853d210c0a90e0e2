"""Errors of the simulation."""


class SimulationError(Exception):
    """An invariant did not hold, or a world did not come to its end: a defect, with its seed."""


class StoppedError(Exception):
    """Somebody asked a world to end before its end."""
