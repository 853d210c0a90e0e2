"""A real collector and issuer with real keys, small enough for a test, and engines as processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ledger.evidence.binding import BINDING, Binding, Role, is_valid_binding
from ledger.evidence.bundle import Bundle, BundleKind, is_signed_by_submitter, parse_bundle
from ledger.evidence.clock import CLOCK, Clock
from ledger.evidence.encoding import Signed
from ledger.evidence.entitlement import ENTITLEMENT, Entitlement
from ledger.evidence.keys import generate_seed, network_id_of, public_key_of
from ledger.evidence.promise import PROMISE, Promise
from ledger.evidence.receipt import RECEIPT, Receipt
from ledger.evidence.terms import CdnTerms, Terms, sign_terms

NETWORK_ID = network_id_of("swarmledger engine tests")
GENESIS_S = 1_700_000_000


@dataclass
class Operator:
    """Keys and the little state of a collector and an issuer on one port."""

    epoch_length_s: int = 3600
    issuing_seed: bytes = field(default_factory=generate_seed)
    log_seed: bytes = field(default_factory=generate_seed)
    account_seed: bytes = field(default_factory=generate_seed)
    cdns: tuple[CdnTerms, ...] = ()
    bundles: dict[bytes, bytes] = field(default_factory=dict)
    is_down: bool = False
    refuses_with: str = ""
    entitlement_lasts_s: int = 86_400
    entitlement_caps: dict[str, int] = field(default_factory=dict)
    entitlements_most: int | None = None
    entitled: int = 0
    issuing_binding: bytes | None = None
    coverage: dict[str, Any] | None = None
    started_s: float = field(default_factory=time.monotonic)
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def terms(self) -> Signed[Terms]:
        account = public_key_of(self.account_seed)
        terms = Terms(
            network_id=NETWORK_ID,
            broadcaster_account=account,
            issuing_key=public_key_of(self.issuing_seed),
            log_key=public_key_of(self.log_seed),
            log_origin="log.example/engine",
            collector_url=self.url,
            asset_code="TEST",
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
            epoch_length_s=self.epoch_length_s,
            grace_s=5,
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
            cdns=self.cdns,
        )
        return sign_terms(terms, self.issuing_seed)

    def now_ms(self) -> int:
        return GENESIS_S * 1000 + int((time.monotonic() - self.started_s) * 1000)

    def read_clock(self, nonce: bytes) -> bytes:
        now_ms = self.now_ms()
        clock = Clock(
            network_id=NETWORK_ID,
            nonce=nonce,
            ledger_sequence=now_ms // 1000 - GENESIS_S + 1,
            close_time_s=now_ms // 1000,
            age_ms=now_ms % 1000,
            genesis_s=GENESIS_S,
            epoch_length_s=self.epoch_length_s,
            grace_s=5,
        )
        return CLOCK.sign(clock, self.log_seed).raw

    def promise(self, raw: bytes) -> bytes:
        signed = parse_bundle(raw)
        assert is_signed_by_submitter(signed)
        with self.lock:
            self.bundles[signed.digest] = raw
        bundle = signed.value
        promise = Promise(
            network_id=NETWORK_ID,
            bundle_digest=signed.digest,
            submitter_key=bundle.submitter_key,
            broadcaster_account=bundle.broadcaster_account,
            epoch=bundle.epoch,
            sealing_epoch=bundle.epoch,
            ledger_sequence=1,
            close_time_s=self.now_ms() // 1000,
        )
        return PROMISE.sign(promise, self.log_seed).raw

    def make_entitlement(
        self, session_key: bytes, content_id: bytes, **changes: Any
    ) -> Signed[Entitlement]:
        terms = self.terms
        entitlement = Entitlement(
            network_id=NETWORK_ID,
            broadcaster_account=terms.value.broadcaster_account,
            issuing_key=terms.value.issuing_key,
            terms_digest=terms.digest,
            content_id=content_id,
            session_key=session_key,
            payer_account=terms.value.broadcaster_account,
            serial=os.urandom(16),
            assignment_seed=bytes(32),
            not_before_s=GENESIS_S,
            not_after_s=self.now_ms() // 1000 + self.entitlement_lasts_s,
            max_bytes=0,
            max_media_ms=0,
            max_rate_kbps=0,
            assignment_policy=0,
            country="",
        )
        return ENTITLEMENT.sign(replace(entitlement, **changes), self.issuing_seed)

    def entitle(self, raw_binding: bytes, content_id: bytes) -> bytes:
        binding = BINDING.parse(raw_binding)
        assert is_valid_binding(binding)
        self.entitled += 1
        return self.make_entitlement(binding.value.key, content_id, **self.entitlement_caps).raw

    def bind_issuing_key(self, last_epoch: int, serial: int = 2) -> Signed[Binding]:
        terms = self.terms.value
        binding = Binding(
            network_id=NETWORK_ID,
            account=terms.broadcaster_account,
            key=terms.issuing_key,
            role=Role.ISSUING,
            first_epoch=0,
            last_epoch=last_epoch,
            serial=serial,
        )
        return BINDING.sign(binding, self.account_seed, self.issuing_seed)

    def list_bundles(self, kind: BundleKind | None = None) -> list[Signed[Bundle]]:
        with self.lock:
            parsed = [parse_bundle(raw) for raw in self.bundles.values()]
        return [bundle for bundle in parsed if kind is None or bundle.value.kind == kind]

    def final_receipts(self, kind: BundleKind) -> dict[bytes, Receipt]:
        """The highest sequence of every lane, each verified as an auditor would."""
        finals: dict[bytes, Receipt] = {}
        for bundle in self.list_bundles(kind):
            entitlements = {signed.digest: signed for signed in bundle.value.entitlements}
            for signed in bundle.value.receipts:
                entitlement = entitlements[signed.value.entitlement_digest]
                assert ENTITLEMENT.is_signed_by(entitlement, public_key_of(self.issuing_seed))
                assert RECEIPT.is_signed_by(signed, entitlement.value.session_key)
                known = finals.get(signed.value.lane_digest)
                if known is None or known.sequence < signed.value.sequence:
                    finals[signed.value.lane_digest] = signed.value
        return finals


class _Handler(BaseHTTPRequestHandler):
    operator: Operator

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if self.operator.is_down:
            self._answer(503, b"", {"retry-after": "0"})
        elif parts.path == "/v1/clock":
            nonce = bytes.fromhex(parse_qs(parts.query)["nonce"][0])
            self._answer(200, self.operator.read_clock(nonce))
        elif parts.path == "/v1/issuing-binding" and self.operator.issuing_binding:
            self._answer(200, self.operator.issuing_binding)
        elif parts.path == "/v1/coverage" and self.operator.coverage:
            self._answer(200, json.dumps(self.operator.coverage).encode())
        elif parts.path.startswith("/v1/bundles/"):
            self._answer(200, json.dumps({"state": "received", "code": 0, "codes": []}).encode())
        else:
            self._answer(404, b"{}")

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers["content-length"]))
        if parts.path == "/v1/entitlements":
            content_id = bytes.fromhex(parse_qs(parts.query)["content_id"][0])
            most = self.operator.entitlements_most
            if most is not None and self.operator.entitled >= most:
                self._answer(403, json.dumps({"code": "cap_reached"}).encode())
            else:
                self._answer(200, self.operator.entitle(body, content_id))
        elif self.operator.is_down:
            self._answer(503, b"", {"retry-after": "0"})
        elif parts.path.startswith("/v1/relay"):
            self._answer(404, b"{}")
        elif self.operator.refuses_with:
            content = {"code": self.operator.refuses_with, "detail": "as the test wishes"}
            self._answer(422, json.dumps(content).encode())
        else:
            self._answer(201, self.operator.promise(body))

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def make_operator() -> Iterator[Callable[..., Operator]]:
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def make(**fields: Any) -> Operator:
        operator = Operator(**fields)
        handler = type("Handler", (_Handler,), {"operator": operator})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        operator.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return operator

    yield make
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


class _Cdn(BaseHTTPRequestHandler):
    """A web seed: ranges of one file, at a limited rate, over kept connections."""

    protocol_version = "HTTP/1.1"
    content = b""
    rate_bytes = 1 << 20

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
        begin, end = int(first), int(last) + 1
        self.send_response(206)
        self.send_header("content-length", str(end - begin))
        self.send_header("content-range", f"bytes {begin}-{end - 1}/{len(self.content)}")
        self.end_headers()
        step = 32 << 10
        try:
            for at in range(begin, end, step):
                self.wfile.write(self.content[at : min(at + step, end)])
                time.sleep(step / self.rate_bytes)
        except OSError:
            self.close_connection = True


@pytest.fixture
def make_cdn() -> Iterator[Callable[[bytes, int], str]]:
    """Serve content as a web seed at a rate; the host and port it is served from."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def make(content: bytes, rate_bytes: int) -> str:
        handler = type("Cdn", (_Cdn,), {"content": content, "rate_bytes": rate_bytes})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return f"127.0.0.1:{server.server_address[1]}"

    yield make
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


class EngineProcess:
    """One `swarmledger engine` process and the events it printed."""

    def __init__(self, arguments: list[str], log: Path, inside: str = "") -> None:
        """Start it, in a network namespace if `inside` names one."""
        self.events: list[dict[str, Any]] = []
        self.log = log
        self._arrived = threading.Condition()
        enter = ["ip", "netns", "exec", inside] if inside else []
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*enter, sys.executable, "-c", _START, *arguments, "--json"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def wait_for(self, event: str, *, timeout_s: float = 60, **fields: Any) -> dict[str, Any]:
        """The first event of this name with these fields, or with fields that a check accepts."""

        def find() -> dict[str, Any] | None:
            for seen in self.events:
                if seen["event"] == event and all(
                    want(seen.get(name)) if callable(want) else seen.get(name) == want
                    for name, want in fields.items()
                ):
                    return seen
            return None

        with self._arrived:
            deadline = time.monotonic() + timeout_s
            while (found := find()) is None:
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._thread.is_alive()):
                    last = self.events[-3:]
                    text = self.log.read_text()[-2000:]
                    raise AssertionError(f"no {event} {fields}; last {last}; log {text}")
                self._arrived.wait(min(left, 0.2))
        return found

    def of(self, event: str) -> list[dict[str, Any]]:
        return [seen for seen in self.events if seen["event"] == event]

    def stop(self) -> dict[str, Any]:
        """Stop cleanly; the last event."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()[-3000:]
        self._finish()
        return self.of("stopped")[0]

    def kill(self) -> None:
        """Kill -9; nothing when it has ended already."""
        self.process.kill()
        self.process.wait()
        self._finish()

    def _finish(self) -> None:
        self._thread.join()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._arrived:
                self.events.append(json.loads(line))
                self._arrived.notify_all()


_START = (
    "import sys; sys.argv[0] = 'swarmledger engine';from engine_plugin.command import main; main()"
)


@pytest.fixture
def start_engine(tmp_path: Path) -> Iterator[Callable[..., EngineProcess]]:
    """Start `engine ARGUMENTS…`; whatever still runs at the end is killed."""
    started: list[EngineProcess] = []

    def start(*arguments: object, log: str = "engine", inside: str = "") -> EngineProcess:
        words = [str(argument) for argument in arguments]
        process = EngineProcess(words, tmp_path / f"{log}.log", inside)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
