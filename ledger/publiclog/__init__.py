"""Reading a public log from outside: mirror it, verify it, watch it, complain about it.

For auditors, parties and strangers: nothing here trusts the operator, needs a database or imports
more than the verifier does. The operator's half, which writes the log, is `ledger.sealing`.
"""
