"""`python tools/classify.py --help`; the same as `resdet classify`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("classify"))
