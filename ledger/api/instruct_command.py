"""The command `swarmledger instruct`: a broadcaster's refund, a DAO's rulings, what became of them.

Signs with a key file and sends to the collector; the same words again change nothing. `activate`
sends nothing: it writes the DAO's word that a contract is in force, and the trust file that names
the DAO's key, the log's key and the broadcaster. Exit 0 done, 1 refused or no answer, 2 wrong
arguments. Standard output is data, standard error is talk. Not
here: payees' instructions (`payee_command`), what the operator sees of accounts.
"""

import json
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self

import httpx
import typer

from ledger.api.signed_clock import ClockUnknownError, read_ledger_ms
from ledger.audit.address import format_account
from ledger.audit.trust import Trust, TrustedKey, format_trust, parse_trust
from ledger.evidence.errors import EvidenceError
from ledger.evidence.instruction import REFUND, REFUND_ALL, RULING, Booking, Refund, Ruling
from ledger.evidence.keys import network_id_of, public_key_of
from ledger.evidence.leaf import ACTIVATION, EVIDENCE_DAO_KEY, Activation
from ledger.evidence.terms import Terms, parse_terms, require_valid_terms
from ledger.stellar.errors import StellarError
from ledger.stellar.seed_files import read_seed

TIMEOUT_S: Final = 20.0
DEFAULT_API: Final = "http://127.0.0.1:8080"

app = typer.Typer(
    name="swarmledger instruct",
    help="Ask for the unspent deposit, or rule how an unplanned transaction is booked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Api = Annotated[str, typer.Option("--api", help="The collector's base URL.")]
BroadcasterOption = Annotated[
    str | None, typer.Option("--broadcaster", help="G… account; default: the only one there.")
]
Hash = Annotated[str, typer.Argument(help="64 hexadecimal digits.")]


class RulingWord(StrEnum):
    """A `Booking` as it is typed."""

    SUSPENSE = "suspense"
    LOSS = "loss"
    IGNORE = "ignore"


class InstructError(Exception):
    """The collector gave no usable answer, or refused."""


@app.command()
def refund(
    key: Annotated[Path, typer.Option("--key", help="Seed file of the broadcaster's account.")],
    amount_stroops: Annotated[
        int | None, typer.Option(min=0, help="At most this much; default: all; 0: take it back.")
    ] = None,
    api: Api = DEFAULT_API,
    broadcaster: BroadcasterOption = None,
) -> None:
    """Ask for deposits that were not spent; paid when challenge and correction windows are over."""
    seed = _seed(key)
    with _Session(api, broadcaster) as session:
        terms = session.terms()
        if public_key_of(seed) != terms.broadcaster_account:
            raise InstructError(
                f"key: got that of {format_account(public_key_of(seed))}, "
                f"want that of {format_account(terms.broadcaster_account)}"
            )
        value = Refund(
            network_id=terms.network_id,
            broadcaster_account=terms.broadcaster_account,
            serial=session.new_serial(terms),
            amount_stroops=REFUND_ALL if amount_stroops is None else amount_stroops,
        )
        session.send(REFUND.sign(value, seed).raw)


@app.command()
def rule(
    tx_hash: Hash,
    booking: RulingWord,
    key: Annotated[Path, typer.Option("--key", help="Seed file of the DAO key in force.")],
    api: Api = DEFAULT_API,
    broadcaster: BroadcasterOption = None,
) -> None:
    """Rule how a transaction that nobody planned is booked, so that halted books go on."""
    seed = _seed(key)
    with _Session(api, broadcaster) as session:
        terms = session.terms()
        value = Ruling(
            network_id=terms.network_id,
            broadcaster_account=terms.broadcaster_account,
            dao_key=public_key_of(seed),
            serial=session.new_serial(terms),
            tx_hash=_hash(tx_hash),
            booking=Booking[booking.name],
        )
        session.send(RULING.sign(value, seed).raw)


@app.command()
def activate(
    terms_file: Annotated[Path, typer.Argument(metavar="TERMS", help="Signed terms.")],
    key: Annotated[Path, typer.Option("--key", help="Seed file of the DAO key.")],
    passphrase: Annotated[str, typer.Option(help="The Stellar network's.")],
    out: Annotated[Path, typer.Option(help="A new file for the activation.")],
    trust_out: Annotated[Path, typer.Option(help="A new file: the trust.json to publish.")],
    first_epoch: Annotated[
        int | None, typer.Option(help="Epoch that it begins with. [default: the terms' first]")
    ] = None,
    trust_file: Annotated[
        Path | None, typer.Option("--trust", help="Published trust.json: the key is added to it.")
    ] = None,
) -> None:
    """Put the contract that terms name in force from an epoch on; sends nothing."""
    seed = _seed(key)
    for path in (out, trust_out):
        if path.exists():
            raise typer.BadParameter(f"{path}: is there already, want a new file")
    terms = _read_terms(terms_file, passphrase)
    begins = terms.first_epoch if first_epoch is None else first_epoch
    if not terms.first_epoch <= begins <= terms.last_epoch:
        raise typer.BadParameter(
            f"first-epoch: got {begins}, want {terms.first_epoch}..{terms.last_epoch}"
        )
    activation = Activation(
        network_id=terms.network_id,
        broadcaster_account=terms.broadcaster_account,
        rules_digest=terms.rules_digest,
        first_epoch=begins,
        evidence_kind=EVIDENCE_DAO_KEY,
        dao_key=public_key_of(seed),
    )
    if trust_file is None:
        trust = _trust_of(terms, passphrase, activation)
    else:
        trust = _trust_with(trust_file, activation)
    out.write_bytes(ACTIVATION.sign(activation, seed).raw)
    trust_out.write_text(format_trust(trust), "utf-8")
    print(
        json.dumps(
            {
                "rules_digest": terms.rules_digest.hex(),
                "dao_key": activation.dao_key.hex(),
                "first_epoch": begins,
            }
        )
    )


def _read_terms(path: Path, passphrase: str) -> Terms:
    try:
        signed = parse_terms(path.read_bytes())
        require_valid_terms(signed)
    except (OSError, EvidenceError) as error:
        raise typer.BadParameter(f"{path}: {error}") from None
    if network_id_of(passphrase) != signed.value.network_id:
        raise typer.BadParameter(f"passphrase: got {passphrase!r}, want that of the terms' network")
    return signed.value


def _trust_with(path: Path, activation: Activation) -> Trust:
    """Return a published trust with the activation's key after those it names."""
    try:
        trust = parse_trust(path.read_text("utf-8"))
    except (OSError, ValueError, EvidenceError) as error:
        raise typer.BadParameter(f"{path}: {error}") from None
    known = (trust.network_id, trust.broadcaster_account)
    if known != (activation.network_id, activation.broadcaster_account):
        raise typer.BadParameter(f"{path}: got another broadcaster's, want that of the terms")
    last = trust.dao_keys[-1]
    if last.key == activation.dao_key:
        return trust
    if activation.first_epoch <= last.first_epoch:
        raise typer.BadParameter(
            f"first-epoch: got {activation.first_epoch}, want one after {last.first_epoch}, "
            "the first of the DAO key before"
        )
    added = TrustedKey(key=activation.dao_key, first_epoch=activation.first_epoch)
    return replace(trust, dao_keys=(*trust.dao_keys, added))


def _trust_of(terms: Terms, passphrase: str, activation: Activation) -> Trust:
    return Trust(
        network_passphrase=passphrase,
        log_origin=terms.log_origin,
        log_keys=(TrustedKey(key=terms.log_key, first_epoch=0),),
        dao_keys=(TrustedKey(key=activation.dao_key, first_epoch=0),),
        broadcaster_account=terms.broadcaster_account,
        genesis_s=terms.genesis_s,
        epoch_length_s=terms.epoch_length_s,
        grace_s=terms.grace_s,
        first_epoch=terms.first_epoch,
    )


@app.command()
def show(digest: Hash, api: Api = DEFAULT_API, broadcaster: BroadcasterOption = None) -> None:
    """Show what became of an instruction."""
    with _Session(api, broadcaster) as session:
        session.show(_hash(digest).hex())


class _Session:
    """Asks one collector; failures inside the block end the command with one line and status 1."""

    def __init__(self, api: str, broadcaster: str | None) -> None:
        self._client = httpx.Client(base_url=api, timeout=TIMEOUT_S, trust_env=False)
        self._query = {} if broadcaster is None else {"broadcaster": broadcaster}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._client.close()
        if isinstance(error, InstructError | EvidenceError):
            print(f"swarmledger instruct: {error}", file=sys.stderr)
            raise typer.Exit(1) from None

    def terms(self) -> Terms:
        """Return the terms in force."""
        signed = parse_terms(self._ask("GET", "/v1/terms", params=self._query).content)
        require_valid_terms(signed)
        return signed.value

    def new_serial(self, terms: Terms) -> int:
        """Return ledger time in milliseconds: it rises, and no clock of this machine is asked."""
        try:
            return read_ledger_ms(self._client, str(self._client.base_url), terms)
        except ClockUnknownError as error:
            raise InstructError(str(error)) from None

    def send(self, raw: bytes) -> None:
        """Send an instruction and print what became of it."""
        print(json.dumps(self._ask("POST", "/v1/instructions", content=raw).json()))

    def show(self, digest: str) -> None:
        """Print what became of an instruction."""
        answer = self._ask("GET", f"/v1/instructions/{digest}", params=self._query)
        print(json.dumps(answer.json()))

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            raise InstructError(f"{self._client.base_url}: {type(error).__name__}") from None
        if response.status_code != 200:
            text = response.text[:300]
            raise InstructError(f"{path}: got HTTP {response.status_code}: {text}")
        return response


def _seed(path: Path) -> bytes:
    try:
        return read_seed(path)
    except StellarError as error:
        raise typer.BadParameter(str(error)) from None


def _hash(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise typer.BadParameter(f"got {text[:80]!r}, want 64 hexadecimal digits")
    return value


def main() -> None:
    """Entry point of `swarmledger instruct`."""
    app()
