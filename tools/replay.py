"""`python tools/replay.py --help`; the same as `resdet replay`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("replay"))
