"""The name that the original release has for evaluation and prediction, which `task_distill.py` does.

    python run_glue.py --model_name_or_path RUN --task_name SST-2 --do_eval --do_predict --data_dir data/glue \\
        --max_seq_length 128 --output_dir output/SST-2

With --do_train it fine-tunes the model first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def as_task_distill(given: Sequence[str]) -> list[str]:
    """The flags of `task_distill.py` that do the same."""
    names = {word.split("=")[0].replace("-", "_") for word in given}
    if "__do_train" in names:
        return ["--mode", "finetune", *given]
    return list(given) if names & {"__do_eval", "__do_predict", "__help", "_h"} else ["--mode", "evaluate", *given]


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, predict, fine-tune."""
    import task_distill

    task_distill.main(as_task_distill(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    from utils.errors import run_as_script
    from utils.going_on import RESUME
    from utils.startup import begin
    from utils.tucker.task_arguments import parse_task_arguments

    begin(lambda: parse_task_arguments(as_task_distill(sys.argv[1:])))  # before the libraries load
    run_as_script(main, debug="--debug" in sys.argv, goes_on=RESUME)
