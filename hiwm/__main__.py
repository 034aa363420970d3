"""`python -m hiwm`, for torchrun."""

import os
import sys

from hiwm.cli import main
from hiwm.signals import end_with_parent

if __name__ == "__main__":
    if "WORLD_SIZE" in os.environ:
        end_with_parent()  # before the long imports: a torchrun that is killed leaves no process behind
    status = main()
    if "WORLD_SIZE" in os.environ:
        from hiwm.training.distributed import end_process

        end_process(status)
    sys.exit(status)
