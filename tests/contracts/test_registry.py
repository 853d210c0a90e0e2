"""Digests of rules, the released ones, and which rule is in force."""

import hashlib
from pathlib import Path

import pytest

import contracts
from contracts.registry import (
    RELEASED_DIGESTS,
    Activation,
    ActivationOrderError,
    NoRuleInForceError,
    Rule,
    RuleDigestError,
    UnknownRuleError,
    digest_in_force,
    digest_of_source,
    load_standard,
    rule_from_source,
)
from contracts.settlement import (
    ALLOCATION_BYTES_PER_LANE,
    ALLOCATION_BYTES_PER_ROW,
    BASE_ALLOCATION_BYTES,
    BASE_STEPS,
    STEPS_PER_LANE,
    STEPS_PER_ROW,
)

STANDARD = Path(contracts.__file__).parent / "standard"

# Golden: a released rule never changes; a new version is a new file.
GOLDEN = {
    "traffic": "007d1b781e2cb34708419a9d97382ff99f04b4b823fafce6e295667cb17461ee",
}


def test_released_rules_are_exactly_the_golden_ones() -> None:
    assert dict(RELEASED_DIGESTS) == GOLDEN
    assert {path.stem for path in STANDARD.glob("*.star")} == set(GOLDEN)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_released_rule_has_its_golden_digest_and_passes_the_check(name: str) -> None:
    source = (STANDARD / f"{name}.star").read_bytes()
    digest = hashlib.sha256(b"swarmledger/rule/v1\0" + source).hexdigest()
    assert digest == GOLDEN[name]
    rule = load_standard(name)
    assert rule == Rule(source=source, digest=bytes.fromhex(digest))
    rule.parse().check()


def test_page_of_the_rules_states_the_digests_and_the_budgets() -> None:
    page = (Path(contracts.__file__).parent.parent / "RULES.md").read_text()
    for name, digest in GOLDEN.items():
        assert f"| `{name}` | `{digest}` |" in page
    for number in (BASE_STEPS, STEPS_PER_LANE, ALLOCATION_BYTES_PER_LANE, ALLOCATION_BYTES_PER_ROW):
        assert f"{number:,}" in page
    assert f"{STEPS_PER_ROW:,} a row" in page
    assert f"{BASE_ALLOCATION_BYTES >> 20} MiB" in page


def test_digest_of_a_rule_is_no_plain_hash_of_its_source() -> None:
    assert digest_of_source(b"") != hashlib.sha256(b"").digest()


def test_one_changed_byte_of_a_rule_is_refused() -> None:
    rule = load_standard("traffic")
    with pytest.raises(RuleDigestError, match="digest: got"):
        Rule(source=rule.source + b"\n", digest=rule.digest)


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(UnknownRuleError):
        load_standard("../traffic")


def test_rule_made_from_a_source_has_its_digest() -> None:
    assert rule_from_source(b"A = 1\n").digest == digest_of_source(b"A = 1\n")


ACTIVATIONS = [
    Activation(digest=b"\x01" * 32, first_epoch=5),
    Activation(digest=b"\x02" * 32, first_epoch=6),
    Activation(digest=b"\x01" * 32, first_epoch=100),
]


@pytest.mark.parametrize(
    ("epoch", "digest"), [(5, 1), (6, 2), (7, 2), (99, 2), (100, 1), (10**12, 1)]
)
def test_newest_activation_that_has_begun_is_in_force(epoch: int, digest: int) -> None:
    assert digest_in_force(ACTIVATIONS, epoch) == bytes([digest]) * 32


def test_epoch_before_the_first_activation_has_no_rule() -> None:
    with pytest.raises(NoRuleInForceError):
        digest_in_force(ACTIVATIONS, 4)
    with pytest.raises(NoRuleInForceError):
        digest_in_force([], 4)


def test_activations_out_of_order_are_refused_even_when_not_needed() -> None:
    with pytest.raises(ActivationOrderError):
        digest_in_force([*ACTIVATIONS, ACTIVATIONS[0]], 5)
    with pytest.raises(ActivationOrderError):
        digest_in_force([ACTIVATIONS[0], ACTIVATIONS[0]], 5)


def test_activation_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="digest: got 31 bytes"):
        Activation(digest=b"\x01" * 31, first_epoch=0)
    with pytest.raises(ValueError, match="first_epoch: got -1"):
        Activation(digest=b"\x01" * 32, first_epoch=-1)
