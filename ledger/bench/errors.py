"""What a bench raises when it cannot measure."""


class BenchError(Exception):
    """A process failed, a figure did not come, or what was transferred does not add up."""
