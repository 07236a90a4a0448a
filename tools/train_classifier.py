"""`python tools/train_classifier.py --help`; the same as `resdet train-classifier`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("train-classifier"))
