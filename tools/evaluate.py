"""`python tools/evaluate.py --help`; the same as `resdet evaluate`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("evaluate"))
