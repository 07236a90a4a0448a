"""`python tools/convert_weights.py --help`; the same as `resdet convert-weights`."""

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run("convert-weights"))
