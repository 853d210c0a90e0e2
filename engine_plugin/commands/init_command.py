"""`engine init`: keys from a recovery phrase, and the owner's decisions.

The phrase is shown once and asked for before the key is written; afterwards only paper has it. A
key that exists is never overwritten, so running `init` again changes settings only.
"""

import secrets
import sys
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from engine_plugin.account_address import format_address
from engine_plugin.commands import options as o
from engine_plugin.commands.console import Failures, print_json
from engine_plugin.errors import EngineError
from engine_plugin.key_files import read_seed, write_private, write_seed
from engine_plugin.owner_settings import (
    FILE_NAME,
    OwnerSettings,
    change_settings,
    load_settings,
    write_settings,
)
from engine_plugin.recovery_phrase import (
    DEFAULT_WORD_COUNT,
    PhraseError,
    derive_account_seed,
    generate_phrase,
    parse_phrase,
)
from engine_plugin.state_dir import ACCOUNT_FILE, StateDir
from ledger.evidence.keys import public_key_of

WORDS_ASKED_BACK = 3
_TRIES = 3
_CLEAR_SCREEN = "\x1b[2J\x1b[3J\x1b[H"
"""Of most terminals, with what they scrolled away."""
_PHRASE_FILE_SIZE_MAX = 4096
_CONSENT_QUESTION = (
    "Peers see this machine's IP address, as in every BitTorrent swarm, and may learn from it"
    " roughly where you are and what is exchanged. Do you accept that?"
)


class KeyExistsError(EngineError):
    """The state folder holds another account; keys are never overwritten."""


_FromPhrase = Annotated[
    bool, typer.Option("--from-phrase", help="Restore: read the phrase from the terminal.")
]
_PhraseIn = Annotated[
    Path | None, typer.Option(help="Restore: read the phrase from this file (0600).")
]
_PhraseOut = Annotated[
    Path | None, typer.Option(help="Write the new phrase into this new file (0600).")
]
_NoPhraseCheck = Annotated[
    bool, typer.Option("--no-phrase-check", help="Show the phrase without asking it back.")
]
_Words = Annotated[int, typer.Option(help="Words of a new phrase: 12, 15, 18, 21 or 24.")]
_AccountIndex = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Which account of the phrase (SEP-5).")
]
_AcceptIpVisible = Annotated[
    bool | None,
    typer.Option(
        "--accept-ip-visible/--refuse-ip-visible",
        help="Whether peers may see this machine's IP address; asked if not given.",
    ),
]
_MonthlyUpload = Annotated[
    str | None, typer.Option(help="Bytes served in a month, as 500 GB; 0 = unlimited.")
]
_DiskQuota = Annotated[
    str | None, typer.Option(help="Bytes of fetched content, as 100 GiB; 0 = unlimited.")
]
_Schedule = Annotated[
    str | None,
    typer.Option(help='When to serve, as "Mon-Fri 22:00-07:00; Sat,Sun 00:00-24:00".'),
]
_TimeZone = Annotated[str | None, typer.Option(help="Of schedule and months, as Europe/Berlin.")]
_AccountKey = Annotated[
    Path | None,
    typer.Option(help="Earn to the account of this seed file (0600), not to the phrase's."),
]
_PayoutAccount = Annotated[
    str | None, typer.Option(help="Account to be paid to, G…; may be set later.")
]


def init(
    *,
    state: o.State,
    from_phrase: _FromPhrase = False,
    phrase_in: _PhraseIn = None,
    phrase_out: _PhraseOut = None,
    no_phrase_check: _NoPhraseCheck = False,
    words: _Words = DEFAULT_WORD_COUNT,
    account_index: _AccountIndex = 0,
    accept_ip_visible: _AcceptIpVisible = None,
    discover: o.Discover = None,
    upload_limit: o.UploadLimit = None,
    download_limit: o.DownloadLimit = None,
    monthly_upload: _MonthlyUpload = None,
    disk_quota: _DiskQuota = None,
    schedule: _Schedule = None,
    time_zone: _TimeZone = None,
    account_key: _AccountKey = None,
    payout_account: _PayoutAccount = None,
    as_json: o.Json = False,
) -> None:
    """Make an engine's keys, and note its owner's decisions.

    Safe to run again: settings that are given change, keys stay.
    """
    with Failures():
        changes = {
            "accepts_ip_visible": accept_ip_visible,
            "discovers": discover,
            "upload_bytes_per_s": upload_limit,
            "download_bytes_per_s": download_limit,
            "monthly_upload_bytes": monthly_upload,
            "disk_quota_bytes": disk_quota,
            "schedule": schedule,
            "time_zone": time_zone,
            "account_key": None if account_key is None else str(account_key.absolute()),
            "payout_account": payout_account,
        }
        # Everything that can be wrong is looked at before a key is made.
        settings = change_settings(load_settings(state, environ={}), changes)
        if account_key is not None:
            read_seed(account_key)
        if as_json and not (from_phrase or phrase_in or phrase_out):
            _require_account(state)
        with closing(StateDir(state)) as folder:
            phrase = _read_phrase(phrase_in) if from_phrase or phrase_in else None
            account = _make_account(
                folder,
                _PhrasePlan(
                    phrase=phrase,
                    out=phrase_out,
                    words=words,
                    index=account_index,
                    is_asked_back=not no_phrase_check,
                ),
            )
            session = public_key_of(folder.load_session_seed())
            if not settings.accepts_ip_visible and accept_ip_visible is None and _is_terminal():
                agreed = typer.confirm(_CONSENT_QUESTION, default=False)
                settings = change_settings(settings, {"accepts_ip_visible": agreed})
            path = write_settings(state, settings)
        _tell(account, session, settings, path, as_json=as_json)


class _PhrasePlan:
    """How the account's key comes about, if there is none."""

    def __init__(
        self, *, phrase: str | None, out: Path | None, words: int, index: int, is_asked_back: bool
    ) -> None:
        self.phrase = phrase
        self.out = out
        self.words = words
        self.index = index
        self.is_asked_back = is_asked_back


def _make_account(folder: StateDir, plan: _PhrasePlan) -> bytes:
    """Return the account's public key, of its file or newly made.

    Raises:
        EngineError: The phrase is another account's, was not repeated, or a file cannot be made.
    """
    path = folder.path / ACCOUNT_FILE
    if plan.phrase is not None:
        seed = derive_account_seed(plan.phrase, index=plan.index)
        if path.exists():
            if read_seed(path) != seed:
                raise KeyExistsError(
                    f"{path}: got another account than the phrase's; keys are never overwritten"
                )
        else:
            write_seed(path, seed)
        return public_key_of(seed)
    if path.exists():
        return public_key_of(read_seed(path))
    phrase = generate_phrase(plan.words)
    if plan.out is not None:
        _write_phrase(plan.out, phrase)
    else:
        _show_phrase(phrase, is_asked_back=plan.is_asked_back)
    seed = derive_account_seed(phrase, index=plan.index)
    write_seed(path, seed)
    return public_key_of(seed)


def _require_account(state: Path) -> None:
    if not (state / ACCOUNT_FILE).exists():
        raise PhraseError("phrase: want --phrase-out, --phrase-in or --from-phrase with --json")


def _write_phrase(path: Path, phrase: str) -> None:
    try:
        write_private(path, phrase.encode() + b"\n", must_be_new=True)
    except OSError as error:
        raise PhraseError(f"phrase-out: {path}: {error.strerror}") from None


def _read_phrase(path: Path | None) -> str:
    if path is None:
        if _is_terminal():
            return parse_phrase(typer.prompt("Recovery phrase", hide_input=True))
        return parse_phrase(sys.stdin.read(_PHRASE_FILE_SIZE_MAX))
    try:
        with path.open("rb") as file:
            content = file.read(_PHRASE_FILE_SIZE_MAX)
        return parse_phrase(content.decode())
    except OSError as error:
        raise PhraseError(f"phrase-in: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PhraseError(f"phrase-in: {path}: got no text") from None


def _show_phrase(phrase: str, *, is_asked_back: bool) -> None:
    """Show a phrase once; unless it need not be, it is asked back.

    Raises:
        PhraseError: Nobody is there to write it down, or it was not repeated rightly.
    """
    if is_asked_back and not _is_terminal():
        raise PhraseError("phrase: got no terminal to show it on, want --phrase-out FILE")
    words = phrase.split()
    typer.echo("Your recovery phrase. Write it down; it is not shown again, and whoever has it")
    typer.echo("has your earnings:\n")
    for first in range(0, len(words), 6):
        line = words[first : first + 6]
        typer.echo("  " + "  ".join(f"{n:>2} {word:<9}" for n, word in enumerate(line, first + 1)))
    typer.echo()
    if not is_asked_back:
        return
    places = sorted(secrets.SystemRandom().sample(range(len(words)), WORDS_ASKED_BACK))
    for _ in range(_TRIES):
        answers = [typer.prompt(f"Word {n + 1}").strip().lower() for n in places]
        if answers == [words[n] for n in places]:
            typer.echo(_CLEAR_SCREEN, nl=False)
            return
        typer.echo("That is not what you were shown.", err=True)
    raise PhraseError("phrase: got wrong words three times; no key was made")


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _tell(
    account: bytes, session: bytes, settings: OwnerSettings, path: Path, *, as_json: bool
) -> None:
    values: dict[str, Any] = {
        field.name: getattr(settings, field.name) for field in fields(settings)
    }
    if as_json:
        print_json(
            {
                "account": account.hex(),
                "address": format_address(account),
                "session_key": session.hex(),
                "settings": values,
            }
        )
        return
    typer.echo(f"account      {format_address(account)}")
    typer.echo(f"session key  {session.hex()}")
    typer.echo(f"settings     {path}")
    if not settings.accepts_ip_visible:
        typer.echo(
            "No consent that peers see the IP address: --discover is refused"
            f" (`--accept-ip-visible`, or {FILE_NAME})."
        )
