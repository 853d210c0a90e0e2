"""Rules by content: digests, the released standard rules, and which rule is in force.

What it is: the digest that a vote approves, the loader of the standard rules, and the lookup of
an epoch's rule among activations. What it does not do: it verifies no vote and no signature, and
it runs nothing. Specification: RULES.md, "Digest" and "Activation".

A released rule never changes: its digest stands in `RELEASED_DIGESTS`, and the loader refuses a
file that does not have it. A new version is a new file with a new name.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

from contracts.language import Program, parse

DIGEST_DOMAIN = b"swarmledger/rule/v1\0"
"""What is hashed before the source, so that a rule's digest is no other digest."""

DIGEST_BYTES = 32

RELEASED_DIGESTS: Mapping[str, str] = MappingProxyType(
    {"traffic": "007d1b781e2cb34708419a9d97382ff99f04b4b823fafce6e295667cb17461ee"}
)
"""Digest, as lowercase hex, of each standard rule that has been released."""


class RegistryError(Exception):
    """Base of this module's errors.

    ::

        RegistryError
        ├─ UnknownRuleError       no standard rule has this name
        ├─ RuleDigestError        a source does not have the digest it should have
        ├─ ActivationOrderError   activations do not stand in order of their first epochs
        └─ NoRuleInForceError     no rule is in force in an epoch
    """


class UnknownRuleError(RegistryError):
    """No standard rule has this name."""


class RuleDigestError(RegistryError):
    """A source does not have the digest that it should have."""


class ActivationOrderError(RegistryError):
    """Activations do not stand in strictly rising order of their first epochs."""


class NoRuleInForceError(RegistryError):
    """No rule is in force in an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The source of a rule and its digest, which always belong together.

    Raises:
        RuleDigestError: the digest is not that of the source.
    """

    source: bytes
    """The rule as it was voted on; at most 64 KiB."""

    digest: bytes
    """SHA-256 of the domain tag and the source; 32 bytes."""

    def __post_init__(self) -> None:
        want = digest_of_source(self.source)
        if self.digest != want:
            raise RuleDigestError(f"digest: got {self.digest.hex()}, want {want.hex()}")

    def parse(self) -> Program:
        """Parse the source.

        Raises:
            ParseError: it is not a program of the rule language.
            CheckError: it uses a part of Starlark that rules may not use.
        """
        return _parse_once(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A rule comes into force."""

    digest: bytes
    """Digest of the rule; 32 bytes."""

    first_epoch: int
    """First epoch that the rule decides; 0 or more."""

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError(f"digest: got {len(self.digest)} bytes, want {DIGEST_BYTES}")
        if self.first_epoch < 0:
            raise ValueError(f"first_epoch: got {self.first_epoch}, want 0 or more")


@lru_cache(maxsize=8)
def _parse_once(source: bytes) -> Program:
    """Parse each source once a process; a program keeps nothing between its calls."""
    return parse(source)


def digest_of_source(source: bytes) -> bytes:
    """Return the digest of a rule's source; 32 bytes."""
    return hashlib.sha256(DIGEST_DOMAIN + source).digest()


def rule_from_source(source: bytes) -> Rule:
    """Return a rule with the digest of its source."""
    return Rule(source=source, digest=digest_of_source(source))


def load_standard(name: str) -> Rule:
    """Load a released standard rule.

    Args:
        name: its name, such as ``traffic``.

    Raises:
        UnknownRuleError: no standard rule has this name.
        RuleDigestError: the installed file is not the released one.
    """
    if name not in RELEASED_DIGESTS:
        raise UnknownRuleError(f"rule: got {name!r}, want one of {sorted(RELEASED_DIGESTS)}")
    source = files("contracts").joinpath("standard").joinpath(f"{name}.star").read_bytes()
    return Rule(source=source, digest=bytes.fromhex(RELEASED_DIGESTS[name]))


def digest_in_force(activations: Sequence[Activation], epoch: int) -> bytes:
    """Return the digest of the rule that decides an epoch.

    Args:
        activations: in strictly rising order of their first epochs.
        epoch: 0 or more.

    Raises:
        ActivationOrderError: the activations are not in order.
        NoRuleInForceError: the epoch lies before the first activation.
    """
    in_force: Activation | None = None
    previous = -1
    for activation in activations:
        if activation.first_epoch <= previous:
            raise ActivationOrderError(
                f"first_epoch: got {activation.first_epoch} after {previous}, want it higher"
            )
        previous = activation.first_epoch
        if activation.first_epoch <= epoch:
            in_force = activation
    if in_force is None:
        raise NoRuleInForceError(f"epoch: got {epoch}, want one with an activated rule")
    return in_force.digest
