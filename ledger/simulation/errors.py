"""Errors of the simulation."""


class SimulationError(Exception):
    """An invariant did not hold, or a world did not come to its end: a defect, with its seed."""
