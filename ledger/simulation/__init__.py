"""Simulation of settlement: production code, a devnet in the same process, virtual time, faults.

Reading order: `turns` (whose transaction is next, and who dies there), `network` (virtual time over
a devnet), `source` (a gateway that misbehaves), `faults` (when and how), `books` (epochs from
made-up earnings), `naive` (a policy that pays twice), `world` (one run and its checks). The bench
`swarmledger bench settlement-sim` runs many worlds.
"""
