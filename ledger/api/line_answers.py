"""A party's own line of an epoch, as `.tlog-proof`: whoever asks must be the party.

The request is signed (`ledger.publiclog.line_request`) with the account's key, or a session key
that a bundle of it bound to the account. Salts of other lines never leave here.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from ledger.api.answers import RefusedError
from ledger.api.log_files import prove_leaf
from ledger.api.requests import parse_hex
from ledger.audit.address import format_account, parse_account
from ledger.books.statements import parse_statements, sum_tree_of
from ledger.evidence.errors import MalformedError
from ledger.evidence.keys import SIGNATURE_SIZE, verify
from ledger.evidence.sumtree import SumTree
from ledger.publiclog.line_file import format_line_file
from ledger.publiclog.line_request import format_line_request
from ledger.store.engine import Session
from ledger.store.epoch_store import find_epoch, find_result, load_leaves
from ledger.store.line_store import is_bound_key
from ledger.store.shard_store import Shard

TREES_KEPT: Final = 2
"""Sum trees that a process keeps in memory; about 0.7 kB a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineAsker:
    """A request as it came; nothing of it is checked."""

    account: str
    """Account address whose line is asked for."""

    epoch: int
    key: str
    """Hexadecimal digits of the signing key."""

    signature: str
    """Hexadecimal digits of its signature."""


def answer_line(session: Session, shard: Shard, asker: LineAsker, log_dir: Path) -> bytes:
    """Return the file of a line (`ledger.publiclog.line_file`).

    Raises:
        RefusedError: 400, no account, key or signature; 403, the asker is not the party; 404, the
            epoch is not computed or has no line of the account; 503, the log is being written.
    """
    account = _parse_account(asker.account)
    _require_party(session, shard, asker, account)
    epoch, result = (
        find_epoch(session, shard, asker.epoch),
        find_result(session, shard, asker.epoch),
    )
    if epoch is None or result is None or epoch.sealed_size is None:
        raise RefusedError(
            404, "unknown_epoch", field="epoch", got=asker.epoch, want="a computed epoch"
        )
    tree = _tree_of(result.statements)
    line = next((one for one in tree.lines if one.subject == account), None)
    if line is None:
        raise RefusedError(
            404, "no_line", field="account", got=asker.account, want="a party of the epoch"
        )
    # The result leaf follows the seal leaf.
    index = epoch.sealed_size
    (leaf,) = load_leaves(session, shard, first=index, end=index + 1)
    proof = prove_leaf(log_dir, format_account(shard.account), index)
    return format_line_file(
        line,
        tree.prove_line(account),
        result_leaf=leaf,
        leaf_index=index,
        hashes=proof.hashes,
        note=proof.note,
    )


@lru_cache(maxsize=TREES_KEPT)
def _tree_of(statements: bytes) -> SumTree:
    return sum_tree_of(parse_statements(statements))


def _parse_account(text: str) -> bytes:
    try:
        return parse_account(text)
    except MalformedError as error:
        raise RefusedError(
            400, "bad_parameter", field="account", got=text, want="a G… account"
        ) from error


def _require_party(session: Session, shard: Shard, asker: LineAsker, account: bytes) -> None:
    key = parse_hex("Swarmledger-Key", asker.key, 32)
    signature = parse_hex("Swarmledger-Signature", asker.signature, SIGNATURE_SIZE)
    message = format_line_request(shard.network_id, shard.account, account, asker.epoch)
    is_party = key == account or is_bound_key(session, shard, key=key, account=account)
    if not (verify(key, message, signature) and is_party):
        raise RefusedError(
            403,
            "not_the_party",
            field="Swarmledger-Signature",
            got=asker.key,
            want="a signature by the account or a key bound to it",
        )
