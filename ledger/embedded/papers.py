"""Papers of a demo: what broadcaster, operator and DAO sign before the first byte moves.

Keys of the three parties (each in a 0600 file of its own), the issuing key's binding, terms,
activation, and the trust file a reader would get from the parties. The Stellar accounts come from
`swarmledger stellar setup`, which keeps their seeds.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from contracts.registry import load_standard
from ledger.audit.trust import Trust, TrustedKey, format_trust
from ledger.evidence.binding import BINDING, Binding, Role
from ledger.evidence.encoding import ZERO_KEY, Signed
from ledger.evidence.keys import generate_seed, network_id_of, public_key_of
from ledger.evidence.leaf import ACTIVATION, EVIDENCE_DAO_KEY, Activation
from ledger.evidence.note import VerifierKey, format_verifier_key
from ledger.evidence.terms import CdnTerms, Terms, sign_terms
from ledger.evidence.units import STROOPS_PER_TOKEN, TRAFFIC_UNIT_BYTES

EPOCH_LENGTH_S = 15
GRACE_S = 5
LAST_EPOCH = 1_000_000
UNITS_PER_TOKEN = 102_400
"""Traffic units of 1 MiB that one token pays for: USD 0.01 per GiB if a token is a dollar."""

FEE_PPM = 100_000
"""Ten per cent, taken from the payee."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainAccounts:
    """Stellar accounts of the settlement domain, as 32-byte keys."""

    issuer: bytes
    broadcaster: bytes
    escrow: bytes
    payout: bytes
    anchor: bytes
    channels: tuple[bytes, ...]
    fee: bytes = bytes(32)
    """Pays for raised bids; zeros: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the parties reach each other."""

    passphrase: str
    """Of the Stellar network."""

    collector_url: str
    cdn_host: str
    """`host:port` of the CDN's URLs."""

    asset_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """Everything signed, and the files it stands in."""

    terms: Signed[Terms]
    trust: Trust
    terms_file: Path
    binding_file: Path
    activation_file: Path
    issuing_key_file: Path
    log_key_file: Path
    trust_file: Path
    vkey: str
    """The log's verifier key in signed-note form."""


def write_secret(path: Path, seed: bytes) -> None:
    """Write a seed as hex into a new file that only its owner can read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(seed.hex() + "\n")


PARTIES = ("issuing", "log", "dao")
"""Who signs papers besides the broadcaster's account; each has a seed file `NAME.seed`."""


def make_party_keys(folder: Path) -> dict[str, bytes]:
    """Make the parties' seeds, each in a new private file of the folder, and return them."""
    seeds = {name: generate_seed() for name in PARTIES}
    for name, seed in seeds.items():
        write_secret(folder / f"{name}.seed", seed)
    return seeds


def random_passphrase() -> str:
    """Return a passphrase for a new test network, so that no signature fits two of them."""
    return f"swarmledger devnet ; {secrets.token_hex(8)}"


def sign_papers(
    folder: Path,
    *,
    seeds: Mapping[str, bytes],
    places: Places,
    accounts: DomainAccounts,
    broadcaster_seed: bytes,
    genesis_s: int,
    epoch_length_s: int = EPOCH_LENGTH_S,
    grace_s: int = GRACE_S,
) -> Papers:
    """Sign everything and write the files.

    Args:
        folder: New files go here; it must be private (0700).
        seeds: The parties' seeds, from `make_party_keys` in the same folder.
        places: Where the parties reach each other.
        accounts: Accounts of the settlement domain.
        broadcaster_seed: Seed of the broadcaster's account; signs the binding.
        genesis_s: Ledger time at which epoch 0 begins.
        epoch_length_s: Seconds of an epoch.
        grace_s: Seconds after it in which its bundles are still taken.
    """
    keys = {name: public_key_of(seed) for name, seed in seeds.items()}
    rule = load_standard("traffic")
    origin = f"swarmledger.demo/{accounts.broadcaster.hex()[:16]}"
    value = _terms(places, accounts, keys, origin=origin, rule=rule.digest, genesis_s=genesis_s)
    value = replace(value, epoch_length_s=epoch_length_s, grace_s=grace_s)
    terms = sign_terms(value, seeds["issuing"])
    network_id = terms.value.network_id
    binding = _bind_issuing_key(network_id, broadcaster_seed, seeds["issuing"])
    activation = _activate(network_id, accounts.broadcaster, rule.digest, seeds["dao"])
    trust = _trust(places, terms.value, dao_key=keys["dao"])
    files = {
        "broadcaster.terms": terms.raw,
        "issuing.binding": binding.raw,
        "traffic.activation": activation.raw,
        "trust.json": format_trust(trust).encode(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Papers(
        terms=terms,
        trust=trust,
        terms_file=folder / "broadcaster.terms",
        binding_file=folder / "issuing.binding",
        activation_file=folder / "traffic.activation",
        issuing_key_file=folder / "issuing.seed",
        log_key_file=folder / "log.seed",
        trust_file=folder / "trust.json",
        vkey=format_verifier_key(VerifierKey(name=origin, public_key=keys["log"])),
    )


def _bind_issuing_key(
    network_id: bytes, broadcaster_seed: bytes, issuing_seed: bytes
) -> Signed[Binding]:
    binding = Binding(
        network_id=network_id,
        account=public_key_of(broadcaster_seed),
        key=public_key_of(issuing_seed),
        role=Role.ISSUING,
        first_epoch=0,
        last_epoch=LAST_EPOCH,
        serial=1,
    )
    return BINDING.sign(binding, broadcaster_seed, issuing_seed)


def _activate(
    network_id: bytes, broadcaster: bytes, rules_digest: bytes, dao_seed: bytes
) -> Signed[Activation]:
    activation = Activation(
        network_id=network_id,
        broadcaster_account=broadcaster,
        rules_digest=rules_digest,
        first_epoch=0,
        evidence_kind=EVIDENCE_DAO_KEY,
        dao_key=public_key_of(dao_seed),
    )
    return ACTIVATION.sign(activation, dao_seed)


def _trust(places: Places, terms: Terms, *, dao_key: bytes) -> Trust:
    return Trust(
        network_passphrase=places.passphrase,
        log_origin=terms.log_origin,
        log_keys=(TrustedKey(key=terms.log_key, first_epoch=0),),
        dao_keys=(TrustedKey(key=dao_key, first_epoch=0),),
        broadcaster_account=terms.broadcaster_account,
        genesis_s=terms.genesis_s,
        epoch_length_s=terms.epoch_length_s,
        grace_s=terms.grace_s,
        first_epoch=0,
    )


def _terms(
    places: Places,
    accounts: DomainAccounts,
    keys: dict[str, bytes],
    *,
    origin: str,
    rule: bytes,
    genesis_s: int,
) -> Terms:
    # The CDN runs no plugin: its key only names it as a payee in viewers' receipts.
    cdn = CdnTerms(
        key=public_key_of(generate_seed()),
        account=ZERO_KEY,
        price_stroops=0,
        price_quantity_bytes=1,
        host=places.cdn_host,
    )
    return Terms(
        network_id=network_id_of(places.passphrase),
        broadcaster_account=accounts.broadcaster,
        issuing_key=keys["issuing"],
        log_key=keys["log"],
        log_origin=origin,
        collector_url=places.collector_url,
        asset_code=places.asset_code,
        asset_issuer=accounts.issuer,
        escrow_account=accounts.escrow,
        payout_account=accounts.payout,
        anchor_account=accounts.anchor,
        rules_digest=rule,
        price_version=1,
        price_stroops=STROOPS_PER_TOKEN,
        price_quantity_bytes=UNITS_PER_TOKEN * TRAFFIC_UNIT_BYTES,
        fee_ppm=FEE_PPM,
        genesis_s=genesis_s,
        epoch_length_s=EPOCH_LENGTH_S,
        grace_s=GRACE_S,
        correction_epochs=8,
        first_epoch=0,
        last_epoch=LAST_EPOCH,
        payout_threshold_stroops=1,
        fee_bid_stroops=100,
        attempt_window_ledgers=30,
        attempt_window_s=60,
        batch_payments=100,
        fee_account=accounts.fee,
        fee_bid_max_stroops=10_000,
        challenge_window_s=0,
        cash_out_least_stroops=1,
        address_delay_s=0,
        suspense_refund_s=604_800,
        channel_accounts=tuple(sorted(accounts.channels)),
        cdns=(cdn,),
    )
