"""Amaranth components; imports nothing of gen, sim or boards."""
