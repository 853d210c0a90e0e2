"""What payers and wallets are shown of a broadcaster: SEP-7 deposit link, QR code, `stellar.toml`.

The link asks a wallet for a payment to escrow that names the broadcaster: by memo, which every
wallet can send, or by a muxed address, which some can. Both carry the same deposit id
(`ledger.books.deposits`). The only importer of segno. Sources: SEP-1, SEP-7 and SEP-23 of
stellar-protocol; QR code: ISO/IEC 18004.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import quote, urlencode

import segno

from ledger.audit.address import format_account, format_muxed
from ledger.books.deposits import deposit_id
from ledger.evidence.terms import Terms
from ledger.evidence.units import format_stroops

SCHEME = "web+stellar:pay"
_PIXELS = 8
"""Pixels of the narrowest bar of a QR code in a PNG file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositNotes:
    """How a deposit of one broadcaster is told from others'."""

    escrow: str
    """G… address of escrow."""

    deposit_id: int
    """Memo of type id, or of type text in decimal digits."""

    muxed: str
    """M… address of escrow with that id: needs no memo."""


def deposit_notes(terms: Terms) -> DepositNotes:
    """Return where a deposit goes and what it says."""
    number = deposit_id(terms.broadcaster_account)
    return DepositNotes(
        escrow=format_account(terms.escrow_account),
        deposit_id=number,
        muxed=format_muxed(terms.escrow_account, number),
    )


def deposit_link(
    terms: Terms, passphrase: str, *, amount_stroops: int = 0, is_muxed: bool = False
) -> str:
    """Return the SEP-7 link of a deposit.

    Args:
        terms: Whose escrow and asset.
        passphrase: Of the Stellar network.
        amount_stroops: What to pay; 0: the payer says.
        is_muxed: Name the broadcaster in the address instead of a memo.
    """
    notes = deposit_notes(terms)
    parameters = {"destination": notes.muxed if is_muxed else notes.escrow}
    if amount_stroops:
        parameters["amount"] = format_stroops(amount_stroops)
    if terms.asset_issuer != bytes(32):
        parameters["asset_code"] = terms.asset_code
        parameters["asset_issuer"] = format_account(terms.asset_issuer)
    if not is_muxed:
        parameters["memo"] = str(notes.deposit_id)
        parameters["memo_type"] = "MEMO_ID"
    parameters["network_passphrase"] = passphrase
    return f"{SCHEME}?{urlencode(parameters, quote_via=quote)}"


def write_qr_codes(link: str, folder: Path, name: str) -> tuple[Path, Path]:
    """Write a link as QR code into `NAME.png` and `NAME.svg`; returns both.

    Raises:
        OSError: A file cannot be written.
    """
    code = segno.make(link, error="m", micro=False)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    code.save(str(png), scale=_PIXELS)
    code.save(str(svg), scale=_PIXELS)
    return png, svg


def show_qr_code(link: str, stream: TextIO) -> None:
    """Draw a link as QR code in a terminal."""
    segno.make(link, error="m", micro=False).terminal(out=stream, compact=True)


def format_stellar_toml(
    terms: Terms,
    passphrase: str,
    *,
    organisation: str = "",
    home_url: str = "",
    signing_key: bytes | None = None,
    web_auth_endpoint: str = "",
    horizon_url: str = "",
) -> str:
    """Return the text of `stellar.toml` (SEP-1 2.7.0).

    Args:
        terms: Whose accounts and asset.
        passphrase: Of the Stellar network.
        organisation: Its name; may be empty.
        home_url: Its page, `https://…`; may be empty.
        signing_key: Key that answers SEP-10 challenges; None: whoever serves the file adds it.
        web_auth_endpoint: URL of SEP-10; empty: likewise.
        horizon_url: A Horizon that wallets may ask; may be empty.
    """
    escrow, payout = format_account(terms.escrow_account), format_account(terms.payout_account)
    broadcaster = format_account(terms.broadcaster_account)
    top: list[tuple[str, object]] = [
        ("VERSION", "2.7.0"),
        ("NETWORK_PASSPHRASE", passphrase),
        ("ACCOUNTS", [broadcaster, escrow, payout]),
        ("SIGNING_KEY", format_account(signing_key) if signing_key else ""),
        ("WEB_AUTH_ENDPOINT", web_auth_endpoint),
        ("HORIZON_URL", horizon_url),
    ]
    lines = _lines(top)
    documentation = [("ORG_NAME", organisation), ("ORG_URL", home_url)]
    if any(value for _, value in documentation):
        lines += ["", "[DOCUMENTATION]", *_lines(documentation)]
    currency: list[tuple[str, object]] = [("code", terms.asset_code)]
    if terms.asset_issuer != bytes(32):
        currency.append(("issuer", format_account(terms.asset_issuer)))
    currency += [("display_decimals", 7), ("desc", "What deposits, charges and payouts are in")]
    lines += ["", "[[CURRENCIES]]", *_lines(currency)]
    return "\n".join(lines) + "\n"


def _lines(values: Sequence[tuple[str, object]]) -> list[str]:
    # JSON's strings, integers and arrays of strings are TOML's too.
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values if value]
