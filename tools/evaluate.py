"""`python tools/evaluate.py --help`; the same as `resdet evaluate`."""

import sys

from detection.cli import evaluate, run

if __name__ == "__main__":
    sys.exit(run(evaluate))
