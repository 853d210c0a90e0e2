"""Ledger keys and entries as XDR, for sources that answer in XDR.

Keys are encoded from the port's; entries are decoded with the SDK's XDR and kept to what the port
tells of them. Follows Stellar-ledger-entries.x and Stellar-contract-config-setting.x.
"""

import base64
from collections.abc import Iterable
from typing import Final

from stellar_sdk import StrKey, xdr
from xdrlib3 import Error as UnpackError

from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import (
    AccountState,
    AssetKey,
    DataState,
    EntryKey,
    EntryState,
    TrustlineState,
)

FROZEN_KEYS: Final = xdr.LedgerKey(
    xdr.LedgerEntryType.CONFIG_SETTING,
    config_setting=xdr.LedgerKeyConfigSetting(
        xdr.ConfigSettingID.CONFIG_SETTING_FROZEN_LEDGER_KEYS
    ),
)
"""The setting that lists what the network has frozen (CAP-77)."""


def ledger_key_of(key: EntryKey) -> xdr.LedgerKey:
    """Return the network's key of an entry."""
    account = _account_id(key.account)
    if key.asset is not None:
        trustline = xdr.LedgerKeyTrustLine(account, _trustline_asset(key.asset))
        return xdr.LedgerKey(xdr.LedgerEntryType.TRUSTLINE, trust_line=trustline)
    if key.name is not None:
        data = xdr.LedgerKeyData(account, xdr.String64(key.name))
        return xdr.LedgerKey(xdr.LedgerEntryType.DATA, data=data)
    return xdr.LedgerKey(xdr.LedgerEntryType.ACCOUNT, account=xdr.LedgerKeyAccount(account))


def decode_entry(text: str) -> xdr.LedgerEntryData:
    """Return a ledger entry from base64 LedgerEntryData.

    Raises:
        GatewayError: It is none.
    """
    try:
        return xdr.LedgerEntryData.from_xdr_bytes(base64.b64decode(text, validate=True))
    except (UnpackError, ValueError, EOFError, TypeError) as error:
        raise GatewayError(f"ledger entry: got {type(error).__name__}, want XDR") from error


def entry_state_of(key: EntryKey, data: xdr.LedgerEntryData) -> EntryState:
    """Return an entry as the port tells of it.

    Raises:
        GatewayError: It is of another kind than its key.
    """
    if key.asset is not None and data.trust_line is not None:
        return _trustline_state_of(data.trust_line)
    if key.name is not None and data.data is not None:
        return DataState(value=data.data.data_value.data_value)
    if key.asset is None and key.name is None and data.account is not None:
        return _account_state_of(data.account)
    raise GatewayError(f"ledger entry: got a {data.type.name}, want what was asked for")


def sequence_ledger_of(account: xdr.AccountEntry) -> int:
    """Return the network ledger in which an account's number was consumed; 0 if it is not told."""
    v1 = account.ext.v1
    v2 = v1.ext.v2 if v1 is not None else None
    v3 = v2.ext.v3 if v2 is not None else None
    return 0 if v3 is None else v3.seq_ledger.uint32


def frozen_among(keys: Iterable[EntryKey], setting: xdr.LedgerEntryData | None) -> set[EntryKey]:
    """Return those of the keys that the frozen-keys setting lists; none without a setting."""
    config = None if setting is None else setting.config_setting
    listed = None if config is None else config.frozen_ledger_keys
    if listed is None:
        return set()
    raw = {item.encoded_ledger_key for item in listed.keys}
    return {key for key in keys if ledger_key_of(key).to_xdr_bytes() in raw}


def _account_id(key: bytes) -> xdr.AccountID:
    public = xdr.PublicKey(xdr.PublicKeyType.PUBLIC_KEY_TYPE_ED25519, ed25519=xdr.Uint256(key))
    return xdr.AccountID(public)


def _trustline_asset(asset: AssetKey) -> xdr.TrustLineAsset:
    code, issuer = asset[0].encode("ascii"), _account_id(asset[1])
    if len(code) <= 4:
        four = xdr.AlphaNum4(xdr.AssetCode4(code.ljust(4, b"\0")), issuer)
        return xdr.TrustLineAsset(xdr.AssetType.ASSET_TYPE_CREDIT_ALPHANUM4, alpha_num4=four)
    twelve = xdr.AlphaNum12(xdr.AssetCode12(code.ljust(12, b"\0")), issuer)
    return xdr.TrustLineAsset(xdr.AssetType.ASSET_TYPE_CREDIT_ALPHANUM12, alpha_num12=twelve)


def _trustline_state_of(line: xdr.TrustLineEntry) -> TrustlineState:
    v1, flags = line.ext.v1, line.flags.uint32
    return TrustlineState(
        balance_stroops=line.balance.int64,
        limit_stroops=line.limit.int64,
        buying_liabilities_stroops=0 if v1 is None else v1.liabilities.buying.int64,
        selling_liabilities_stroops=0 if v1 is None else v1.liabilities.selling.int64,
        is_authorized=bool(flags & xdr.TrustLineFlags.AUTHORIZED_FLAG),
        is_clawback_enabled=bool(flags & xdr.TrustLineFlags.TRUSTLINE_CLAWBACK_ENABLED_FLAG),
    )


def _account_state_of(account: xdr.AccountEntry) -> AccountState:
    v1 = account.ext.v1
    v2 = v1.ext.v2 if v1 is not None else None
    master, low, medium, high = account.thresholds.thresholds
    flags = account.flags.uint32
    signers = {_signer_name(signer.key): signer.weight.uint32 for signer in account.signers}
    owner = account.account_id.account_id.ed25519
    if master and owner is not None:
        signers[StrKey.encode_ed25519_public_key(owner.uint256)] = master
    return AccountState(
        sequence=account.seq_num.sequence_number.int64,
        balance_stroops=account.balance.int64,
        selling_liabilities_stroops=0 if v1 is None else v1.liabilities.selling.int64,
        buying_liabilities_stroops=0 if v1 is None else v1.liabilities.buying.int64,
        subentry_count=account.num_sub_entries.uint32,
        sponsoring_count=0 if v2 is None else v2.num_sponsoring.uint32,
        sponsored_count=0 if v2 is None else v2.num_sponsored.uint32,
        thresholds=(low, medium, high),
        signers=signers,
        is_authorization_required=bool(flags & xdr.AccountFlags.AUTH_REQUIRED_FLAG),
        is_authorization_revocable=bool(flags & xdr.AccountFlags.AUTH_REVOCABLE_FLAG),
        is_clawback_enabled=bool(flags & xdr.AccountFlags.AUTH_CLAWBACK_ENABLED_FLAG),
        home_domain=account.home_domain.string32.decode("utf-8", "replace"),
    )


def _signer_name(key: xdr.SignerKey) -> str:
    if key.ed25519 is not None:
        return StrKey.encode_ed25519_public_key(key.ed25519.uint256)
    if key.pre_auth_tx is not None:
        return StrKey.encode_pre_auth_tx(key.pre_auth_tx.uint256)
    if key.hash_x is not None:
        return StrKey.encode_sha256_hash(key.hash_x.uint256)
    # The body of the key after its type is what the text form encodes.
    return StrKey.encode_ed25519_signed_payload(key.to_xdr_bytes()[4:])
