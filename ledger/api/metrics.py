"""Prometheus metrics of one API process: what it answered, and what the database holds.

Figures of the database are the same from every process, so dashboards take their maximum, not
their sum. They are read by a thread on its own beat (`watch`); a scrape costs no query. Names and
alarms stand in docs/operator.md. Specification: the Prometheus exposition format, metric names as
`promtool check metrics` wants them.
"""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.process_collector import ProcessCollector

from ledger.audit.address import format_account
from ledger.books.judgement import BundleCode, ReceiptCode
from ledger.store.coverage_store import EscrowLevel
from ledger.store.epoch_store import EpochState
from ledger.store.monitor_store import Backlog, EpochProgress, Verdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ApiMetrics:
    """The registry of one process and everything in it; safe from any thread."""

    def __init__(self, version: str) -> None:
        """Make every metric; counters stand at 0."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info("swarmledger_build", "What runs.", registry=self.registry).info({"version": version})
        self._make_request_metrics()
        self._make_database_metrics()

    def _make_request_metrics(self) -> None:
        self.requests = self._counter(
            "http_requests", "Answers by route, method and HTTP status.", "route", "method", "code"
        )
        self.seconds = Histogram(
            "swarmledger_http_request_duration_seconds",
            "From the first byte of a request to the end of its answer.",
            ("route",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.in_progress = self._gauge("http_requests_in_progress", "Requests at hand now.")
        self.bodies = self._gauge("http_bodies_in_progress", "Requests with a body at hand now.")
        self.refusals = self._counter(
            "refused_requests", "Requests that were refused, by their stable code.", "code"
        )
        self.promised = self._counter(
            "promised_bundles", "Bundles that were promised, by whether they came before.", "again"
        )
        self.promised_bytes = self._counter("promised_bytes", "Bytes of bundles promised first.")
        self.chunks = self._counter("upload_chunks", "Chunks of uploads that were stored.")
        self.uploads_done = self._counter(
            "uploads_answered", "Uploads with a final answer, by HTTP status.", "code"
        )
        self.reports = self._counter(
            "provisional_reports", "Provisional reports taken, by whether they were news.", "news"
        )

    def _make_database_metrics(self) -> None:
        own = "broadcaster"
        self.waiting = self._gauge("unjudged_bundles", "Bundles that wait for a verdict.", own)
        self.waiting_bytes = self._gauge("unjudged_bytes", "Bytes of these bundles.", own)
        self.waiting_s = self._gauge(
            "unjudged_oldest_seconds", "Age of the bundle that waits longest; 0: none does.", own
        )
        self.judged = self._counter(
            "judged_bundles", "Bundles that got a verdict since this process looks.", own, "code"
        )
        self.judged_receipts = self._counter(
            "judged_receipts", "Receipts of these bundles, by code.", own, "code"
        )
        self.epochs = self._gauge("epochs", "Epochs by state, but the settled.", own, "state")
        self.epoch_lag_s = self._gauge(
            "epoch_lag_seconds",
            "Ledger time since the end of the oldest epoch that is not settled; 0: none has ended.",
            own,
        )
        self.escrow_free = self._gauge(
            "escrow_free_stroops", "Deposits that are neither charged nor claimed yet.", own
        )
        self.escrow_level = self._gauge(
            "escrow_level", "0: covered; 1: low, by the configured alarm; 2: nothing is left.", own
        )
        self.halts = self._gauge("settlement_halts", "Reasons why nothing is paid.", own)
        self.log_leaves = self._gauge("log_leaves", "Leaves under the newest checkpoint.", own)
        self.uploads = self._gauge("unfinished_uploads", "Uploads without a final answer.")
        self.upload_bytes = self._gauge("unfinished_upload_bytes", "Bytes of them stored so far.")
        self.pressure = self._gauge(
            "backpressure", "Whether this reason to take nothing in holds.", "reason"
        )
        self.disk_free = self._gauge("disk_free_bytes", "Free bytes of a folder's disk.", "folder")
        self.database_bytes = self._gauge("database_bytes", "Bytes of the database on its disk.")
        self.connections = self._gauge("database_connections", "Connections in use here.")
        self.database_up = self._gauge("database_up", "Whether the last look at it succeeded.")
        self.looked_at = self._gauge(
            "database_looked_at_seconds", "Unix time of the last successful look."
        )
        self.ledger_time_age_s = self._gauge(
            "ledger_time_age_seconds", "Since the newest network ledger was seen; -1: unknown."
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"swarmledger_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"swarmledger_{name}", text, labels, registry=self.registry)

    def format(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)

    def set_backlogs(self, backlogs: Mapping[bytes, Backlog]) -> None:
        """Tell what waits, by broadcaster."""
        for account, backlog in backlogs.items():
            name = format_account(account)
            self.waiting.labels(name).set(backlog.bundle_count)
            self.waiting_bytes.labels(name).set(backlog.byte_count)
            self.waiting_s.labels(name).set(backlog.oldest_s)

    def count_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Count bundles that got their verdict, each once."""
        for verdict in verdicts:
            name = format_account(verdict.account)
            self.judged.labels(name, verdict.code.name.lower()).inc()
            for code in set(verdict.receipt_codes):
                self.judged_receipts.labels(name, ReceiptCode(code).name.lower()).inc(
                    verdict.receipt_codes.count(code)
                )

    def set_epochs(self, progress: EpochProgress, lag_s: float) -> None:
        """Tell how far a broadcaster's epochs are."""
        name = format_account(progress.account)
        for state in EpochState:
            if state is not EpochState.SETTLED:
                self.epochs.labels(name, state.value).set(progress.counts.get(state.value, 0))
        self.epoch_lag_s.labels(name).set(max(0.0, lag_s))
        self.log_leaves.labels(name).set(progress.log_size)

    def set_escrow(self, account: bytes, free_stroops: int, level: EscrowLevel) -> None:
        """Tell what is left of a broadcaster's deposits."""
        name = format_account(account)
        self.escrow_free.labels(name).set(free_stroops)
        self.escrow_level.labels(name).set(list(EscrowLevel).index(level))

    def begin_broadcaster(self, account: bytes) -> None:
        """Show a broadcaster's counters at 0, so that their first step is seen as one."""
        name = format_account(account)
        self.judged.labels(name, BundleCode.ACCEPTED.name.lower())
        self.judged_receipts.labels(name, ReceiptCode.COUNTED.name.lower())
