"""The name that the original release has for `python -m utils.pregenerate_training_data`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from utils.errors import run_as_script
    from utils.pregenerate.arguments import parse_arguments
    from utils.startup import begin

    begin(parse_arguments)  # before the libraries load
    from utils.pregenerate_training_data import main

    run_as_script(main, debug="--debug" in sys.argv, goes_on=())
