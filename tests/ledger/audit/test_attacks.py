"""Attacks on the verifier: an operator with the log key, strangers with hostile files, a rule.

Whatever they do, the verdict is never "proven" for something false, and never a crash.
"""

import io
import json
import sys
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import simulated_operator
from simulated_operator import (
    ORIGIN,
    Operator,
    key,
    make_entitlement,
    make_payee_bundle,
    make_receipt,
    seed,
)

from contracts.registry import Rule, load_standard, rule_from_source
from ledger.audit import command, compose, counts
from ledger.audit.command import run
from ledger.audit.errors import DisprovenError, require_same
from ledger.audit.file import LogProof, ProvenLeaf, build_audit_file, parse_audit_file
from ledger.audit.trust import Trust, TrustedKey, format_trust, parse_trust
from ledger.audit.verify import Report, Verdict, verify_audit_file
from ledger.books.epoch import compute_epoch
from ledger.books.judgement import BundleCheck, set_aside
from ledger.books.state import PayeeBalance, State, state_root
from ledger.evidence.checkpoint import Checkpoint, sign_checkpoint
from ledger.evidence.errors import MalformedRecordError
from ledger.evidence.leaf import ACTIVATION, RESULT_LEAF, Payment
from ledger.evidence.merkle import RootBuilder, check_inclusion, leaf_hash, root_hash
from ledger.evidence.note import VerifierKey, format_note

TRAFFIC = load_standard("traffic")
OTHER_RULE = rule_from_source(TRAFFIC.source + b"# Another rule.\n")


def start(deposit_stroops: int = 10**12) -> Operator:
    operator = Operator()
    operator.set_up(deposit_stroops)
    return operator


def traffic(operator: Operator, total: int = 1_000_003) -> list[bytes]:
    """One honest bundle of the current epoch."""
    epoch = operator.epoch
    ann = make_entitlement(operator, "ann")
    receipt = make_receipt(ann, "ann", "seeder", epoch, total)
    return [make_payee_bundle("seeder", epoch, [ann], [receipt])]


def verify(operator: Operator, data: bytes) -> Report:
    return verify_audit_file(data, operator.trust)


def require_disproven(operator: Operator, data: bytes, step: str, words: str = "") -> None:
    report = verify(operator, data)
    failed = report.failed_step
    assert report.verdict == Verdict.DISPROVEN
    assert failed is not None
    assert failed.name == step, failed
    assert words in failed.detail


def sign_log(leaves: list[bytes]) -> bytes:
    head = Checkpoint(origin=ORIGIN, tree_size=len(leaves), root_hash=root_hash(leaves))
    return format_note(sign_checkpoint(head, seed("log")))


def splice_result(operator: Operator, state: State) -> None:
    """Put a second result of the last epoch into the log, with another closing state."""
    leaf = replace(
        operator.result.result_leaf, closing_state_root=state_root(state), payout_count=0
    )
    operator.leaves.append(RESULT_LEAF.format_body(leaf))
    operator.result_index_by_epoch[operator.epoch - 1] = len(operator.leaves) - 1
    operator.checkpoint = sign_log(operator.leaves)
    operator.state = state


def enrich(state: State, name: str, amount_stroops: int) -> State:
    """A state in which somebody is owed money for nothing; every sum in it agrees."""
    charged = state.head.charged_stroops + amount_stroops
    return replace(
        state,
        head=replace(state.head, charged_stroops=charged),
        payees={**state.payees, key(name): PayeeBalance(accrued_stroops=amount_stroops)},
    )


def write_files(folder: Path, trust: Trust, *files: bytes) -> list[str]:
    """Arguments of the auditor's command for these files."""
    (folder / "trust.json").write_text(format_trust(trust))
    arguments = ["--trust", str(folder / "trust.json")]
    for place, data in enumerate(files):
        path = folder / f"{place}.audit"
        path.write_bytes(data)
        arguments.append(str(path))
    return arguments


# --- the operator: history ------------------------------------------------------------------------


def test_result_spliced_between_two_epochs_is_noticed_by_whoever_has_both_files(tmp_path, capsys):
    operator = start()
    first = operator.close(traffic(operator))
    splice_result(operator, enrich(operator.state, "mallory", 10**9))
    second = operator.close()
    assert operator.result.payouts[-1].payments[0].amount_stroops > 0
    arguments = write_files(tmp_path, operator.trust, second, first)
    assert run(arguments, prog="verify") == 1
    assert "succession" in capsys.readouterr().out


def test_leaves_spliced_after_a_result_are_noticed_in_the_next_file():
    """The log before an epoch ends with the result and payouts of the epoch before it."""
    operator = start()
    operator.close(traffic(operator))
    operator.leaves.append(operator.leaves[0])
    operator.checkpoint = sign_log(operator.leaves)
    require_disproven(operator, operator.close(), "opening state", "previous result: place")


def test_two_logs_of_one_epoch_are_noticed_by_whoever_has_both_files(tmp_path, capsys):
    one, other = start(), start()
    arguments = write_files(tmp_path, one.trust, one.close(traffic(one)), other.close())
    assert run([*arguments, "--json"], prog="verify") == 1
    reports = json.loads(capsys.readouterr().out)
    assert [report["failed_step"] for report in reports] == ["succession", "succession"]


def test_files_that_follow_on_from_each_other_are_proven_in_any_order(tmp_path, capsys):
    operator = start()
    files = [operator.close(traffic(operator)) for _ in range(3)]
    arguments = write_files(tmp_path, operator.trust, *files[::-1])
    assert run([*arguments, "--json"], prog="verify") == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["steps"][-1]["name"] for report in reports] == ["succession"] * 3
    assert [report["epoch"] for report in reports] == [2, 1, 0]
    assert run(write_files(tmp_path, operator.trust, files[1]), prog="verify") == 0


def test_epoch_cannot_be_skipped():
    operator = start()
    operator.close(traffic(operator))
    operator.state = replace(
        operator.state, head=replace(operator.state.head, next_epoch=operator.epoch + 1)
    )
    operator.result_index_by_epoch[operator.epoch - 1] = operator.result_index_by_epoch[0]
    require_disproven(operator, operator.close(), "opening state", "previous result: epoch")


def test_opening_state_of_another_broadcaster_is_noticed_in_the_first_epoch():
    """The state's root covers its rows only, so the header is compared by itself."""
    operator = start()
    operator.state = replace(operator.state, broadcaster_account=key("mallory"))
    require_disproven(operator, operator.close(), "opening state", "broadcaster")


def test_log_of_the_largest_size_is_disproven_without_a_crash():
    operator = start()
    operator.close()
    operator.close()
    size = 2**63 - 1
    builder = RootBuilder.restore(size.to_bytes(8, "little") + bytes(32 * size.bit_count()))
    head = Checkpoint(origin=ORIGIN, tree_size=size, root_hash=builder.root())
    contents = replace(
        operator.contents,
        frontier=builder.export_state(),
        previous_checkpoint=format_note(sign_checkpoint(head, seed("log"))),
    )
    require_disproven(operator, build_audit_file(contents, seed("log")), "log", "size")


# --- the operator: rules --------------------------------------------------------------------------


def test_rule_changes_by_an_activation_that_begins_with_its_epoch():
    operator = start()
    operator.close(traffic(operator))
    operator.activate(OTHER_RULE)
    for _ in range(2):
        report = verify(operator, operator.close(traffic(operator)))
        assert report.verdict == Verdict.PROVEN, report.failed_step


def keep_the_old_rule(operator: Operator, rule: Rule = OTHER_RULE) -> None:
    """The DAO's new rule is in the log; the operator goes on with the old one."""
    old = (operator.rule, operator.terms, operator.signed_terms, operator.activation)
    operator.activate(rule)
    operator.rule, operator.terms, operator.signed_terms, operator.activation = old


def test_old_rule_in_the_epoch_in_which_another_begins():
    operator = start()
    operator.close()
    keep_the_old_rule(operator)
    require_disproven(operator, operator.close(), "rule", "activation")


def test_old_rule_after_the_epoch_in_which_another_began():
    operator = start()
    operator.close()
    old = (operator.rule, operator.terms, operator.signed_terms, operator.activation)
    operator.activate(OTHER_RULE)
    assert verify(operator, operator.close()).verdict == Verdict.PROVEN
    operator.rule, operator.terms, operator.signed_terms, operator.activation = old
    require_disproven(operator, operator.close(), "opening state", "previous result: rule")


def test_stolen_dao_key_that_was_replaced_rules_by_its_old_activation():
    """The rule is the same, so only the key tells the two activations apart."""
    operator = start()
    operator.close()
    keys = (*operator.trust.dao_keys, TrustedKey(key=key("dao 2"), first_epoch=1))
    operator.trust = replace(operator.trust, dao_keys=keys)
    stolen = operator.activation
    value = replace(stolen.value, first_epoch=1, dao_key=key("dao 2"))
    operator.activation = ACTIVATION.sign(value, seed("dao 2"))
    operator.begun[1] = [operator.activation]
    assert verify(operator, operator.close()).verdict == Verdict.PROVEN
    operator.activation = stolen
    data = operator.close()
    assert operator.inputs.dao_key == key("dao"), "whose rulings have effect"
    require_disproven(operator, data, "rule", "DAO key in force")


def test_two_rules_that_begin_with_one_epoch():
    operator = start()
    operator.close()
    operator.activate(OTHER_RULE)
    operator.activate(TRAFFIC)
    require_disproven(operator, operator.close(), "rule", "activations")


# --- the operator: bundles ------------------------------------------------------------------------


def test_bundle_whose_signature_the_operator_spoiled_is_not_refused_quietly():
    """The promise names the body, so the bundle would stand in the log as promised."""
    operator = start()
    (raw,) = traffic(operator)
    require_disproven(operator, operator.close([bytes(64) + raw[64:]]), "bundles", "submitter")


class PoisoningOperator(Operator):
    """Sets every bundle aside."""

    def check(self, raw: bytes) -> BundleCheck:
        return set_aside(super().check(raw))


def test_bundle_set_aside_by_the_operator_is_shown_with_what_it_would_have_counted():
    operator = PoisoningOperator()
    report = verify(operator, operator.close(traffic(operator)))
    assert report.verdict == Verdict.PROVEN, report.failed_step
    detail = next(step.detail for step in report.steps if step.name == "bundles")
    assert "1 bundles set aside by the operator, with 1 receipts that pass" in detail


# --- the operator: network facts ------------------------------------------------------------------


def test_network_ledgers_do_not_run_backwards():
    """Otherwise facts of ledgers that were folded could be folded again."""
    operator = start()
    operator.close()
    operator.pending = []
    operator.ledger_sequence = 5
    require_disproven(operator, operator.close(), "network facts", "last network ledger")


def test_close_times_that_fall_along_the_chain():
    operator = start()
    first, second = operator.pending
    operator.pending = [replace(first, close_time_s=second.close_time_s + 1), second]
    require_disproven(operator, operator.close(), "network facts", "close time")


class HastyOperator(Operator):
    """Names a last network ledger that closed in the middle of the epoch."""

    def last_ledger_close_s(self) -> int:
        return self.terms.epoch_start_s(self.epoch) + 3


def test_fact_that_closed_after_the_last_network_ledger():
    operator = HastyOperator()
    operator.set_up(10**12)
    require_disproven(operator, operator.close(), "network facts", "close time")


def test_one_network_ledger_with_two_close_times():
    operator = start()
    first, second = operator.pending
    operator.pending = [
        first,
        replace(
            second,
            ledger_sequence=first.ledger_sequence,
            apply_order=2,
            close_time_s=first.close_time_s + 1,
        ),
    ]
    require_disproven(operator, operator.close(), "network facts", "close time")


def test_one_deposit_told_twice():
    operator = start()
    deposit = operator.pending[-1]
    operator.pending.append(replace(deposit, ledger_sequence=deposit.ledger_sequence + 1))
    operator.ledger_sequence += 1
    require_disproven(operator, operator.close(), "network facts", "once")


def test_anchor_in_a_ledger_before_the_epoch_ended():
    """A checkpoint that names the epoch's last ledger cannot be anchored in it or before it."""
    operator = start()
    operator.close()
    parsed = operator.contents
    sequence = operator.inputs.last_ledger_sequence
    anchor = parsed.anchor[:40] + sequence.to_bytes(4, "little") + parsed.anchor[44:]
    data = build_audit_file(replace(parsed, anchor=anchor), seed("log"))
    require_disproven(operator, data, "anchor", "network ledger")


def test_batch_of_a_payee_nobody_knows_is_disproven_without_a_crash(monkeypatch):
    operator = start()
    operator.close(traffic(operator))
    funding, payout = operator.result.payouts
    stolen = (Payment(account=key("mallory"), amount_stroops=payout.total_stroops),)
    batch = operator.state.batches[payout.batch_number]
    batches = {**operator.state.batches, payout.batch_number: replace(batch, payments=stolen)}
    splice_result(operator, replace(operator.state, batches=batches))
    operator.apply_payout(funding)
    operator.apply_payout(replace(payout, payments=stolen))
    # The operator's own code stops at the payment; a lying operator leaves it out.
    compute_without(monkeypatch, transactions=())
    require_disproven(operator, operator.close(), "contract", "payee")


# --- strangers: hostile files ---------------------------------------------------------------------


def test_trust_file_with_half_a_surrogate_pair_is_malformed():
    text = format_trust(Operator().trust).replace("simulated network", "\\ud800")
    with pytest.raises(MalformedRecordError, match="network_passphrase"):
        parse_trust(text)


def test_two_log_keys_with_one_id_are_malformed():
    """A note names its key by name and four bytes of id; nobody could tell which key signed."""
    one, other = keys_with_one_id("log.example/broadcaster")
    trust = Operator().trust
    keys = tuple(TrustedKey(key=value, first_epoch=n) for n, value in enumerate((one, other)))
    with pytest.raises(MalformedRecordError, match="log_keys"):
        parse_trust(format_trust(replace(trust, log_keys=keys)))


def keys_with_one_id(name: str) -> tuple[bytes, bytes]:
    """Two different keys whose notes look alike, found by trying (fixed by the seeds found)."""
    seen: dict[bytes, bytes] = {}
    for number in range(1 << 20):
        value = sha256(b"collision %d" % number).digest()
        known = seen.setdefault(VerifierKey(name=name, public_key=value).key_id, value)
        if known != value:
            return known, value
    raise AssertionError("no collision among a million keys")


@pytest.mark.parametrize(
    "data",
    [b"", bytes(2**20), b"\xff" * 10_000],
    ids=["empty", "zeros", "ones"],
)
def test_other_bytes_are_disproven(data):
    assert verify_audit_file(data, Operator().trust).verdict == Verdict.DISPROVEN


def test_counts_that_promise_gigabytes_are_refused_before_anything_is_allocated():
    operator = start()
    contents = parse_audit_file(operator.close(traffic(operator))).contents
    huge = b"\xff\xff\xff\x7f"
    for field in ("opening_state", "closing_state", "journal", "statements"):
        value = getattr(contents, field)
        at = 72 if field.endswith("state") else 0
        hostile = value[:at] + huge + value[at + 4 :]
        data = build_audit_file(replace(contents, **{field: hostile}), seed("log"))
        tracemalloc.start()
        report = verify(operator, data)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert report.verdict == Verdict.DISPROVEN
        assert peak_bytes < 50 << 20


def test_finding_about_long_values_is_short():
    operator = start()
    contents = parse_audit_file(operator.close(traffic(operator))).contents
    piece = counts.CountEvidence(lane_digest=bytes(32), result=contents.activation, entries=())
    for changes in (
        {"counts": (counts.format_count_evidence(piece),) * 500},
        {"salt_key": bytes(10**6)},
        {"rule": bytes(10**6)},
        {"trust_digest": bytes(10**6)},
        {"journal": contents.journal + bytes(10**6)},
        {"issuing_binding": bytes(10**6)},
    ):
        report = verify(operator, build_audit_file(replace(contents, **changes), seed("log")))
        assert report.failed_step is not None
        assert len(report.failed_step.detail) < 2_000


def test_long_value_is_not_printed_before_it_is_cut():
    value = bytes(10**7)
    tracemalloc.start()
    MalformedRecordError("field", got=value, want="less")
    with pytest.raises(DisprovenError):
        require_same("field", got=[value] * 1000, want=value)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


# --- rules ----------------------------------------------------------------------------------------


def compute_without(monkeypatch, **changes: object) -> None:
    """Have the operator compute from other inputs than it sealed."""

    def compute(inputs, seal):
        return compute_epoch(replace(inputs, **changes), seal)

    monkeypatch.setattr(simulated_operator, "compute_epoch", compute)


HOSTILE_RULES = {
    "no such function": b"X = 1\n",
    "other parameters": b"def settle(lanes):\n    return 1\n",
    "no dict": b"def settle(lanes, parameters, opening):\n    return 1\n",
    "not text": b"\xff\xfe",
    "endless": b"def settle(lanes, parameters, opening):\n    n = 0\n"
    b"    for i in range(2000000000):\n        n += i\n    return n\n",
    "growing": b"def settle(lanes, parameters, opening):\n    x = [1]\n"
    b"    for i in range(60):\n        x += x\n    return x\n",
    "folded": b"def settle(lanes, parameters, opening):\n    x = [1] * 10\n"
    b"    for i in range(12):\n        x = [x] * 10\n"
    b'    return {"lanes": [[x, 0, 0]], "charges": x, "closing": x}\n',
    "lines of its own": b"def settle(lanes, parameters, opening):\n"
    b'    fail("x\\n  verdict: proven")\n',
}


@pytest.mark.parametrize("source", HOSTILE_RULES.values(), ids=HOSTILE_RULES)
def test_hostile_rule_is_disproven_in_one_line(monkeypatch, tmp_path, capsys, source):
    """Voted for and activated as it should be, and still nobody's crash."""
    operator = start()
    operator.close()
    operator.activate(rule_from_source(source))
    compute_without(monkeypatch, rule=TRAFFIC)
    data = operator.close(traffic(operator))
    require_disproven(operator, data, "contract")
    run(write_files(tmp_path, operator.trust, data), prog="verify")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "verdict" in line][-1:] == ["  verdict: disproven"]
    assert sum(line.strip().startswith("verdict") for line in lines) == 1


# --- work that others can cause -------------------------------------------------------------------


def test_late_lanes_cost_the_operator_one_tree_whatever_their_number(monkeypatch):
    """Anybody with an entitlement can send thousands of late lanes, one a nonce."""
    hashed = 0

    def count_hash(leaf: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return leaf_hash(leaf)

    monkeypatch.setattr(counts, "leaf_hash", count_hash)
    entries = [number.to_bytes(32, "big") + bytes(16) for number in range(0, 200, 2)]
    result = ProvenLeaf(leaf=b"", proof=LogProof(leaf_index=0, hashes=()))
    lanes = [number.to_bytes(32, "big") for number in range(200)]
    evidence = counts.prove_counts(lanes, entries, result)
    assert [piece.lane_digest for piece in evidence] == lanes
    assert hashed == len(entries)


def test_log_is_hashed_once_for_all_proofs(monkeypatch):
    hashed = 0

    def count_hash(leaf: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return leaf_hash(leaf)

    monkeypatch.setattr(compose, "leaf_hash", count_hash)
    leaves = [bytes([number]) for number in range(50)]
    log = compose.LogView(
        leaves=leaves, first_leaf_index=0, activation_index=0, previous_result_index=None
    )
    for index in range(50):
        proof = log.prove(index).proof
        check_inclusion(leaf_hash(leaves[index]), index, 50, proof.hashes, root_hash(leaves))
    assert hashed == len(leaves)


# --- the reader's machine -------------------------------------------------------------------------


def test_terminal_without_the_characters_shows_their_escapes(tmp_path, monkeypatch):
    operator = start()
    arguments = write_files(tmp_path, operator.trust, operator.close(traffic(operator)))
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert run(arguments, prog="verify") == 0
    sys.stdout.flush()
    assert b"\\u2026 in force from epoch 0" in shown.getvalue()


def test_file_that_does_not_fit_the_memory_is_undecided(tmp_path, monkeypatch, capsys):
    def exhaust(*_arguments: object) -> Report:
        raise MemoryError

    arguments = write_files(tmp_path, Operator().trust, b"")
    monkeypatch.setattr(command, "verify_audit_file", exhaust)
    assert run(arguments, prog="verify") == 2
    assert "memory" in capsys.readouterr().err
