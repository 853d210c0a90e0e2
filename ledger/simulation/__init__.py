"""Simulation of settlement: production code, a devnet in the same process, virtual time, faults.

Reading order: `turns` (whose transaction is next, and who dies there), `network` (virtual time over
a devnet), `source` (a gateway that misbehaves), `faults` (when and how), `books` (epochs from
made-up earnings), `parties` and `settlers` (what others do), `naive` (a policy that pays twice),
`world` (one run and its checks). Many worlds are run by `swarmledger bench settlement-sim`.
"""
