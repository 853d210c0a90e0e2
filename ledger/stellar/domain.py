"""A settlement domain: the accounts, keys and policy of one broadcaster's shard.

`SettlementDomain` is what the running settlement needs. `set_up_domain` makes one on a test network
from nothing: accounts, trustlines, an asset in the broadcaster's hands, a first deposit; a handful
of network ledgers, however many payees there are. Every account is created by the issuer, so that
channel accounts use their sequence numbers for slots only. It does not sign terms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ledger.evidence.keys import public_key_of
from ledger.evidence.terms import CHANNELS_MAX, Terms
from ledger.stellar.errors import SeedFileError
from ledger.stellar.gateway import NATIVE, Gateway
from ledger.stellar.seed_files import load_or_make_seed
from ledger.stellar.signing import Signer
from ledger.stellar.transacting import (
    SIGNATURES_MAX,
    Transacting,
    account_creation,
    asset_payment,
    trust,
)

XLM: Final = 10_000_000
"""Stroops of one XLM."""

PAYEE_XLM_STROOPS: Final = 2 * XLM
"""What a payee's account starts with: reserve 1 XLM, trustline 0.5, fees."""

ACCOUNT_XLM_STROOPS: Final = 20 * XLM
"""What each account of the domain starts with: reserves and thousands of transactions."""

LEAST_XLM_STROOPS: Final = 5 * XLM
"""An account of the domain that has less is given what it should start with: strangers can create
accounts whose addresses they know, with next to nothing."""

ISSUED_STROOPS: Final = 1_000_000 * 10_000_000
"""What the broadcaster holds of the asset after set-up, unless the deposit is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How careful the settlement is; all values are configuration."""

    evidence_sources: int = 1
    """Sources that must agree before an envelope is called dead, ≥ 1; servers want 2."""

    surplus_max_stroops: int = 0
    """How much more than the books say escrow or payout account may hold before payouts stop."""

    margin_ledgers: int = 2
    """Ledgers a source's history is trusted to lag behind its newest ledger."""

    room_ledgers: int = 3
    """Least ledgers an envelope must still have when it is signed."""

    room_s: int = 15
    """Least seconds an envelope must still have when it is signed."""

    bump_after_ledgers: int = 2
    """Ledgers that an envelope waits under one bid before a higher one is offered, ≥ 1."""

    lane_share_ppm: int = 100_000
    """Most of a network ledger's operations that payments take, parts per million, ≥ 1."""

    fee_day_max_stroops: int = 1_000_000_000
    """Most that raised bids may cost in a day of ledger time, XLM stroops."""

    close_s: int = 5
    """Seconds that closes of the network lie apart, as they are counted on; ≥ 1."""

    proof_wait_ledgers: int = 0
    """Ledgers for which a payment that can never be applied may wait for the proof of it, and be
    signed anew in its slot; where it takes longer the slot is used up, and that decides at once."""

    attempts_max: int = 8
    """Attempts after which a batch that never got into a ledger gives its slot up, ≥ 1."""

    apart_max_s: int = 60
    """Seconds between sources' newest closes above which nothing is signed or given up."""

    paused_after_looks: int = 20
    """Looks without a newer ledger after which the network is called paused."""

    pause_ledgers: int = 3
    """Ledgers after which a lane that was short of XLM is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementDomain:
    """What one broadcaster's settlement is made of."""

    terms: Terms
    """Terms in force in the newest computed epoch: accounts, asset, bid, windows."""

    passphrase: str
    """Of the Stellar network."""

    signer: Signer
    """Signs for escrow, payout, anchor and channel accounts."""

    policy: Policy = Policy()

    announced: Terms | None = None
    """Terms that were registered last, if they are not in force yet: the accounts that they name
    are read from their creation on."""

    def __post_init__(self) -> None:
        terms = self.terms
        single = (terms.escrow_account, terms.payout_account, terms.anchor_account)
        for account in (*single, *terms.channel_accounts):
            if not self.signer.covers(account):
                raise SeedFileError(f"account {account.hex()}: got no seed, want one in the keys")

    @property
    def reading_terms(self) -> Terms:
        """Whose accounts are read: the terms that were registered last."""
        return self.announced or self.terms

    @property
    def broadcaster(self) -> bytes:
        """The broadcaster's account key; 32 bytes."""
        return self.terms.broadcaster_account


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DomainKeys:
    """Seeds of everybody who signs at set-up, as files below one folder."""

    issuer: bytes
    broadcaster: bytes
    escrow: bytes
    payout: bytes
    anchor: bytes
    channels: tuple[bytes, ...]
    payees: Mapping[str, bytes]
    """By name."""

    fee: bytes | None = None
    """Of the account that pays for fee bumps, if there is one."""

    @classmethod
    def load_or_make(
        cls, folder: Path, channels: int, payees: Sequence[str], *, with_fee: bool = False
    ) -> "DomainKeys":
        """Read the folder's seed files and make those that are missing.

        Layout: `issuer.seed`, `broadcaster.seed`,
        `operator/{escrow,payout,anchor,fee,channel-N}.seed`, `payees/NAME.seed`.

        Raises:
            SeedFileError: A file cannot be used, a number or name is out of range, or the seeds of
                escrow and payout are gone from a folder that was set up.
        """
        if not 1 <= channels <= CHANNELS_MAX:
            raise SeedFileError(f"channels: got {channels}, want 1 to {CHANNELS_MAX}")
        for name in payees:
            if not name or name in {".", ".."} or "/" in name or "\0" in name:
                raise SeedFileError(f"payee: got {name!r}, want a file name")
        operator = folder / "operator"
        _require_treasury_seeds(operator)
        return cls(
            issuer=load_or_make_seed(folder / "issuer.seed"),
            broadcaster=load_or_make_seed(folder / "broadcaster.seed"),
            escrow=load_or_make_seed(operator / "escrow.seed"),
            payout=load_or_make_seed(operator / "payout.seed"),
            anchor=load_or_make_seed(operator / "anchor.seed"),
            channels=tuple(
                load_or_make_seed(operator / f"channel-{number}.seed") for number in range(channels)
            ),
            payees={name: load_or_make_seed(folder / "payees" / f"{name}.seed") for name in payees},
            fee=load_or_make_seed(operator / "fee.seed") if with_fee else None,
        )

    @property
    def operator_seeds(self) -> tuple[bytes, ...]:
        """Seeds of the domain's own accounts: escrow, payout, anchor, channels, fees."""
        fee = () if self.fee is None else (self.fee,)
        return (self.escrow, self.payout, self.anchor, *self.channels, *fee)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """Accounts of a domain on the network, as keys."""

    asset_code: str
    issuer: bytes
    broadcaster: bytes
    escrow: bytes
    payout: bytes
    anchor: bytes
    channels: tuple[bytes, ...]
    payees: Mapping[str, bytes]
    deposit_tx: bytes | None
    """Hash of the first deposit, if one was asked for."""

    fee: bytes | None = None
    """Account that pays for fee bumps, if there is one."""


def _require_treasury_seeds(operator: Path) -> None:
    """Raise where other seeds are there and escrow's or payout's is not.

    They are made first, and deleted once settlers sign: made anew, they would be other accounts
    than those in the terms, with nothing in them.
    """
    wanted = [operator / f"{name}.seed" for name in ("escrow", "payout")]
    others = [path for path in sorted(operator.glob("*.seed")) if path not in wanted]
    missing = [path.name for path in wanted if not path.exists()]
    if others and missing:
        raise SeedFileError(
            f"{operator}: got {others[0].name} and no {', '.join(missing)}, want both seeds: this "
            "folder was set up, and terms may name its accounts. To set up again, put the seeds "
            "back; to change signers use `swarmledger stellar rotate`, to add channels "
            "`swarmledger settlement channels create`; for other accounts take an empty folder, or "
            "make the missing seeds with `swarmledger keys make`"
        )


class FundingGateway(Gateway, Protocol):
    """A source on a test network whose friendbot gives XLM away."""

    def fund_by_friendbot(self, account: bytes) -> None:
        """Ask for XLM; raises GatewayError where there is no friendbot."""
        ...


def set_up_domain(
    gateway: FundingGateway,
    passphrase: str,
    keys: DomainKeys,
    *,
    asset_code: str,
    deposit_stroops: int,
    asset_issuer: bytes | None = None,
) -> SetUp:
    """Make the domain's accounts, trustlines and, unless it is somebody's already, the asset.

    The key `issuer` pays for all of it; where there is no friendbot its account has XLM already.
    Running it again on the same keys and network creates what is missing and deposits once more.

    Args:
        gateway: Where it is sent and checked.
        passphrase: Of the network.
        keys: Of everybody who signs.
        asset_code: Code of the asset.
        deposit_stroops: First deposit by the broadcaster; 0: none.
        asset_issuer: Issuer of an asset that others have issued; None: issued with `issuer`'s key.

    Raises:
        GatewayError: The network gave no usable answer.
        NotSubmittedError: A transaction had no effect.
    """
    transacting = Transacting(gateway, passphrase)
    payer = public_key_of(keys.issuer)
    issuer = asset_issuer or payer
    if gateway.account(payer) is None:
        gateway.fund_by_friendbot(payer)
    _create_accounts(transacting, gateway, keys)
    issued_stroops = max(deposit_stroops, ISSUED_STROOPS) if issuer == payer else 0
    _trust_and_issue(transacting, gateway, keys, (asset_code, issuer), issued_stroops)
    deposit_tx: bytes | None = None
    if deposit_stroops:
        deposit_tx = deposit(
            gateway,
            passphrase,
            keys.broadcaster,
            escrow=public_key_of(keys.escrow),
            asset=(asset_code, issuer),
            amount_stroops=deposit_stroops,
        )
    return SetUp(
        asset_code=asset_code,
        issuer=issuer,
        broadcaster=public_key_of(keys.broadcaster),
        escrow=public_key_of(keys.escrow),
        payout=public_key_of(keys.payout),
        anchor=public_key_of(keys.anchor),
        channels=tuple(sorted(public_key_of(seed) for seed in keys.channels)),
        payees={name: public_key_of(seed) for name, seed in keys.payees.items()},
        deposit_tx=deposit_tx,
        fee=None if keys.fee is None else public_key_of(keys.fee),
    )


def deposit(
    gateway: Gateway,
    passphrase: str,
    broadcaster_seed: bytes,
    *,
    escrow: bytes,
    asset: tuple[str, bytes],
    amount_stroops: int,
) -> bytes:
    """Pay from the broadcaster's account to escrow and wait for the ledger; returns the hash.

    Raises:
        GatewayError: The network gave no usable answer.
        NotSubmittedError: The payment had no effect.
    """
    operation = asset_payment(public_key_of(broadcaster_seed), escrow, asset, amount_stroops)
    transacting = Transacting(gateway, passphrase)
    return transacting.apply_all([([operation], [broadcaster_seed])])[0]


def _create_accounts(transacting: Transacting, gateway: Gateway, keys: DomainKeys) -> None:
    issuer = public_key_of(keys.issuer)
    ours = (keys.broadcaster, *keys.operator_seeds)
    starts = {public_key_of(seed): ACCOUNT_XLM_STROOPS for seed in ours}
    starts |= {public_key_of(seed): PAYEE_XLM_STROOPS for seed in keys.payees.values()}
    operations = []
    for account, stroops in starts.items():
        view = gateway.account(account)
        if view is None:
            operations.append(account_creation(issuer, account, stroops))
        elif view.balances.get(NATIVE, 0) < min(stroops, LEAST_XLM_STROOPS):
            missing = stroops - view.balances.get(NATIVE, 0)
            operations.append(asset_payment(issuer, account, NATIVE, missing))
    # One after another: all of them take their sequence number from the issuer.
    for at in range(0, len(operations), 100):
        transacting.apply_all([(operations[at : at + 100], [keys.issuer])])


def _trust_and_issue(
    transacting: Transacting,
    gateway: Gateway,
    keys: DomainKeys,
    asset: tuple[str, bytes],
    issued_stroops: int,
) -> None:
    broadcaster = public_key_of(keys.broadcaster)
    work = []
    holders = [
        seed
        for seed in (keys.broadcaster, keys.escrow, keys.payout)
        if not _trusts(gateway, public_key_of(seed), asset)
    ]
    if holders:
        operations = [trust(public_key_of(seed), asset) for seed in holders]
        if keys.broadcaster in holders and issued_stroops:
            operations.append(asset_payment(asset[1], broadcaster, asset, issued_stroops))
        # Escrow and payout accounts sign, but the issuer's account pays and gives the sequence.
        work.append((operations, [keys.issuer, *holders]))
    payees = [
        seed for seed in keys.payees.values() if not _trusts(gateway, public_key_of(seed), asset)
    ]
    for at in range(0, len(payees), SIGNATURES_MAX):
        group = payees[at : at + SIGNATURES_MAX]
        work.append(([trust(public_key_of(seed), asset) for seed in group], group))
    transacting.apply_all(work)


def _trusts(gateway: Gateway, account: bytes, asset: tuple[str, bytes]) -> bool:
    view = gateway.account(account, assets=(asset,))
    return view is not None and asset in view.balances
