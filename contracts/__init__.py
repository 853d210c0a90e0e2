"""The rules that the DAO votes on: their language, their registry, and the contract interface.

What it is: pure functions on integers, standard library only. What it does not do: no clock, no
input or output, no chance. Specification: RULES.md. Reading order: interface, settlement, output,
registry, language.
"""
