"""Content that another BitTorrent client completed: found in its own records, served in place.

The client's files are only read: nothing is moved, renamed, written or downloaded again.
"""
