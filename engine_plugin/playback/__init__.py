"""Reading content in playing order while it is being fetched."""
