"""`python -m hiwm`, for torchrun."""

import sys

from hiwm.cli import main

if __name__ == "__main__":
    sys.exit(main())
