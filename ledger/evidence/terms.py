"""Terms: a broadcaster's signed service descriptor.

Whoever serves reads here, before serving, what it will earn, from whom, by which rule, where
receipts go and when it is paid. Signed by the broadcaster's issuing key. Not here: how much escrow
covers (the ledger knows) and who may watch (entitlements).
"""

from dataclasses import dataclass, fields
from itertools import pairwise

from ledger.evidence.encoding import (
    TAG_SIZE,
    Layout,
    Reader,
    RecordCode,
    Signed,
    format_tag,
    parse_tag,
)
from ledger.evidence.errors import BadSignatureError, MalformedRecordError
from ledger.evidence.keys import SIGNATURE_SIZE, sign, verify
from ledger.evidence.units import PPM

CDNS_MAX = 16
"""Most CDNs in one descriptor."""

CHANNELS_MAX = 16
"""Most channel accounts of a settlement domain: ten already fill the network's whole lane."""

BATCH_PAYMENTS_MAX = 100
"""Most operations in a Stellar transaction."""

CHALLENGE_WINDOW_S = 86_400
"""What a broadcaster gets that chooses no challenge window: a day."""

ADDRESS_DELAY_S = 86_400
"""What a broadcaster gets that chooses no delay of a new pay-to address: a day."""

SUSPENSE_REFUND_S = 604_800
"""What a broadcaster gets that chooses no refund time of unclaimed deposits: a week."""

_FIXED = Layout(
    "terms",
    [
        ("broadcaster_account", "bytes32"),
        ("issuing_key", "bytes32"),
        ("log_key", "bytes32"),
        ("log_origin", "text64"),
        ("collector_url", "text128"),
        ("asset_code", "text12"),
        ("asset_issuer", "bytes32"),
        ("escrow_account", "bytes32"),
        ("payout_account", "bytes32"),
        ("anchor_account", "bytes32"),
        ("rules_digest", "bytes32"),
        ("price_version", "u32"),
        ("price_stroops", "u64"),
        ("price_quantity_bytes", "u64"),
        ("fee_ppm", "u32"),
        ("genesis_s", "u64"),
        ("epoch_length_s", "u32"),
        ("grace_s", "u32"),
        ("correction_epochs", "u32"),
        ("first_epoch", "u32"),
        ("last_epoch", "u32"),
        ("payout_threshold_stroops", "u64"),
        ("fee_bid_stroops", "u32"),
        ("attempt_window_ledgers", "u32"),
        ("attempt_window_s", "u32"),
        ("batch_payments", "u16"),
        ("fee_account", "bytes32"),
        ("fee_bid_max_stroops", "u32"),
        ("challenge_window_s", "u32"),
        ("cash_out_least_stroops", "u64"),
        ("address_delay_s", "u32"),
        ("suspense_refund_s", "u32"),
    ],
)
_CDN = Layout(
    "terms.cdn",
    [
        ("key", "bytes32"),
        ("account", "bytes32"),
        ("price_stroops", "u64"),
        ("price_quantity_bytes", "u64"),
        ("host", "text64"),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CdnTerms:
    """One CDN of the broadcaster: its key as a payee, its host, and its price if it has one."""

    key: bytes
    """Ed25519 public key that stands as payee in CDN receipts; 32 bytes."""

    account: bytes
    """Stellar account that is paid; zeros: the CDN is metered and billed elsewhere."""

    price_stroops: int
    """Price per `price_quantity_bytes`; 0 without an account."""

    price_quantity_bytes: int
    """Bytes the price is for, ≥ 1."""

    host: str
    """`host` or `host:port` of its URLs, at most 64 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a broadcaster offers; see the field notes. Layout: FORMATS.md, Terms."""

    network_id: bytes
    """SHA-256 of the Stellar network's passphrase; 32 bytes."""

    broadcaster_account: bytes
    """Who pays; Stellar account key, 32 bytes."""

    issuing_key: bytes
    """Signs terms and entitlements; bound to the account by a binding of role issuing."""

    log_key: bytes
    """The operator's log key: checkpoints, promises, clock, audit files."""

    log_origin: str
    """The log's name, line 1 of its checkpoints."""

    collector_url: str
    """Base URL where bundles go."""

    asset_code: str
    """Code of the priced asset, 1 to 12 letters or digits."""

    asset_issuer: bytes
    """Issuer account of the priced asset; 32 bytes."""

    escrow_account: bytes
    """Holds deposits."""

    payout_account: bytes
    """Pays payees, one epoch's sum at a time."""

    anchor_account: bytes
    """Source of anchor transactions."""

    rules_digest: bytes
    """Content address of the contract that computes charges."""

    price_version: int
    """Rises with every price change; cumulative charges are kept per version."""

    price_stroops: int
    """Price of `price_quantity_bytes` delivered by peers."""

    price_quantity_bytes: int
    """Bytes the price is for, ≥ 1."""

    fee_ppm: int
    """Network fee taken from the payee, parts per million, ≤ 1,000,000."""

    genesis_s: int
    """Close time of epoch 0's start, Unix seconds of the network ledger."""

    epoch_length_s: int
    """Seconds an epoch lasts, ≥ 1."""

    grace_s: int
    """Seconds after an epoch's end in which its receipts still enter its own seal."""

    correction_epochs: int
    """For how many epochs a sealed lane can still be corrected."""

    first_epoch: int
    """First epoch these terms cover."""

    last_epoch: int
    """Last epoch these terms cover."""

    payout_threshold_stroops: int
    """A payee is paid when it is owed at least this, ≥ 1."""

    fee_bid_stroops: int
    """Network fee bid per operation in XLM stroops."""

    attempt_window_ledgers: int
    """Network ledgers one payout attempt stays valid, ≥ 1."""

    attempt_window_s: int
    """Seconds one payout attempt stays valid, ≥ 1."""

    batch_payments: int
    """Most payments in one batch, 1 to 100."""

    fee_account: bytes
    """Source of fee bumps, XLM only; zeros: bids are never raised. 32 bytes."""

    fee_bid_max_stroops: int
    """Most that a raised bid offers per operation, XLM stroops; ≥ `fee_bid_stroops`."""

    challenge_window_s: int
    """Seconds after its epoch's end before an amount may be paid; 0: at once."""

    cash_out_least_stroops: int
    """Least that is paid on demand, 1 to `payout_threshold_stroops`."""

    address_delay_s: int
    """Seconds between the end of the epoch that seals a new pay-to address and its use."""

    suspense_refund_s: int
    """Seconds after which a deposit that nobody could place goes back to its sender."""

    channel_accounts: tuple[bytes, ...]
    """Sources of payout slots, 1 to 16, strictly ascending."""

    cdns: tuple[CdnTerms, ...]
    """CDNs by strictly ascending key, at most 16."""

    def __post_init__(self) -> None:
        checks = [
            ("price_quantity_bytes", self.price_quantity_bytes >= 1, "≥ 1"),
            ("fee_ppm", self.fee_ppm <= PPM, f"at most {PPM}"),
            ("epoch_length_s", self.epoch_length_s >= 1, "≥ 1"),
            ("last_epoch", self.last_epoch >= self.first_epoch, "≥ first_epoch"),
            ("payout_threshold_stroops", self.payout_threshold_stroops >= 1, "≥ 1"),
            ("attempt_window_ledgers", self.attempt_window_ledgers >= 1, "≥ 1"),
            ("attempt_window_s", self.attempt_window_s >= 1, "≥ 1"),
            ("batch_payments", 1 <= self.batch_payments <= BATCH_PAYMENTS_MAX, "1..100"),
            ("fee_bid_max_stroops", self.fee_bid_max_stroops >= self.fee_bid_stroops, "≥ fee bid"),
            (
                "cash_out_least_stroops",
                1 <= self.cash_out_least_stroops <= self.payout_threshold_stroops,
                "1 to the threshold",
            ),
            ("asset_code", self.asset_code.isascii() and self.asset_code.isalnum(), "alphanumeric"),
        ]
        for field, holds, want in checks:
            if not holds:
                raise MalformedRecordError(f"terms.{field}", got=getattr(self, field), want=want)
        _require_ascending("terms.channel_accounts", self.channel_accounts, 1, CHANNELS_MAX)
        _require_ascending("terms.cdns", tuple(cdn.key for cdn in self.cdns), 0, CDNS_MAX)
        for cdn in self.cdns:
            if cdn.price_quantity_bytes < 1:
                raise MalformedRecordError("terms.cdn.price_quantity_bytes", got=0, want="≥ 1")
            if cdn.price_stroops and cdn.account == bytes(32):
                raise MalformedRecordError(
                    "terms.cdn.price_stroops", got=cdn.price_stroops, want="0 without an account"
                )
        _require_one_price_an_account(self.cdns)

    def epoch_at(self, close_time_s: int) -> int:
        """Return the epoch of a network ledger's close time; times before genesis count as 0."""
        return max(0, close_time_s - self.genesis_s) // self.epoch_length_s

    def epoch_start_s(self, epoch: int) -> int:
        """Return the close time at which an epoch begins (inclusive)."""
        return self.genesis_s + epoch * self.epoch_length_s

    def epoch_end_s(self, epoch: int) -> int:
        """Return the close time at which an epoch ends (exclusive)."""
        return self.epoch_start_s(epoch + 1)

    def cdn_of(self, key: bytes) -> CdnTerms | None:
        """Return the CDN with this payee key, if it is one of these terms'."""
        return next((cdn for cdn in self.cdns if cdn.key == key), None)


def _require_one_price_an_account(cdns: tuple[CdnTerms, ...]) -> None:
    """Charges are cumulative per account, so an account cannot have two prices in one version."""
    prices: dict[bytes, tuple[int, int]] = {}
    for cdn in cdns:
        price = (cdn.price_stroops, cdn.price_quantity_bytes)
        if cdn.account != bytes(32) and prices.setdefault(cdn.account, price) != price:
            raise MalformedRecordError(
                "terms.cdn.price", got=price, want=f"{prices[cdn.account]}, as the account's first"
            )


def _require_ascending(field: str, keys: tuple[bytes, ...], least: int, most: int) -> None:
    if not least <= len(keys) <= most:
        raise MalformedRecordError(field, got=f"{len(keys)} entries", want=f"{least} to {most}")
    for before, after in pairwise(keys):
        if before >= after:
            raise MalformedRecordError(field, got=after.hex(), want="strictly ascending keys")


def format_terms_body(terms: Terms) -> bytes:
    """Return the bytes that the issuing key signs.

    Raises:
        MalformedRecordError: A value does not fit its field.
    """
    parts = [format_tag(RecordCode.TERMS, terms.network_id), _FIXED.pack(terms)]
    parts.append(len(terms.channel_accounts).to_bytes(1, "little"))
    parts.append(len(terms.cdns).to_bytes(1, "little"))
    parts.extend(terms.channel_accounts)
    parts.extend(_CDN.pack(cdn) for cdn in terms.cdns)
    return b"".join(parts)


def sign_terms(terms: Terms, issuing_seed: bytes) -> Signed[Terms]:
    """Return the terms signed by the issuing key."""
    body = format_terms_body(terms)
    signature = sign(issuing_seed, body)
    return Signed(terms, signature + body, (signature,))


def parse_terms(raw: bytes) -> Signed[Terms]:
    """Return signed terms; the signature is not verified yet.

    Raises:
        MalformedRecordError: Anything that would not print back identically.
    """
    reader = Reader("terms", raw)
    signature = reader.take(SIGNATURE_SIZE, "signature")
    _, network_id = parse_tag(RecordCode.TERMS, raw[SIGNATURE_SIZE:])
    reader.take(TAG_SIZE, "tag")
    values = _FIXED.unpack(reader.take(_FIXED.size, "fixed part"))
    channel_count = reader.integer(1, "channel count", limit=CHANNELS_MAX)
    cdn_count = reader.integer(1, "cdn count", limit=CDNS_MAX)
    channels = tuple(reader.take(32, "channel account") for _ in range(channel_count))
    cdns = tuple(CdnTerms(**_CDN.unpack(reader.take(_CDN.size, "cdn"))) for _ in range(cdn_count))
    reader.finish()
    terms = Terms(network_id=network_id, channel_accounts=channels, cdns=cdns, **values)
    return Signed(terms, bytes(raw), (signature,))


def require_valid_terms(signed: Signed[Terms]) -> None:
    """Raise unless the terms are signed by the issuing key they name.

    Raises:
        BadSignatureError: The signature is not valid.
    """
    if not verify(signed.value.issuing_key, signed.body, signed.signatures[0]):
        raise BadSignatureError("terms: signature not valid under their issuing key")


TERMS_LAYOUTS = (_FIXED, _CDN)
"""The fixed part and one CDN entry, for the format document's test."""

_NOT_FIXED = {"network_id", "channel_accounts", "cdns"}
if {field.name for field in fields(Terms)} - _NOT_FIXED != {f.name for f in _FIXED.fields}:
    raise AssertionError("terms: layout and dataclass differ")
