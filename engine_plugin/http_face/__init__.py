"""The HTTP face: what players written for an Ace Stream engine ask, answered by this engine."""
