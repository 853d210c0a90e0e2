"""Benchmarks: what the product costs, measured on its own processes from outside.

Every bench is a module with one function that returns plain figures, each with its unit in its
key, and one command under `swarmledger bench`. Nothing here imports the part that it measures:
that part runs as processes, as it does in service.
"""
