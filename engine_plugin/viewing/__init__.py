"""Viewing time at the player's side: what was played, when, as signed heartbeats.

Players report to `routes` in CMCD version 2's words (`cmcd`); a `playback_clock` per playback turns
reports into media time that is never above wall clock; the `desk` signs it into hash-chained
heartbeats, which `heartbeat_rows` keeps in the spool until they are bundled. `read_pace` estimates
the playback of players that report nothing. Not here: who watched, prices.
"""
