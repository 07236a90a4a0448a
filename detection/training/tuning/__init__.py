"""Settings found by trying, before a run."""
