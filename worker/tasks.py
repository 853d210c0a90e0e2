"""Tasks: parse the ids, call the ledger, and let it commit. No task decides anything.

`tick` runs on the schedule and publishes the others; each may be lost, repeated or run twice at
once without harm, because the rows say what is to be done.
"""

from datetime import UTC, datetime, timedelta

import structlog

from ledger.evidence.terms import Terms
from ledger.sealing.driver import advance as advance_epochs
from ledger.sealing.expiry import expire as expire_epochs
from ledger.sealing.judging import JudgingOutcome, judge_bundles, sweep_batches
from ledger.stellar.errors import GatewayError
from ledger.stellar.settlement import settle as settle_domain
from ledger.store.engine import try_advisory_lock
from ledger.store.shard_store import Shard
from worker.app import app
from worker.process import parts
from worker.settings import work_expiry_s

_log = structlog.get_logger(__name__)


@app.task(name="swarmledger.check_bundles")
def check_bundles(bundle_ids: list[int]) -> None:
    """Judge a batch of bundles."""
    outcomes = judge_bundles(
        parts().sessions,
        bundle_ids,
        attempts_max=parts().settings.attempts_max,
        log_seed=parts().sealing.log_seed,
        next_log_seed=parts().sealing.next_log_seed,
        known=parts().known_entitlements,
    )
    for bundle_id, outcome in outcomes.items():
        if outcome == JudgingOutcome.POISON:
            _log.error("bundle_set_aside", bundle_id=bundle_id)


@app.task(name="swarmledger.tick")
def tick() -> None:
    """Publish what is due: bundles without a verdict, the broadcaster's epochs and settlement."""
    settings = parts().settings
    batches = sweep_batches(
        parts().sessions,
        now=datetime.now(UTC),
        lease=timedelta(seconds=settings.lease_s),
        limit=settings.sweep_bundles_max,
    )
    for bundle_ids in batches:
        check_bundles.delay(bundle_ids)
    for account in parts().list_accounts():
        settle.apply_async((account.hex(),), expires=work_expiry_s(settings))
        advance.apply_async((account.hex(),), expires=work_expiry_s(settings))


@app.task(name="swarmledger.advance")
def advance(account: str) -> None:
    """Do what is due for a broadcaster's epochs."""
    shard = parts().find_shard(bytes.fromhex(account))
    advance_epochs(parts().sealing, shard)


@app.task(name="swarmledger.settle")
def settle(account: str) -> None:
    """Read the network's facts, and pay and anchor what is due, for one broadcaster."""
    shard = parts().find_shard(bytes.fromhex(account))
    with parts().sessions.begin() as guard:
        if try_advisory_lock(guard, f"settle {account}"):
            domain = parts().domain_of(shard)
            settle_domain(parts().sessions, parts().gateways, domain)
            _look_ahead(shard, parts().sealing_terms(shard))


def _look_ahead(shard: Shard, terms: Terms) -> None:
    """See whether those who may be paid next can be; without an answer they count as ready."""
    log_seed = parts().sealing.log_seeds.of_key(terms.log_key)
    try:
        parts().preflight.look(shard, terms, parts().gateways[0], log_seed)
    except GatewayError as error:
        _log.warning("preflight_without_answer", error=str(error))


@app.task(name="swarmledger.expire")
def expire() -> None:
    """Drop what nothing needs any more of the broadcaster's epochs."""
    for account in parts().list_accounts():
        audit = parts().sealing.audit
        if audit is not None:
            expire_epochs(parts().sessions, parts().find_shard(account), audit.audit_dir)
