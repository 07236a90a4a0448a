"""Readers of formats without ids of their own; they share how images are found and how records are built (collect.py)."""
