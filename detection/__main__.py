"""``python -m detection COMMAND …``: the same as ``resdet``."""

import sys

from detection.cli import main

if __name__ == "__main__":
    sys.exit(main())
