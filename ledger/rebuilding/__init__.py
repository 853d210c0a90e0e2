"""Rebuilding a broadcaster's books without its operator: from log, parties' evidence and chain.

Reading order: `errors`, `evidence` (what the parties and the public still have), `replay` (epoch by
epoch, compared with the log). Nothing here needs the operator's database, keys or good will.
"""
