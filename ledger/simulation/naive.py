"""A payout policy that pays twice: on a timeout it puts the payment back and builds it anew.

That is what services do whose lock on a payment ends with an API's error: the first envelope may
still be on its way. It runs against the same network and the same faults as the product, so that
its double payments show that the harness bites. Reference: js-stellar-sdk issue 551 describes the
channel pool's hazard.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.evidence.leaf import PAYOUT_PAYMENTS, Payment, PayoutLeaf
from ledger.evidence.terms import Terms
from ledger.simulation.source import SimulatedSource
from ledger.stellar.envelopes import sign_payout
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import NetworkLedger, SubmitStatus
from ledger.stellar.signing import SeedSigner

GIVES_UP_LEDGERS: Final = 10
"""After so many network ledgers without news a payment is taken for lost."""


@dataclass(slots=True, kw_only=True)
class _Sent:
    payments: tuple[Payment, ...]
    tx_hash: bytes
    sequence: int
    since: int


class NaivePolicy:
    """Pays batches from the escrow account over a pool of channels; keeps its state in memory."""

    def __init__(self, terms: Terms, passphrase: str, seeds: Mapping[bytes, bytes]) -> None:
        """Hold the keys of escrow and channels, and owe nothing yet."""
        self._terms, self._passphrase = terms, passphrase
        self._signer = SeedSigner(seeds)
        self._waiting: deque[tuple[Payment, ...]] = deque()
        self._sent: dict[bytes, _Sent] = {}
        self._number = 0

    def owe(self, payments: Sequence[Payment]) -> None:
        """Put payments into the queue, in batches."""
        size = self._terms.batch_payments
        for at in range(0, len(payments), size):
            self._waiting.append(tuple(payments[at : at + size]))

    @property
    def is_idle(self) -> bool:
        """Whether it believes that everything is paid."""
        return not self._waiting and not self._sent

    def turn(self, source: SimulatedSource) -> None:
        """Look for what was sent, and send what waits."""
        try:
            latest = source.latest_ledger()
            self._look(source, latest)
            self._send(source, latest)
        except GatewayError:
            return

    def _look(self, source: SimulatedSource, latest: NetworkLedger) -> None:
        for channel, sent in sorted(self._sent.items()):
            if source.transaction(sent.tx_hash) is not None:
                del self._sent[channel]
            elif latest.sequence > sent.since + GIVES_UP_LEDGERS:
                # "Not found" for so long: it is put back.
                del self._sent[channel]
                self._waiting.append(sent.payments)

    def _send(self, source: SimulatedSource, latest: NetworkLedger) -> None:
        for channel in self._terms.channel_accounts:
            if channel in self._sent or not self._waiting:
                continue
            view = source.account(channel)
            if view is None:
                continue
            payments = self._waiting.popleft()
            sent = self._build(channel, view.sequence + 1, payments, latest)
            answer = source.submit(sent[1])
            if answer.status in {SubmitStatus.PENDING, SubmitStatus.DUPLICATE}:
                self._sent[channel] = sent[0]
            else:
                # A timeout, a refusal: the lock ends and the payment goes back into the queue.
                self._waiting.append(payments)

    def _build(
        self, channel: bytes, sequence: int, payments: tuple[Payment, ...], latest: NetworkLedger
    ) -> tuple[_Sent, bytes]:
        terms = self._terms
        self._number += 1
        leaf = PayoutLeaf(
            network_id=terms.network_id,
            epoch=0,
            batch_number=self._number,
            kind=PAYOUT_PAYMENTS,
            channel_account=channel,
            channel_sequence=sequence,
            reference_ledger_sequence=latest.sequence,
            reference_close_s=latest.close_time_s,
            fee_bid_stroops=terms.fee_bid_stroops,
            asset_code=terms.asset_code,
            asset_issuer=terms.asset_issuer,
            source_account=terms.escrow_account,
            payments=payments,
        )
        signed = sign_payout(leaf, 0, terms, self._passphrase, self._signer)
        sent = _Sent(
            payments=payments, tx_hash=signed.tx_hash, sequence=sequence, since=latest.sequence
        )
        return sent, signed.envelope
