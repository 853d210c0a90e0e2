"""Judges the devnet by result vectors recorded from a real stellar-core.

Two forms of file: single-transaction cases, and ledgers of random transactions over one world
(first line has the world). Nothing of a vector's results enters the devnet; they are only compared.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, cast

from ledger.devnet.closing import Closed
from ledger.devnet.envelope import EnvelopeError, Transaction
from ledger.devnet.network import Network, Settings
from ledger.devnet.queue import Status, Submission
from ledger.devnet.recorded_state import Json, RecordedState, entries_of, unlisted_balances
from ledger.devnet.state import Header, StateError, World
from ledger.devnet.wire import INT64_MAX, UINT32_MAX

MOST_LINE_BYTES: Final = 64 * 1024 * 1024
MOST_FILE_BYTES: Final = 1024 * 1024 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
_FOLLOW_UP_LEDGERS: Final = 7
_REPLAY_LEDGERS: Final = 3


# What a recording of another shape, or of entries that contradict each other, comes to.
_MALFORMED: Final = (
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    ValueError,
    OverflowError,
    RecursionError,
    StateError,
    struct.error,
)


class VectorError(ValueError):
    """A file that is no recording; one line."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the devnet and the recording part."""

    name: str
    what: str
    got: str
    want: str

    def as_json(self) -> Json:
        """Plain mapping for output."""
        return {"name": self.name, "what": self.what, "got": self.got, "want": self.want}


@dataclass(slots=True)
class Verdict:
    """How many cases were judged, how many agree, and every difference.

    `assumed` names the cases that rest on a balance which the recording does not hold.
    """

    cases: int = 0
    agree: int = 0
    differ: list[Difference] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def add(self, differences: Sequence[Difference]) -> None:
        """Count one case."""
        self.cases += 1
        self.agree += not differences
        self.differ += differences

    def as_json(self) -> Json:
        """Plain mapping for output."""
        differ = [difference.as_json() for difference in self.differ]
        found: Json = {"cases": self.cases, "agree": self.agree, "differ": differ}
        return found | ({"assumed": self.assumed} if self.assumed else {})


def read_lines(path: Path) -> list[Json]:
    """Objects of a JSON-lines file, gzipped or not.

    Raises:
        VectorError: unreadable, too long, or not JSON objects.
    """
    return list(_lines(path))


def _lines(path: Path) -> Iterator[Json]:
    number = size = 0
    try:
        with path.open("rb") as file:
            content = _unpacked(file)
            while text := content.readline(MOST_LINE_BYTES + 1):
                number, size = number + 1, size + len(text)
                if size > MOST_FILE_BYTES:
                    raise VectorError(f"{path}:{number}: got more than {MOST_FILE_BYTES} bytes")
                if len(text) > MOST_LINE_BYTES:
                    raise VectorError(f"{path}:{number}: got more than {MOST_LINE_BYTES} bytes")
                if not text.strip():
                    continue
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise VectorError(f"{path}:{number}: got {type(line).__name__}, want an object")
                yield line
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, VectorError):
            raise
        raise VectorError(f"{path}:{number or 1}: {error}") from error


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    packed = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file


def _files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """The files themselves, and of a folder those with a name for JSON lines, in order."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz")))
        if not found:
            raise VectorError(f"{path}: got no .jsonl files, want vectors")
        yield from found


def judge_files(paths: Iterable[Path], groups: Sequence[str] = ()) -> Verdict:
    """Judge every file; `groups` keeps the cases of these groups (`NAME*` = by prefix).

    Raises:
        VectorError: a file that is no recording.
    """
    verdict = Verdict()
    for path in _files_of(paths):
        lines = read_lines(path)
        if not lines:
            raise VectorError(f"{path}: got no lines, want vectors")
        try:
            _judge_lines(lines, groups, verdict)
        except _MALFORMED as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise VectorError(f"{path}: no recording: {what}") from error
    return verdict


def _judge_lines(lines: Sequence[Json], groups: Sequence[str], verdict: Verdict) -> None:
    if "world" in lines[0]:
        _judge_random(lines, verdict)
    else:
        _judge_cases([line for line in lines if "envelope" in line], groups, verdict)


def _is_wanted(group: str, groups: Sequence[str]) -> bool:
    if not groups:
        return True
    return any(
        group.startswith(name[:-1]) if name.endswith("*") else group == name for name in groups
    )


def _header(fields: Json) -> Header:
    return Header(
        sequence=_whole(fields, "seq", UINT32_MAX - 1),
        close_time=_whole(fields, "close_time", INT64_MAX),
        base_fee=_whole(fields, "base_fee", UINT32_MAX),
        base_reserve=_whole(fields, "base_reserve", UINT32_MAX),
        max_tx_set_size=_whole(fields, "max_tx_set_size", UINT32_MAX),
        protocol=_whole(fields, "protocol", UINT32_MAX),
        fee_pool=_whole(fields, "fee_pool", INT64_MAX),
        id_pool=_whole(fields, "id_pool", INT64_MAX),
    )


def _whole(fields: Json, name: str, most: int) -> int:
    value = fields[name]
    if type(value) is not int or not 0 <= value <= most:
        raise VectorError(f"{name}: got {value!r:.80}, want a whole number up to {most}")
    return value


class _Bench:
    """One network, put to a vector's state before each step; its queue lives on."""

    def __init__(self, passphrase: str, protocol: int) -> None:
        self.network = Network(Settings(passphrase=passphrase, protocol=protocol), 0)
        self.network.world = World()

    def stand_at(self, lcl: Json) -> None:
        """Make a recorded header the last closed one, ageing the queue by the ledgers between."""
        for _ in range(min(32, lcl["seq"] - self.network.header.sequence)):
            self.network.queue.shift()
        self.network.header = _header(lcl)
        self.network.header_hash = bytes.fromhex(lcl["hash"])

    def submit(self, envelope: str) -> tuple[Transaction | None, Submission | None]:
        """Offer an envelope; (None, None) when it does not decode."""
        try:
            tx = self.network.parse(base64.b64decode(envelope, validate=True))
        except (EnvelopeError, binascii.Error):
            return None, None
        return tx, self.network.submit(tx)


def _judge_cases(cases: Sequence[Json], groups: Sequence[str], verdict: Verdict) -> None:
    benches: dict[tuple[str, int], _Bench] = {}
    proven = {key: RecordedState(own) for key, own in _by_network(cases).items()}
    for case in cases:
        key = (case["network_passphrase"], case["protocol"])
        bench = benches.setdefault(key, _Bench(*key))
        world = proven[key].world_at(case["lcl"]["seq"])
        before = world | entries_of(case["pre"])
        unlisted = _unlisted(bench, case, before, proven[key].sequences)
        differences = _judge_case(bench, case, before | unlisted)
        if _is_wanted(case["case"], groups):
            verdict.add(differences)
            verdict.assumed += [case["name"]] if unlisted else []


def _by_network(cases: Sequence[Json]) -> dict[tuple[str, int], list[Json]]:
    found: dict[tuple[str, int], list[Json]] = {}
    for case in cases:
        found.setdefault((case["network_passphrase"], case["protocol"]), []).append(case)
    return found


def _unlisted(
    bench: _Bench, case: Json, before: dict[bytes, bytes], sequences: dict[bytes, int]
) -> dict[bytes, bytes]:
    try:
        tx = bench.network.parse(base64.b64decode(case["envelope"], validate=True))
    except (EnvelopeError, binascii.Error):
        return {}
    return unlisted_balances(tx, before, sequences)


def _judge_case(bench: _Bench, case: Json, before: dict[bytes, bytes]) -> list[Difference]:
    network, found = bench.network, _Findings(case["name"])
    companions = case.get("companions") or []
    network.world = World(before)
    if case["outcome"] == "try_again_later" and not companions:
        _replay_drop(bench, case)
        network.world = World(before)
    bench.stand_at(case["lcl"])
    for companion in companions:
        if companion["order"] == "before":
            _submit_companion(bench, companion, found)
    tx, submission = bench.submit(case["envelope"])
    if tx is None or submission is None:
        found.compare("outcome", "undecodable", case["outcome"])
        return found.differences
    if "hash" in case:
        found.compare("hash", tx.hash.hex(), case["hash"])
    found.compare("submit_status", submission.status.value, case["submit_status"])
    for companion in companions:
        if companion["order"] != "before":
            _submit_companion(bench, companion, found)
    closed = None
    if "ledger" in case:
        closed = network.close_ledger(case["ledger"]["close_time"])
    _compare_outcome(bench, case, tx, submission, closed, found)
    if closed is not None:
        for companion in companions:
            if "result" in companion:
                got = _result_of(closed, companion["hash"])
                found.compare(f"companion {companion['hash'][:8]} result", got, companion["result"])
    _compare_world(network, case, before, found)
    return found.differences


def _replay_drop(bench: _Bench, case: Json) -> None:
    """The history a resubmission presupposes: queued once, and expired before a ledger took it.

    Without it the queue would know nothing of the envelope; that it is then banned is the
    devnet's own doing.
    """
    network, lcl = bench.network, case["lcl"]
    tx = network.parse(base64.b64decode(case["envelope"]))
    expiry = tx.conditions.max_time
    if network.queue.is_banned(tx.full_hash) or not 0 < expiry < lcl["close_time"]:
        return
    earlier = expiry - network.queue.close_margin_seconds
    bench.stand_at({**lcl, "seq": lcl["seq"] - _REPLAY_LEDGERS, "close_time": earlier})
    network.submit(tx)
    network.close_ledger(expiry + 1)


def _submit_companion(bench: _Bench, companion: Json, found: _Findings) -> None:
    _, submission = bench.submit(companion["envelope"])
    got = submission.status.value if submission else "undecodable"
    found.compare("companion status", got, companion["submit_status"])


class _Findings:
    """Collects the differences of one case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.differences: list[Difference] = []

    def compare(self, what: str, got: object, want: object) -> None:
        """Note a difference if there is one."""
        if got != want:
            self.differences.append(Difference(self.name, what, str(got), str(want)))


def _result_of(closed: Closed, tx_hash: str) -> str | None:
    wanted = bytes.fromhex(tx_hash)
    for item in closed.applied:
        if item.tx.hash == wanted:
            return base64.b64encode(item.result.encode()).decode()
    return None


def _compare_outcome(
    bench: _Bench,
    case: Json,
    tx: Transaction,
    submission: Submission,
    closed: Closed | None,
    found: _Findings,
) -> None:
    got_result: str | None = None
    outcome = submission.status.value.lower()
    if submission.result is not None:
        outcome = "rejected"
        got_result = base64.b64encode(submission.result.encode()).decode()
    elif closed is not None:
        item = next((item for item in closed.applied if item.tx.hash == tx.hash), None)
        if item is not None:
            outcome = "applied_success" if item.result.ok else "applied_failed"
            got_result = base64.b64encode(item.result.encode()).decode()
            found.compare("apply_index", item.index, case.get("apply_index"))
        elif submission.status is Status.PENDING:
            outcome, got_result = _follow(bench, case, tx)
        order = [item.tx.hash.hex() for item in closed.applied]
        found.compare("apply_order", order, case.get("apply_order") or [])
        found.compare("fee_pool", closed.header.fee_pool, case["ledger"]["fee_pool"])
        found.compare("id_pool", closed.header.id_pool, case["ledger"]["id_pool"])
    found.compare("outcome", outcome, case["outcome"])
    found.compare("result", got_result, case.get("result"))


def _follow(bench: _Bench, case: Json, tx: Transaction) -> tuple[str, str | None]:
    """What became of a transaction that its first network ledger left out."""
    network = bench.network
    world = dict(network.world.entries)
    step = case["ledger"]["close_time"] - case["lcl"]["close_time"]
    outcome: tuple[str, str | None] = ("dropped", None)
    for _ in range(_FOLLOW_UP_LEDGERS - 1):
        closed = network.close_ledger(network.header.close_time + step)
        result = _result_of(closed, tx.hash.hex())
        if result is not None:
            outcome = ("deferred", result)
            break
    network.world = World(world)
    return outcome


def _compare_world(
    network: Network, case: Json, before: dict[bytes, bytes], found: _Findings
) -> None:
    entries = network.world.entries
    want = dict(before)
    if case["post"] != "unchanged":
        for item in case["pre"]:
            want.pop(base64.b64decode(item["key"]), None)
        want |= entries_of(case["post"])
        for text in case["deleted"]:
            want.pop(base64.b64decode(text), None)
    for key in sorted(entries.keys() | want.keys()):
        got, wanted = entries.get(key), want.get(key)
        if got != wanted:
            name = base64.b64encode(key).decode()
            found.compare(f"entry {name}", _show(got), _show(wanted))


def _show(raw: bytes | None) -> str:
    return "absent" if raw is None else base64.b64encode(raw).decode()


def _judge_random(lines: Sequence[Json], verdict: Verdict) -> None:
    first = lines[0]
    bench = _Bench(first["passphrase"], first["protocol"])
    network = bench.network
    network.world = World(
        {base64.b64decode(key): base64.b64decode(raw) for key, raw in first["world"].items()}
    )
    network.header = _header(first["lcl"])
    for line in lines[1:]:
        if "resync" in line:
            network.world = World(
                {base64.b64decode(k): base64.b64decode(raw) for k, raw in line["world"].items()}
            )
            network.header = _header(line["resync"])
            network.queue.clear()
            continue
        found = _Findings(f"ledger {line['ledger']['seq']}")
        bench.stand_at(line["lcl"])
        for item in line["submitted"]:
            tx, submission = bench.submit(item["envelope"])
            status = submission.status.value if submission else "undecodable"
            label = tx.hash.hex()[:8] if tx else "?"
            found.compare(f"{label} status", status, item["status"])
            if submission and submission.result and "result" in item:
                got = base64.b64encode(submission.result.encode()).decode()
                found.compare(f"{label} refusal", got, item["result"])
        before = dict(network.world.entries)
        closed = network.close_ledger(line["ledger"]["close_time"])
        order = [item.tx.hash.hex() for item in closed.applied]
        found.compare("apply order", order, [item["hash"] for item in line["applied"]])
        for item in line["applied"]:
            got_result = _result_of(closed, item["hash"])
            found.compare(f"{item['hash'][:8]} result", got_result, item["result"])
        _compare_changes(network, before, line["changes"], found)
        found.compare("fee_pool", closed.header.fee_pool, line["ledger"]["fee_pool"])
        found.compare("id_pool", closed.header.id_pool, line["ledger"]["id_pool"])
        verdict.add(found.differences)


def _compare_changes(
    network: Network, before: dict[bytes, bytes], changes: Json, found: _Findings
) -> None:
    """The world before with the recorded changes must be the world now; go on from there."""
    want = dict(before)
    for text, raw in changes.items():
        if raw is None:
            want.pop(base64.b64decode(text), None)
        else:
            want[base64.b64decode(text)] = base64.b64decode(raw)
    entries = network.world.entries
    if entries == want:
        return
    for key in sorted(entries.keys() | want.keys()):
        if entries.get(key) != want.get(key):
            name = base64.b64encode(key).decode()
            found.compare(f"entry {name}", _show(entries.get(key)), _show(want.get(key)))
    network.world = World(want)
