"""Sealing: drives a broadcaster's epochs from open to settled, and writes what the public reads."""
