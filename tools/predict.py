"""`python tools/predict.py --help`; the same as `resdet predict`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("predict"))
