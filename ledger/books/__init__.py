"""Books: from sealed evidence to who is owed what, as pure functions.

Needs the standard library, `ledger.evidence` and `contracts` only; reads no clock, file, network or
database. Worker and verifier run the same functions on the same bytes. Reading order: errors,
judgement (which receipts count), state (what one epoch hands to the next), transactions and
folding (what the chain did), payouts (what to pay next), journal (double entry), epoch (all of it,
in order).
"""
