"""Live streams: cut, indexed, shared segment by segment, and given to a player as HLS."""
