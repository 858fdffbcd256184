"""Boards: platforms, clocks and tops."""
