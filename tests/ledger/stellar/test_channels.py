"""Channel accounts that a stranger created before the terms that name them were in force."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from settlement_scene import Scene
from stellar_sdk import Keypair
from stellar_sdk.operation import Operation
from stellar_sdk.operation.set_options import SetOptions
from stellar_sdk.signer import Signer

from ledger.audit.address import format_account
from ledger.audit.stellar_xdr import read_transaction
from ledger.books.draft import Draft
from ledger.books.folding import fold_transactions
from ledger.books.state import State, format_state, genesis_state, state_root
from ledger.evidence.terms import Terms
from ledger.stellar.channels import fund_channels, open_channels, unopened_channels
from ledger.stellar.domain import XLM, set_up_domain
from ledger.stellar.errors import StellarError
from ledger.stellar.facts import ingest_facts
from ledger.stellar.gateway import NATIVE
from ledger.stellar.settler_chain import Plans
from ledger.stellar.signing import SeedSigner
from ledger.stellar.transacting import Transacting, account_creation
from ledger.store import settlement_store as store
from ledger.store.epoch_store import open_epochs
from ledger.store.shard_store import find_shard
from ledger.store.tables import StateRow

pytestmark = [pytest.mark.postgres, pytest.mark.process]


def send(scene: Scene, operations: Sequence[Operation], *seeds: bytes) -> None:
    with scene.devnet.closing():
        Transacting(scene.gateway, scene.domain.passphrase).apply_all([(operations, seeds)])


def fold_facts(scene: Scene, terms: Terms, opening: State) -> Draft:
    """Fold what the network did since a state, as computing the next epoch will."""
    scene.devnet.close_ledgers(3)
    ingest_facts(scene.sessions, scene.gateway, terms, margin_ledgers=1)
    after = opening.head.last_ledger_sequence
    with scene.sessions() as session:
        facts = store.load_facts(
            session, scene.broadcaster, after_sequence=after, through_sequence=1 << 40
        )
        progress = store.fact_progress(session, scene.broadcaster)
    assert progress is not None
    draft = Draft.of(opening)
    fold_transactions(draft, terms, [read_transaction(fact) for fact in facts])
    draft.head = replace(draft.head, last_ledger_sequence=progress.sequence)
    return draft


def close_books(scene: Scene) -> State:
    """Compute an epoch under the terms that do not name the new channel yet."""
    opening = genesis_state(scene.gateway.network_id, scene.broadcaster, 0)
    state = fold_facts(scene, scene.domain.terms, opening).finish()
    with scene.sessions.begin() as session:
        shard = find_shard(session, scene.broadcaster)
        open_epochs(session, shard, first=0, last=2)
        session.add(
            StateRow(
                broadcaster_id=shard.id,
                epoch=0,
                closing=format_state(state),
                root=state_root(state),
            )
        )
    return state


def spoil(scene: Scene, new: Keypair) -> tuple[Terms, State]:
    """A stranger creates the account of new terms, then the books of the old ones are closed."""
    account = new.raw_public_key()
    send(scene, [account_creation(scene.made.issuer, account, 1 * XLM)], scene.keys.issuer)
    state = close_books(scene)
    channels = tuple(sorted((*scene.made.channels, account)))
    return replace(scene.domain.terms, channel_accounts=channels), state


def test_account_that_a_stranger_created_first_is_taken_over_by_its_key(scene: Scene) -> None:
    new = Keypair.random()
    account, seed = new.raw_public_key(), new.raw_secret_key()
    terms, state = spoil(scene, new)
    assert account not in fold_facts(scene, terms, state).channels
    assert unopened_channels(scene.sessions, scene.gateway, terms) == ((account,), ())
    with scene.devnet.closing():
        passphrase, keys = scene.domain.passphrase, SeedSigner({account: seed})
        fund_channels(
            scene.gateway, passphrase, [account], scene.keys.issuer, least_stroops=5 * XLM
        )
        (tx_hash,) = open_channels(scene.gateway, passphrase, terms, [account], keys)
    draft = fold_facts(scene, terms, state)
    view = scene.gateway.account(account)
    assert view is not None
    assert draft.channels[account] == view.sequence + 1
    assert draft.channels.keys() == set(terms.channel_accounts)
    plans = Plans(
        accounts=frozenset({account}),
        batches={},
        anchors=frozenset(),
        anchor_accounts=frozenset(),
        accepted=frozenset(),
    )
    fact = scene.gateway.transaction(tx_hash)
    assert fact is not None
    assert plans.explains(fact), "settlers need not accept it one by one"


def test_account_for_which_others_sign_is_named_and_left_alone(scene: Scene) -> None:
    new, other = Keypair.random(), Keypair.random()
    terms, _ = spoil(scene, new)
    fund = partial(fund_channels, scene.gateway, scene.domain.passphrase)
    with scene.devnet.closing():
        fund([new.raw_public_key()], scene.keys.issuer, least_stroops=5 * XLM)
    signer = SetOptions(
        signer=Signer.ed25519_public_key(other.public_key, 1), source=new.public_key
    )
    send(scene, [signer], new.raw_secret_key())
    found = unopened_channels(scene.sessions, scene.gateway, terms)
    assert found == ((), (new.raw_public_key(),))


def test_without_its_key_nothing_is_sent(scene: Scene) -> None:
    new = Keypair.random()
    terms, _ = spoil(scene, new)
    with pytest.raises(StellarError):
        open_channels(
            scene.gateway,
            scene.domain.passphrase,
            terms,
            [new.raw_public_key()],
            SeedSigner({}),
        )


def test_set_up_gives_accounts_that_a_stranger_created_what_they_need(scene: Scene) -> None:
    keys = scene.keys
    poor = Keypair.random()
    account = poor.raw_public_key()
    send(scene, [account_creation(scene.made.issuer, account, 1 * XLM)], keys.issuer)
    with scene.devnet.closing():
        made = set_up_domain(
            scene.gateway,
            scene.domain.passphrase,
            replace(keys, escrow=poor.raw_secret_key()),
            asset_code=scene.made.asset_code,
            deposit_stroops=0,
        )
    assert format_account(made.escrow) == poor.public_key
    view = scene.gateway.account(account, assets=((scene.made.asset_code, scene.made.issuer),))
    assert view is not None
    assert view.balances[NATIVE] > 5 * XLM
    assert (scene.made.asset_code, scene.made.issuer) in view.balances
