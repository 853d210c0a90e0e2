"""Who may see a party's line: its account, and session keys that are bound to it."""

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from ledger.store.shard_store import Shard
from ledger.store.tables import BundleRow


def is_bound_key(session: Session, shard: Shard, *, key: bytes, account: bytes) -> bool:
    """Tell whether a judged bundle bound a session key to an account."""
    return bool(
        session.scalar(
            select(
                exists().where(
                    BundleRow.submitter_key == key,
                    BundleRow.broadcaster_id == shard.id,
                    BundleRow.payee_account == account,
                )
            )
        )
    )
