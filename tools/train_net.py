"""`python tools/train_net.py --help`; the same as `resdet train`."""

import sys

from detection.cli import run, train

if __name__ == "__main__":
    sys.exit(run(train))
