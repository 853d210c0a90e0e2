"""A collector and an issuer with keys of their own, as little as engines need to sign receipts.

It serves the signed clock, entitles whoever asks, and promises every bundle, which it then forgets.
It stands in for the operator's processes, so that a bench of engines needs no database.
"""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from ledger.evidence.binding import BINDING
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.clock import CLOCK, Clock
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.keys import generate_seed, network_id_of, public_key_of
from ledger.evidence.promise import PROMISE, Promise
from ledger.evidence.terms import Terms, sign_terms

NETWORK_ID = network_id_of("swarmledger bench")
GENESIS_S = 1_700_000_000
EPOCH_LENGTH_S = 3600
_GRACE_S = 5
_LASTS_S = 86_400
_UNKNOWN = json.dumps({"code": "not_found"}).encode()
"""In a collector's own words: engines ask a silent one again and again."""


class BenchOperator:
    """Serves on a free port of 127.0.0.1 until the `with` block ends."""

    def __init__(self, terms_path: Path) -> None:
        """Start it and write its signed terms to a file."""
        self._issuing_seed, self._log_seed = generate_seed(), generate_seed()
        self._account = public_key_of(generate_seed())
        self._started_s = time.monotonic()
        handler = type("Handler", (_Handler,), {"operator": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._terms = sign_terms(self._make_terms(), self._issuing_seed)
        terms_path.write_bytes(self._terms.raw)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def read_clock(self, nonce: bytes) -> bytes:
        """Return the signed clock."""
        now_ms = self._now_ms()
        clock = Clock(
            network_id=NETWORK_ID,
            nonce=nonce,
            ledger_sequence=now_ms // 1000 - GENESIS_S + 1,
            close_time_s=now_ms // 1000,
            age_ms=now_ms % 1000,
            genesis_s=GENESIS_S,
            epoch_length_s=EPOCH_LENGTH_S,
            grace_s=_GRACE_S,
        )
        return CLOCK.sign(clock, self._log_seed).raw

    def entitle(self, raw_binding: bytes, content_id: bytes) -> bytes:
        """Return an entitlement without caps for the key of a binding."""
        terms = self._terms
        entitlement = Entitlement(
            network_id=NETWORK_ID,
            broadcaster_account=self._account,
            issuing_key=terms.value.issuing_key,
            terms_digest=terms.digest,
            content_id=content_id,
            session_key=BINDING.parse(raw_binding).value.key,
            payer_account=self._account,
            serial=os.urandom(16),
            assignment_seed=bytes(32),
            not_before_s=GENESIS_S,
            not_after_s=self._now_ms() // 1000 + _LASTS_S,
            max_bytes=0,
            max_media_ms=0,
            max_rate_kbps=0,
            assignment_policy=0,
            country="",
        )
        return ENTITLEMENT.sign(entitlement, self._issuing_seed).raw

    def promise(self, raw: bytes) -> bytes:
        """Return the promise of a bundle."""
        signed = parse_bundle(raw)
        promise = Promise(
            network_id=NETWORK_ID,
            bundle_digest=signed.digest,
            submitter_key=signed.value.submitter_key,
            broadcaster_account=signed.value.broadcaster_account,
            epoch=signed.value.epoch,
            sealing_epoch=signed.value.epoch,
            ledger_sequence=1,
            close_time_s=self._now_ms() // 1000,
        )
        return PROMISE.sign(promise, self._log_seed).raw

    def _now_ms(self) -> int:
        return GENESIS_S * 1000 + int((time.monotonic() - self._started_s) * 1000)

    def _make_terms(self) -> Terms:
        return Terms(
            network_id=NETWORK_ID,
            broadcaster_account=self._account,
            issuing_key=public_key_of(self._issuing_seed),
            log_key=public_key_of(self._log_seed),
            log_origin="log.example/bench",
            collector_url=self.url,
            asset_code="BENCH",
            asset_issuer=bytes([1]) * 32,
            escrow_account=bytes([2]) * 32,
            payout_account=bytes([3]) * 32,
            anchor_account=bytes([4]) * 32,
            rules_digest=bytes([5]) * 32,
            price_version=1,
            price_stroops=1,
            price_quantity_bytes=1 << 20,
            fee_ppm=100_000,
            genesis_s=GENESIS_S,
            epoch_length_s=EPOCH_LENGTH_S,
            grace_s=_GRACE_S,
            correction_epochs=10,
            first_epoch=0,
            last_epoch=1_000_000,
            payout_threshold_stroops=1,
            fee_bid_stroops=100,
            attempt_window_ledgers=10,
            attempt_window_s=60,
            batch_payments=100,
            fee_account=bytes(32),
            fee_bid_max_stroops=100,
            challenge_window_s=0,
            cash_out_least_stroops=1,
            address_delay_s=0,
            suspense_refund_s=604_800,
            channel_accounts=(bytes([6]) * 32,),
            cdns=(),
        )


class _Handler(BaseHTTPRequestHandler):
    operator: BenchOperator

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/v1/clock":
            nonce = bytes.fromhex(parse_qs(parts.query)["nonce"][0])
            self._answer(200, self.operator.read_clock(nonce))
        elif parts.path.startswith("/v1/bundles/"):
            self._answer(200, json.dumps({"state": "received", "code": 0, "codes": []}).encode())
        else:
            self._answer(404, _UNKNOWN)

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers["content-length"]))
        if parts.path == "/v1/entitlements":
            content_id = bytes.fromhex(parse_qs(parts.query)["content_id"][0])
            self._answer(200, self.operator.entitle(body, content_id))
        elif parts.path == "/v1/bundles":
            self._answer(201, self.operator.promise(body))
        else:
            self._answer(404, _UNKNOWN)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
