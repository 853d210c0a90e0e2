"""Refund batches on a real devnet: out of escrow, or out of the payout account, exactly once."""

from dataclasses import replace

from settlement_scene import Scene, append_to_log

from ledger.evidence.leaf import (
    PAYOUT_FUNDING,
    PAYOUT_REFUND,
    PAYOUT_STRAY_REFUND,
    PAYOUT_SUSPENSE_REFUND,
    Payment,
    PayoutLeaf,
)
from ledger.store.epoch_store import open_epochs
from ledger.store.shard_store import find_shard


def plan_refunds(scene: Scene) -> list[PayoutLeaf]:
    """An epoch that pays one payee, and gives money back of every kind."""
    (payee, *_) = scene.payees
    leaves = scene.plan({payee: 500, scene.payees[1]: 70})
    epoch, scene.next_epoch = scene.next_epoch, scene.next_epoch + 1
    made = scene.made
    refunds = []
    for kind, source, account, amount in (
        (PAYOUT_FUNDING, made.escrow, made.payout, 40),
        (PAYOUT_SUSPENSE_REFUND, made.escrow, scene.payees[2], 30),
        (PAYOUT_REFUND, made.escrow, made.broadcaster, 900),
        (PAYOUT_STRAY_REFUND, made.payout, scene.payees[2], 40),
    ):
        channel = made.channels[scene.next_number % len(made.channels)]
        refunds.append(
            replace(
                leaves[0],
                epoch=epoch,
                batch_number=scene.next_number,
                kind=kind,
                channel_account=channel,
                channel_sequence=scene.next_slots[channel],
                source_account=source,
                payments=(Payment(account=account, amount_stroops=amount),),
            )
        )
        scene.next_slots[channel] += 1
        scene.next_number += 1
    with scene.sessions.begin() as session:
        shard = find_shard(session, scene.broadcaster)
        open_epochs(session, shard, first=0, last=epoch)
        append_to_log(session, shard, epoch, refunds)
    scene.plan_again(epoch, refunds)
    return refunds


def test_refunds_of_every_kind_leave_the_account_where_the_money_lies(scene: Scene) -> None:
    before = {
        account: scene.balance(account)
        for account in (scene.made.escrow, scene.made.broadcaster, scene.payees[2])
    }
    plan_refunds(scene)
    report = scene.settle_all()
    assert not report.is_halted, report
    assert scene.balance(scene.made.broadcaster) == before[scene.made.broadcaster] + 900
    assert scene.balance(scene.payees[2]) == before[scene.payees[2]] + 70
    assert set(scene.states()) == {"paid"}
