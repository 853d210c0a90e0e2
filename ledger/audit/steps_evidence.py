"""Verification steps 2 to 11: who claims what, under which terms, in which log.

Each function proves one statement about a case and returns what it proved, in words with counts;
it raises when the statement does not hold. Sources: FORMATS.md; RFC 6962 §2.1;
c2sp.org/tlog-checkpoint, c2sp.org/signed-note.
"""

from itertools import pairwise

from contracts.registry import rule_from_source
from ledger.audit.address import format_account
from ledger.audit.case import Case, proven
from ledger.audit.counts import counts_by_lane, parse_count_evidence
from ledger.audit.errors import require, require_same
from ledger.audit.file import ProvenLeaf
from ledger.audit.stellar_xdr import read_transaction
from ledger.audit.trust import Trust
from ledger.books.gathering import GatheredChecks
from ledger.books.heartbeats import HeartbeatJudgement, judge_heartbeats
from ledger.books.instructing import INSTRUCTIONS_MAX
from ledger.books.judgement import (
    BundleCheck,
    BundleCode,
    ReceiptCode,
    set_aside,
)
from ledger.books.state import genesis_state, parse_state, state_root
from ledger.books.transactions import NetworkFact, parse_fact
from ledger.evidence.binding import BINDING, Role, is_valid_binding
from ledger.evidence.bundle import parse_bundle
from ledger.evidence.checkpoint import VerifiedCheckpoint, verify_checkpoint
from ledger.evidence.encoding import RecordCode
from ledger.evidence.instruction import order_of_instruction, parse_instruction
from ledger.evidence.leaf import ACTIVATION, RESULT_LEAF, SEAL_LEAF, code_of_leaf
from ledger.evidence.merkle import RootBuilder, check_inclusion, leaf_hash, root_hash
from ledger.evidence.terms import Terms, parse_terms, require_valid_terms


def prove_trust(case: Case) -> str:
    """The file is the operator's statement about the reader's network, broadcaster and log."""
    contents, trust = case.contents, case.trust
    require_same("network id", got=contents.network_id, want=trust.network_id)
    require_same("broadcaster", got=contents.broadcaster_account, want=trust.broadcaster_account)
    require_same("trust digest", got=contents.trust_digest, want=trust.digest)
    require(
        contents.epoch >= trust.first_epoch,
        "epoch",
        got=contents.epoch,
        want=f"≥ {trust.first_epoch}",
    )
    log_key = trust.log_key_at(contents.epoch)
    require(
        case.file.is_signed_by(log_key),
        "operator's signature",
        got="not valid",
        want=f"a signature by log key {log_key.hex()}",
    )
    return f"epoch {contents.epoch}, signed by the log key of {trust.log_origin}"


def prove_terms(case: Case) -> str:
    """The terms are the broadcaster's and say what the trust says."""
    contents, trust = case.contents, case.trust
    binding = BINDING.parse(contents.issuing_binding)
    signed = parse_terms(contents.terms)
    terms = signed.value
    require(
        is_valid_binding(binding), "issuing binding", got="bad signature", want="two signatures"
    )
    # One that ended before this epoch still says whose terms these are; no entitlement counts.
    require(
        binding.value.covers(Role.ISSUING, terms.first_epoch)
        and binding.value.first_epoch <= contents.epoch,
        "issuing binding",
        got=f"role {binding.value.role}, epochs {binding.value.first_epoch} to "
        f"{binding.value.last_epoch}",
        want=f"role {int(Role.ISSUING)} in epoch {terms.first_epoch} and before {contents.epoch}",
    )
    for what, got, want in (
        ("issuing binding: account", binding.value.account, trust.broadcaster_account),
        ("issuing binding: network", binding.value.network_id, trust.network_id),
        ("terms: issuing key", terms.issuing_key, binding.value.key),
        ("terms: network", terms.network_id, trust.network_id),
        ("terms: broadcaster", terms.broadcaster_account, trust.broadcaster_account),
        ("terms: log origin", terms.log_origin, trust.log_origin),
        ("terms: log key", terms.log_key, trust.log_key_at(contents.epoch)),
        ("terms: genesis", terms.genesis_s, trust.genesis_s),
        ("terms: epoch length", terms.epoch_length_s, trust.epoch_length_s),
        ("terms: grace", terms.grace_s, trust.grace_s),
    ):
        require_same(what, got=got, want=want)
    require_valid_terms(signed)
    require(
        terms.first_epoch <= contents.epoch <= terms.last_epoch,
        "terms: epochs",
        got=f"{terms.first_epoch} to {terms.last_epoch}",
        want=f"epoch {contents.epoch} among them",
    )
    case.terms = signed
    account = format_account(terms.broadcaster_account)
    if contents.epoch > binding.value.last_epoch:
        return f"signed by the issuing key of {account}, revoked after {binding.value.last_epoch}"
    return f"signed by the issuing key of {account}"


def prove_checkpoints(case: Case) -> str:
    """Both checkpoints are signed by the log."""
    contents, trust = case.contents, case.trust
    keys = trust.log_verifier_keys()
    if case.is_first_epoch:
        require_same("previous checkpoint", got=contents.previous_checkpoint, want=b"")
        previous_size = 0
    else:
        previous = verify_checkpoint(
            contents.previous_checkpoint, origin=trust.log_origin, known_keys=keys
        )
        _require_key_of(previous, trust, contents.epoch - 1)
        case.previous_checkpoint = previous.checkpoint
        previous_size = previous.checkpoint.tree_size
    verified = verify_checkpoint(contents.checkpoint, origin=trust.log_origin, known_keys=keys)
    _require_key_of(verified, trust, contents.epoch)
    case.checkpoint = verified.checkpoint
    return f"tree sizes {previous_size:,} and {verified.checkpoint.tree_size:,}"


def _require_key_of(verified: VerifiedCheckpoint, trust: Trust, epoch: int) -> None:
    """A rotated key signs nothing new, and its successor nothing old."""
    wanted = trust.log_key_at(epoch)
    signers = [signer.public_key for signer in verified.signers]
    require(
        wanted in signers,
        f"checkpoint of epoch {epoch}: signers",
        got=", ".join(signer.hex() for signer in signers),
        want=f"log key {wanted.hex()}",
    )


def prove_log(case: Case) -> str:
    """The log before this epoch, plus exactly these leaves, is the log after it."""
    contents = case.contents
    checkpoint = proven(case.checkpoint)
    builder = RootBuilder.restore(contents.frontier)
    before = case.previous_checkpoint
    require_same("log before: size", got=builder.size, want=before.tree_size if before else 0)
    size_after = builder.size + len(contents.leaves)
    require_same("log after: size", got=size_after, want=checkpoint.tree_size)
    require_same(
        "log before: root",
        got=builder.root(),
        want=before.root_hash if before else root_hash([]),
    )
    for leaf in contents.leaves:
        builder.append(leaf)
    require_same("log after: root", got=builder.root(), want=checkpoint.root_hash)
    kinds = [code_of_leaf(leaf) for leaf in contents.leaves]
    for code in (RecordCode.LEAF_SEAL, RecordCode.LEAF_RESULT):
        require_same(f"{code.name} leaves of the epoch", got=kinds.count(code), want=1)
    case.seal_leaf = SEAL_LEAF.parse_body(contents.leaves[kinds.index(RecordCode.LEAF_SEAL)])
    case.result_leaf = RESULT_LEAF.parse_body(contents.leaves[kinds.index(RecordCode.LEAF_RESULT)])
    case.activations = tuple(
        ACTIVATION.parse(leaf)
        for leaf, code in zip(contents.leaves, kinds, strict=True)
        if code == RecordCode.LEAF_ACTIVATION
    )
    return f"{len(contents.leaves):,} leaves appended, nothing else changed"


def prove_rule(case: Case) -> str:
    """The contract is the one the DAO activated and the terms name."""
    contents, trust = case.contents, case.trust
    _prove_in_log(case, "activation leaf", contents.activation)
    activation = ACTIVATION.parse(contents.activation.leaf)
    value = activation.value
    rule = rule_from_source(contents.rule)
    for what, got, want in (
        ("activation: network", value.network_id, trust.network_id),
        ("activation: broadcaster", value.broadcaster_account, trust.broadcaster_account),
        ("activation: DAO key", value.dao_key, trust.dao_key_at(value.first_epoch)),
        # A key that was replaced rules no more, whatever it activated: an older activation of the
        # same rule would bring it back, and with it the rulings of whoever stole it.
        ("DAO key in force", value.dao_key, trust.dao_key_at(contents.epoch)),
        ("activation: rule", value.rules_digest, rule.digest),
        ("terms: rule", proven(case.terms).value.rules_digest, rule.digest),
    ):
        require_same(what, got=got, want=want)
    ACTIVATION.require_signed_by(activation, value.dao_key)
    require(
        value.first_epoch <= contents.epoch,
        "activation: first epoch",
        got=value.first_epoch,
        want=f"at most {contents.epoch}",
    )
    _prove_newest(case)
    case.rule = rule
    case.dao_key = value.dao_key
    return f"rule {rule.digest.hex()[:16]}… in force from epoch {value.first_epoch}"


def _prove_newest(case: Case) -> None:
    """The activation is the one that begins with this epoch, if one does.

    If none does, the rule goes on from the epoch before; step "opening state" compares with it.
    """
    leaf, begun = case.contents.activation.leaf, case.activations
    # The log's first epoch has one: the activation in force stands in the log, hence among these.
    require(len(begun) <= 1, "activations of the epoch", got=len(begun), want="at most 1")
    for activation in begun:
        epoch = activation.value.first_epoch
        require_same("new activation: epoch", got=epoch, want=case.contents.epoch)
        require_same("activation in force", got=leaf, want=activation.raw)


def _prove_in_log(case: Case, what: str, proven_leaf: ProvenLeaf) -> None:
    checkpoint = proven(case.checkpoint)
    proof = proven_leaf.proof
    require(
        proof.leaf_index < checkpoint.tree_size,
        f"{what}: leaf index",
        got=proof.leaf_index,
        want=f"below {checkpoint.tree_size}",
    )
    check_inclusion(
        leaf_hash(proven_leaf.leaf),
        proof.leaf_index,
        checkpoint.tree_size,
        proof.hashes,
        checkpoint.root_hash,
    )


def prove_opening_state(case: Case) -> str:
    """The opening state is the closing state of the epoch before."""
    contents, trust = case.contents, case.trust
    opening = parse_state(contents.opening_state)
    require_same("opening state: network", got=opening.network_id, want=trust.network_id)
    require_same("opening state: epoch", got=opening.head.next_epoch, want=contents.epoch)
    require_same(
        "opening state: broadcaster",
        got=opening.broadcaster_account,
        want=trust.broadcaster_account,
    )
    if case.is_first_epoch:
        genesis = genesis_state(trust.network_id, trust.broadcaster_account, trust.first_epoch)
        require_same(
            "opening state: root", got=state_root(opening).hex(), want=state_root(genesis).hex()
        )
        require_same("previous result", got=contents.previous_result, want=None)
        case.opening = opening
        return "first epoch: nothing came before"
    require(contents.previous_result is not None, "previous result", got="none", want="a leaf")
    previous = proven(contents.previous_result)
    _prove_in_log(case, "previous result", previous)
    leaf = RESULT_LEAF.parse_body(previous.leaf)
    require_same("previous result: epoch", got=leaf.epoch, want=contents.epoch - 1)
    # The log before this epoch ends with that result and its payouts: nothing stands between.
    require_same(
        "previous result: place in the log",
        got=previous.proof.leaf_index,
        want=proven(case.previous_checkpoint).tree_size - 1 - leaf.payout_count,
    )
    require_same("opening state: root", got=state_root(opening), want=leaf.closing_state_root)
    if not case.activations:
        rule = proven(case.rule)
        require_same("previous result: rule", got=leaf.rules_digest, want=rule.digest)
    case.opening = opening
    return f"equals the closing state in the log's result of epoch {leaf.epoch}"


def prove_bundles(case: Case) -> str:
    """Every signature, entitlement and binding is judged anew; bundles stand in order."""
    contents = case.contents
    terms = proven(case.terms)
    binding = BINDING.parse(contents.issuing_binding).value
    require_same("codes: bundles", got=len(contents.codes), want=len(contents.bundles))

    def load(index: int) -> BundleCheck:
        """A bundle again, with the verdict it got; its signatures are not verified twice."""
        raw, head = contents.bundles[index], gathered.heads[index]
        return BundleCheck(
            raw=raw,
            bundle=parse_bundle(raw),
            code=head.code,
            receipt_codes=tuple(head.receipt_codes),
            payee_account=head.payee_account,
        )

    gathered = GatheredChecks(load)
    passed_and_set_aside = 0
    with_heartbeats: list[int] = []
    found = case.check_bundles(contents.bundles, terms, contents.epoch, binding.last_epoch)
    for verdict, stated in zip(found, contents.codes, strict=True):
        # The collector takes no others; and a digest does not cover the submitter's signature.
        is_framed = verdict.code not in {BundleCode.MALFORMED, BundleCode.BAD_SIGNATURE}
        require(is_framed, "bundle", got=verdict.code.name, want="one that its submitter signed")
        # What stopped the operator's workers cannot be recomputed; it is counted and shown.
        is_poison = stated.bundle_code == BundleCode.POISON
        if is_poison:
            passed_and_set_aside += verdict.receipt_codes.count(ReceiptCode.COUNTED)
        check = set_aside(verdict) if is_poison else verdict
        if proven(check.bundle).value.heartbeats:
            with_heartbeats.append(len(gathered))
        gathered.add(check)
    orders = [head.order for head in gathered.heads]
    require(orders == sorted(set(orders)), "bundles", got="another order", want="bundle order")
    case.gathered = gathered
    total = sum(len(head.receipt_codes) for head in gathered.heads)
    passed = sum(head.receipt_codes.count(ReceiptCode.COUNTED) for head in gathered.heads)
    poisoned = sum(head.code == BundleCode.POISON for head in gathered.heads)
    heartbeats = judge_heartbeats(
        (gathered[index] for index in with_heartbeats), terms, issued_through=binding.last_epoch
    )
    return (
        f"{len(gathered):,} bundles, {total:,} receipts checked, {total - passed:,} refused; "
        f"{poisoned:,} bundles set aside by the operator, with {passed_and_set_aside:,} receipts "
        f"that pass{_describe_heartbeats(heartbeats)}"
    )


def _describe_heartbeats(judged: HeartbeatJudgement) -> str:
    """Say how many heartbeats hold; they carry no money, so a bad one disproves nothing."""
    if not (judged.verified or judged.refused):
        return ""
    return (
        f"; {judged.verified:,} heartbeats of {len(judged.by_viewer):,} viewers verified, "
        f"{judged.refused:,} refused"
    )


def prove_facts(case: Case) -> str:
    """Network facts read, belong to this epoch and follow on from the epoch before."""
    contents = case.contents
    terms, opening = proven(case.terms).value, proven(case.opening)
    seal_leaf = proven(case.seal_leaf)
    facts = tuple(parse_fact(data) for data in contents.facts)
    orders = [fact.order for fact in facts]
    require(orders == sorted(set(orders)), "facts", got="another order", want="chain order")
    first, last = opening.head, seal_leaf
    require(
        first.last_ledger_sequence <= last.last_ledger_sequence
        and first.last_ledger_close_s <= last.last_ledger_close_s < terms.epoch_end_s(case.epoch),
        "last network ledger",
        got=f"{last.last_ledger_sequence}, closed at {last.last_ledger_close_s}",
        want=f"at least {first.last_ledger_sequence}, closed at {first.last_ledger_close_s}, "
        f"before {terms.epoch_end_s(case.epoch)}",
    )
    for fact in facts:
        _prove_fact(case, fact, terms)
    points = [(fact.ledger_sequence, fact.close_time_s) for fact in facts]
    for before, after in pairwise([*points, (last.last_ledger_sequence, last.last_ledger_close_s)]):
        require(
            before[1] <= after[1] and (before[0] < after[0] or before[1] == after[1]),
            "fact: close time",
            got=f"{before[1]} in network ledger {before[0]}, then {after[1]} in {after[0]}",
            want="one close time a ledger, never falling",
        )
    transactions = tuple(read_transaction(fact) for fact in facts)
    hashes = {transaction.tx_hash for transaction in transactions}
    require(
        len(hashes) == len(facts),
        "facts",
        got=f"{len(hashes)} hashes",
        want="each transaction once",
    )
    case.facts, case.transactions = facts, transactions
    return (
        f"{len(facts):,} transactions up to network ledger {seal_leaf.last_ledger_sequence:,} "
        "(as the operator claims them; not checked on the chain)"
    )


def _prove_fact(case: Case, fact: NetworkFact, terms: Terms) -> None:
    """A fact is of this network, closed in this epoch, and was not folded before."""
    opening, seal_leaf = proven(case.opening), proven(case.seal_leaf)
    require_same("fact: network", got=fact.network_id, want=case.contents.network_id)
    require(
        terms.epoch_at(fact.close_time_s) == case.epoch
        or (case.is_first_epoch and fact.close_time_s < terms.epoch_end_s(case.epoch)),
        "fact: epoch",
        got=terms.epoch_at(fact.close_time_s),
        want=case.epoch,
    )
    require(
        opening.head.last_ledger_sequence < fact.ledger_sequence <= seal_leaf.last_ledger_sequence,
        "fact: network ledger",
        got=fact.ledger_sequence,
        want=f"{opening.head.last_ledger_sequence + 1} to {seal_leaf.last_ledger_sequence}",
    )


def prove_instructions(case: Case) -> str:
    """Instructions read, and stand in the one order; what each comes to is computed later."""
    instructions = tuple(parse_instruction(raw) for raw in case.contents.instructions)
    orders = [order_of_instruction(signed) for signed in instructions]
    require(
        orders == sorted(set(orders)), "instructions", got="another order", want="by what they say"
    )
    require(
        len(instructions) <= INSTRUCTIONS_MAX,
        "instructions: how many",
        got=len(instructions),
        want=f"at most {INSTRUCTIONS_MAX}",
    )
    case.instructions = instructions
    return f"{len(instructions):,} instructions of payees, broadcaster, operator and DAO"


def prove_counts(case: Case) -> str:
    """What late receipts' lanes counted for before is proven against earlier results."""
    contents, checkpoint = case.contents, proven(case.checkpoint)
    known = proven(case.opening).corrected_lanes
    before = case.checks.lanes_before(contents.epoch)
    late = {lane: epoch for lane, epoch in before.items() if lane not in known}
    evidence = [parse_count_evidence(data) for data in contents.counts]
    case.counted_before = counts_by_lane(evidence, late, checkpoint.tree_size, checkpoint.root_hash)
    return f"{len(late):,} late lanes, {len(case.counted_before):,} of them counted before"
