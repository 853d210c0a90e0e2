"""The errors of running Postgres ourselves."""


class ClusterError(RuntimeError):
    """The embedded Postgres cannot be started; an entry point prints it and exits non-zero."""


class ClusterInUseError(ClusterError):
    """Another live process owns the cluster's folder; choose another folder or stop that one."""
