"""Audit: the audit file of an epoch and the verifier that recomputes it without trusting anybody.

Pure, except `command`, which reads the files it is told to; needs the standard library and PyNaCl
only. Reading order: address, xdr, stellar_operations, stellar_xdr, trust, file, counts, then
verify and its steps, command.
"""
