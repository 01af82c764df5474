"""The name that the original release has for `python -m utils.data_augmentation`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from utils.data_augmentation import main
    from utils.errors import run_as_script

    run_as_script(main, debug="--debug" in sys.argv)
