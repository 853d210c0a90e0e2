"""A drill: the operator dies in the middle of payouts, and strangers pay everybody.

Postgres, devnet, collector, workers and settlers run as processes, as in a demo. Payees send
bundles, epochs are sealed, anchored and paid with two of three settlers. Then one settler dies for
good, and others bid more for the network's room than batches do. With payouts of the last epoch
planned, and the first of them sent and stuck, the operator is killed: workers and API with SIGKILL,
its database's folder, its log and audit files and all its keys are deleted. What is left: a mirror
of the log, the payees' spools, signed papers, the chain, two settlers. From these `swarmledger
rebuild` computes books and slots again, and the settlers pay what is open and raise its bids.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from ledger.audit.errors import AuditError
from ledger.books.state import state_root
from ledger.embedded.drill_operator import DrillOperator, Setting, read_json
from ledger.embedded.drill_parties import Party
from ledger.embedded.errors import DemoError
from ledger.embedded.postgres import create_state_dir
from ledger.embedded.processes import StopRequest, Supervisor
from ledger.embedded.screen import Screen
from ledger.evidence.units import format_stroops
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.mirror import mirror_log
from ledger.publiclog.source import FolderSource
from ledger.stellar.errors import GatewayError

SETTLERS: Final = ("settler-a", "settler-b", "settler-c")
THRESHOLD: Final = 2
EPOCHS: Final = 2
"""Epochs in which payees earn: one is paid before the operator dies, one is not."""

LIMIT_S: Final = 300
_HTTP_S: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillReport:
    """What a drill came to; amounts in stroops."""

    payees: int
    epochs: int
    payouts: int
    batches: int
    open_batches: int
    """Planned and not paid when the operator died."""

    open_stroops: int
    stuck_batches: int
    """Of the open ones, how many were sent under a bid that no ledger took."""

    raised_bids: int
    """Transactions that were paid for by a higher bid of the settlers'."""

    settlers: int
    settlers_left: int
    threshold: int
    state_hash: str
    """Of the rebuilt books."""

    identical_state_hash: bool
    """Whether the operator had the same, and the last result in the log."""

    paid_stroops: int
    double_paid_stroops: int
    lost_stroops: int
    seconds: dict[str, float]
    minutes: float
    """From the operator's death to everybody's payment."""

    @property
    def is_clean(self) -> bool:
        """Whether nobody got more or less than was earned, from identical books."""
        is_paid = self.double_paid_stroops == 0 and self.lost_stroops == 0
        return is_paid and self.identical_state_hash

    def describe(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


class OperatorDies:
    """One drill; `run` does it."""

    def __init__(self, payees: int, screen: Screen, stop: StopRequest, *, keep: bool) -> None:
        """Describe a drill.

        Args:
            payees: How many, ≥ 1.
            screen: Takes the story.
            stop: A signal that asks for the end.
            keep: Whether the scratch folder is kept for a look afterwards.
        """
        self._payees, self._screen, self._stop, self._keep = payees, screen, stop, keep
        self._seconds: dict[str, float] = {}
        self._mirrored_epoch = -1

    def run(self) -> DrillReport:
        """Run the drill.

        Raises:
            EmbeddedError: Something failed; everything has been cleaned up.
        """
        scratch = create_state_dir("swarmledger-drill-")
        try:
            return self._run_in(scratch)
        finally:
            if self._keep:
                self._screen.stage(f"kept {scratch}")
            else:
                shutil.rmtree(scratch, ignore_errors=True)

    def _run_in(self, scratch: Path) -> DrillReport:
        self._private = scratch / "private"
        self._private.mkdir(mode=0o700)
        logs = self._private / "logs"
        logs.mkdir()
        self._supervisor = Supervisor(logs, self._stop)
        self._mirror = self._private / "mirror"
        setting = Setting(
            scratch=scratch, payees=self._payees, settlers=SETTLERS, threshold=THRESHOLD
        )
        operator = DrillOperator(setting, self._supervisor, self._screen)
        try:
            with self._timed("set-up"):
                self._papers = operator.set_up()
                self._parties = self._make_parties(operator)
            with self._timed("until the operator dies"):
                self._live(operator)
            before_s = time.monotonic()
            with self._timed("destruction"):
                operators_root = self._destroy(operator)
            with self._timed("rebuild"):
                rebuilt = self._rebuild(operator)
            with self._timed("payouts by settlers"):
                self._pay(operator)
            return self._conclude(operator, operators_root, rebuilt, time.monotonic() - before_s)
        finally:
            self._supervisor.stop_all()
            operator.close()

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        before_s = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - before_s, 1)

    def _make_parties(self, operator: DrillOperator) -> list[Party]:
        return [
            Party(
                name=name,
                account_seed=operator.payee_seed(name),
                folder=self._private / "parties" / name,
                number=number,
            )
            for number, name in enumerate(operator.setting.payee_names)
        ]

    # Life: bundles, epochs, payouts by two of three.

    def _live(self, operator: DrillOperator) -> None:
        settlers = {name: operator.start_settler(name) for name in SETTLERS}
        self._upload(operator, 0)
        self._wait(lambda: self._are_paid(operator, 1), "the first epoch's payouts")
        self._screen.stage(f"epoch 0 is paid to {self._payees} payees; two of three signed")
        self._supervisor.kill([settlers["settler-c"]])
        shutil.rmtree(operator.settler_folder("settler-c"))
        operator.settler_key_file("settler-c").unlink()
        # Settler b is away as well for now, so that what is planned next stays open.
        self._supervisor.stop([settlers["settler-b"]])
        self._screen.stage("settler c is gone with its key; settler b is away")
        self._upload(operator, 1)
        self._wait(lambda: self._is_planned(operator), "payouts planned, anchored and not paid")
        operator.surge()
        self._bids_before = operator.count_raised_bids()
        back = operator.start_settler("settler-b")
        self._wait(lambda: operator.count_in_flight() > 0, "a batch that is sent")
        # At once, before it raises its own bid.
        operator.kill()
        self._stuck = operator.count_in_flight()
        self._screen.stage(f"others bid more: {self._stuck} batches are sent and in no ledger")
        self._supervisor.stop([settlers["settler-a"], back])

    def _upload(self, operator: DrillOperator, epoch: int) -> None:
        """Send every payee's bundle of an epoch, once it has begun."""
        terms = self._papers.terms
        begin_s = terms.value.epoch_start_s(epoch)
        self._wait(
            lambda: operator.gateway.latest_ledger().close_time_s >= begin_s, f"epoch {epoch}"
        )
        with httpx.Client(base_url=operator.api_url, trust_env=False, timeout=_HTTP_S) as client:
            for party in self._parties:
                raw = party.make_bundle(terms, operator.issuing_seed, epoch)
                answer = client.post("/v1/bundles", content=raw)
                if answer.status_code != 200:
                    raise DemoError(f"{party.name}: got {answer.status_code}: {answer.text[:200]}")
                party.keep(raw, answer.content)
        self._screen.stage(f"{self._payees} payees sent their bundles of epoch {epoch}")

    def _is_planned(self, operator: DrillOperator) -> bool:
        """Whether all that was earned is planned in mirrored, anchored epochs, and some is open."""
        self._grow_mirror(operator)
        view = operator.view(self._mirrored_epoch)
        if view.closing is None or not view.open_epochs:
            return False
        accrued = sum(balance.accrued_stroops for balance in view.closing.payees.values())
        newest = view.open_epochs[-1]
        is_public = newest <= min(view.settled, self._mirrored_epoch)
        return is_public and accrued == self._wanted_stroops(EPOCHS)

    def _wanted_stroops(self, epochs: int) -> int:
        terms = self._papers.terms.value
        return sum(party.earned_stroops(terms, epochs) for party in self._parties)

    def _grow_mirror(self, operator: DrillOperator) -> None:
        """Bring the mirror up to the published log.

        Raises:
            AuditError: The log cannot be mirrored now; while the operator writes it, that is so
                between two of its files.
        """
        source = FolderSource(operator.log_folder)
        done = mirror_log(source, self._mirror, keys_of_trust(self._papers.trust))
        self._mirrored_epoch = -1 if done.epoch is None else done.epoch

    # Death.

    def _destroy(self, operator: DrillOperator) -> bytes:
        """Delete the killed operator; return the state hash that it had."""
        # What it was writing when it was killed may be cut off: the mirror stays at what is proven.
        with suppress(AuditError):
            self._grow_mirror(operator)
        state = operator.view(self._mirrored_epoch).closing
        if state is None:
            raise DemoError(f"operator: got no state after epoch {self._mirrored_epoch}, want one")
        operator.destroy()
        self._screen.stage(
            "the operator is dead: workers and API killed; database, log, audit files and keys "
            "deleted"
        )
        return state_root(state)

    def _rebuild(self, operator: DrillOperator) -> dict[str, Any]:
        arguments = ["rebuild", "--mirror", str(self._mirror)]
        arguments += ["--spools", str(self._private / "parties")]
        arguments += ["--terms", str(self._papers.terms_file)]
        arguments += ["--binding", str(self._papers.binding_file)]
        arguments += ["--gateway", f"horizon:{operator.devnet_url}"]
        arguments += ["--trust", str(self._papers.trust_file), "--json"]
        for name in SETTLERS[:THRESHOLD]:
            arguments += ["--settler", str(operator.settler_folder(name))]
        found = read_json(self._supervisor.run("rebuild", arguments))
        self._screen.stage(
            f"a stranger rebuilt {found['epochs']} epochs and {found['payouts']} payouts; "
            f"{found['open_batches']} batches of {format_stroops(found['open_stroops'])} are open"
        )
        return found

    def _pay(self, operator: DrillOperator) -> None:
        for name in SETTLERS[:THRESHOLD]:
            operator.start_settler_alone(name)
        self._wait(lambda: self._are_paid(operator, EPOCHS), "everybody's payment")
        self._screen.stage("the two settlers that are left have paid everybody")

    # Accounts.

    def _are_paid(self, operator: DrillOperator, epochs: int) -> bool:
        terms = self._papers.terms.value
        return all(
            self._received(operator, party) >= party.earned_stroops(terms, epochs)
            for party in self._parties
        )

    def _received(self, operator: DrillOperator, party: Party) -> int:
        """What a payee's account holds of the asset; it held nothing before."""
        terms = self._papers.terms.value
        view = operator.gateway.account(party.account)
        balances = {} if view is None else view.balances
        return balances.get((terms.asset_code, terms.asset_issuer), 0)

    def _conclude(
        self,
        operator: DrillOperator,
        operators_root: bytes,
        rebuilt: dict[str, Any],
        seconds: float,
    ) -> DrillReport:
        terms = self._papers.terms.value
        paid = {party.account: self._received(operator, party) for party in self._parties}
        want = {party.account: party.earned_stroops(terms, EPOCHS) for party in self._parties}
        return DrillReport(
            payees=self._payees,
            epochs=rebuilt["epochs"],
            payouts=rebuilt["payouts"],
            batches=rebuilt["batches"],
            open_batches=rebuilt["open_batches"],
            open_stroops=rebuilt["open_stroops"],
            stuck_batches=self._stuck,
            raised_bids=operator.count_raised_bids() - self._bids_before,
            settlers=len(SETTLERS),
            settlers_left=THRESHOLD,
            threshold=THRESHOLD,
            state_hash=rebuilt["state_hash"],
            identical_state_hash=rebuilt["state_hash"] == operators_root.hex(),
            paid_stroops=sum(paid.values()),
            double_paid_stroops=sum(max(0, paid[one] - want[one]) for one in want),
            lost_stroops=sum(max(0, want[one] - paid[one]) for one in want),
            seconds=self._seconds,
            minutes=round(seconds / 60, 2),
        )

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for something; a source or a log that gives no answer is asked again."""

        def answers() -> bool:
            try:
                return holds()
            except (AuditError, GatewayError):
                return False

        self._supervisor.wait_until(answers, what=what, seconds=LIMIT_S)
