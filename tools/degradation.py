"""`python tools/degradation.py --help`; the same as `resdet degradation`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("degradation"))
