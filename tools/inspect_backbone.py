"""`python tools/inspect_backbone.py --help`; the same as `resdet inspect`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("inspect"))
