"""A Stellar network in one process, for demos and tests, reached over HTTP only.

Reading order: `wire`, `entries`, `state` (what a ledger holds) → `balances`, `sponsorship`,
`signatures`, `operations`, `apply` (one transaction) → `queue`, `closing`, `network` (many) →
`faults`, `service`, `horizon`, `rpc`, `http`, `command` (the running thing) → `vectors` (judge).

It is a test network, not a blockchain: no consensus, no buckets, no archive, no contracts.
"""
