"""Modules of tools/benchmark.py and tools/suite.py."""
