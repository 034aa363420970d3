"""`python -m hiwm`, for torchrun."""

import os
import sys

from hiwm.cli import main

if __name__ == "__main__":
    status = main()
    if "WORLD_SIZE" in os.environ:
        from hiwm.training.distributed import end_process

        end_process(status)
    sys.exit(status)
