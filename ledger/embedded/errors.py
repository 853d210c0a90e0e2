"""The errors of running the whole path ourselves.

EmbeddedError
├── ClusterError              the embedded Postgres cannot be started
│   └── ClusterInUseError     another live process owns the cluster's folder
└── DemoError                 the demo cannot go on, or a figure does not add up
"""


class EmbeddedError(RuntimeError):
    """Base: an entry point prints it and exits non-zero."""


class ClusterError(EmbeddedError):
    """The embedded Postgres cannot be started; an entry point prints it and exits non-zero."""


class ClusterInUseError(ClusterError):
    """Another live process owns the cluster's folder; choose another folder or stop that one."""


class DemoError(EmbeddedError):
    """The demo cannot go on: says which part, what it got and what it wants."""


class DemoStoppedError(EmbeddedError):
    """SIGINT, SIGTERM or SIGHUP came; raised where everything can be cleaned up.

    Attributes:
        signal_number: Which one.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__("stopped by a signal")
        self.signal_number = signal_number
