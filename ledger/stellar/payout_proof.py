"""Proof that a payout stands in the log that the chain has: asked for before anything is signed.

Whoever writes to the database can change a batch, a leaf, a checkpoint or an anchor's row. What he
cannot make is a tree head signed with the log's key whose hash the anchor account wrote on the
chain. So the epoch's leaves are proven under its signed checkpoint (`ledger.store.signed_log`), the
hash of the checkpoint is compared with the memo of the anchor's transaction as the network itself
tells it, and only a payout leaf among these leaves, byte for byte, may be signed. Signing is
`ledger.stellar.settlement`'s.
"""

from ledger.audit.stellar_xdr import read_transaction
from ledger.evidence.checkpoint import body_hash
from ledger.evidence.leaf import PayoutLeaf, format_payout_leaf
from ledger.evidence.terms import Terms
from ledger.stellar.errors import GatewayError
from ledger.stellar.gateway import Gateway
from ledger.stellar.settler_chain import is_anchor
from ledger.store import settlement_store as store
from ledger.store.engine import SessionFactory
from ledger.store.errors import UnprovenError
from ledger.store.shard_store import authentic_terms, find_shard
from ledger.store.signed_log import SignedEpoch, load_signed_epoch


class AnchoredLog:
    """The anchored leaves of one broadcaster's epochs; each epoch is proven once per object."""

    def __init__(self, sessions: SessionFactory, gateway: Gateway, terms: Terms) -> None:
        """Prove nothing yet.

        Args:
            sessions: Read in short transactions.
            gateway: The source that is asked for anchors.
            terms: Terms in force, authentic: their broadcaster and anchor account are believed.
        """
        self._sessions = sessions
        self._gateway = gateway
        self._terms = terms
        self._leaves: dict[int, frozenset[bytes]] = {}

    def require(self, leaf: PayoutLeaf) -> None:
        """Raise unless exactly this payout leaf is in the log under its epoch's anchored head.

        Raises:
            UnprovenError: It is not: the database was changed by hand.
            GatewayError: The network did not tell the anchor's transaction; ask again later.
        """
        if leaf.epoch not in self._leaves:
            self._leaves[leaf.epoch] = frozenset(self._prove(leaf.epoch).leaves)
        if format_payout_leaf(leaf) not in self._leaves[leaf.epoch]:
            raise UnprovenError(
                f"batch {leaf.batch_number}: got a payout leaf that is not in the log, "
                f"want one under the anchored checkpoint of epoch {leaf.epoch}"
            )

    def _prove(self, epoch: int) -> SignedEpoch:
        broadcaster = self._terms.broadcaster_account
        with self._sessions() as session:
            shard = find_shard(session, broadcaster)
            signed = load_signed_epoch(session, shard, epoch)
            its_terms = authentic_terms(session, shard, epoch).value
            anchor = store.load_anchor(session, broadcaster, epoch)
        tx_hash = None if anchor is None else anchor.tx_hash
        if tx_hash is None:
            raise UnprovenError(f"anchor of epoch {epoch}: got no transaction, want one")
        fact = self._gateway.transaction(tx_hash)
        if fact is None:
            raise GatewayError(
                f"{self._gateway.name}: anchor {tx_hash.hex()}: got none, want it in a ledger"
            )
        found = read_transaction(fact)
        want = body_hash(signed.checkpoint)
        # New terms may name another anchor account between an epoch and its payouts.
        accounts = {its_terms.anchor_account, self._terms.anchor_account}
        if not (found.succeeded and is_anchor(fact, {want}, accounts)):
            raise UnprovenError(
                f"anchor of epoch {epoch}: got memo {found.memo_hash.hex()} in {tx_hash.hex()}, "
                f"want {want.hex()}, the hash of its checkpoint, by the anchor account"
            )
        return signed
