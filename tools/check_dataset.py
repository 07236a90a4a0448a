"""`python tools/check_dataset.py --help`; the same as `resdet check-dataset`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("check-dataset"))
