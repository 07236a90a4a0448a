"""Work on whole datasets: convert, merge, subset."""
