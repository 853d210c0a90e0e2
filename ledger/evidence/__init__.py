"""Evidence: the signed records, the log's proofs and their checks.

Pure; needs the standard library and PyNaCl only. It is what a seeder's, a viewer's and an
auditor's machine install. Nothing here reads a clock, a file or a network. The byte layouts stand
in FORMATS.md. Reading order: encoding, keys, units, then terms, binding, entitlement, receipt,
heartbeat, bundle, promise, clock, leaf; merkle, sumtree, tile, note, checkpoint, tlog_proof.
"""
