"""A Stellar network in one process, for demos and tests, over HTTP or inside a simulation.

Reading order: `wire`, `entries`, `state` (what a ledger holds) → `balances`, `sponsorship`,
`signatures`, `freezing`, `operations`, `apply` (one transaction) → `queue`, `closing`, `history`,
`state_file`, `network` (many) → `faults`, `service`, `horizon`, `rpc`, `http`, `command` (the
running thing) → `recorded_state`, `vectors` (judge), `measure` (speed).

It is a test network, not a blockchain: no consensus, no buckets, no archive, no contracts.
"""
