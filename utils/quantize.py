"""Round the weights of a saved model to int8, after all other edits.

    python -m utils.quantize --model DIR --output_dir OUT                       # int8 weights
    python -m utils.quantize --model DIR --output_dir OUT --activations int8    # and activations, at run time

OUT loads with `AutoModel…` as any model of this toolkit; `python -m utils.cost --model OUT` measures it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from utils.arguments.of_quantize import parse

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse)  # before the libraries load


from model import QuantizationConfig, apply_edit
from utils.cost import load_any
from utils.errors import UserError, run_as_script
from utils.hints import next_lines
from utils.loading import copy_task_file
from utils.lock import locked
from utils.opening.tokenizers import carry_tokenizer
from utils.outputs import guard
from utils.tool_steps import after_model
from utils.writing import atomic_directory


def main(arguments: Sequence[str] | None = None) -> None:
    """Load, round, save.

    Raises:
        UserError, ModelError: the model cannot be loaded or rounded, or the output is there already.
    """
    given = parse(arguments)
    guard("utils.quantize", given)
    with locked(given.output_dir):
        if given.output_dir.exists():
            raise UserError(f"--output_dir {given.output_dir} exists already: name a new directory.")
        model, source = load_any(given.model)
        apply_edit(model, QuantizationConfig(given.activations))
        with atomic_directory(given.output_dir) as folder:
            model.save_pretrained(folder)
            carry_tokenizer(source, folder, model)
            copy_task_file(source, folder)
    print(f"made: {given.output_dir}\n{next_lines(after_model(given.output_dir))}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
