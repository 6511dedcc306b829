"""`python -m surefoot_lab`, the same as `surefoot`."""

import sys

from surefoot_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
