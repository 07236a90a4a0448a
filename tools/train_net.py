"""`python tools/train_net.py --help`; the same as `resdet train`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("train"))
