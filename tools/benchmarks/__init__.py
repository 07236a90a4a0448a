"""What tools/benchmark.py times, one module a kind."""
