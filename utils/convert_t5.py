"""Convert a T5 between ModelCenter (the original release's library) and Hugging Face.

python -m utils.convert_t5 MODELCENTER_DIR HF_DIR
python -m utils.convert_t5 HF_DIR MODELCENTER_DIR --to modelcenter
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.arguments.of_convert_t5 import parse

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse)  # before the libraries load


import torch

from model.compression import edits_of
from model.modelcenter import config_to_modelcenter, to_modelcenter
from utils.errors import UserError, run_as_script
from utils.loading import load_t5
from utils.lock import locked
from utils.opening.places import model_directory
from utils.outputs import guard
from utils.writing import atomic_directory, patient_stream, write_json

_TOKENIZER_FILES = (
    *("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    "added_tokens.json",
)


def to_hugging_face(source: Path, target: Path) -> None:
    """Write the T5 of a ModelCenter directory (config.json, pytorch_model.pt) as a Hugging Face directory."""
    source = Path(model_directory(source))
    model = load_t5(str(source), None, tokenizer=False).model
    with atomic_directory(target) as partial:
        model.save_pretrained(partial)
        _copy_tokenizer(source, partial)


def to_model_center(source: Path, target: Path) -> None:
    """Write a dense Hugging Face T5 as a ModelCenter directory, in half precision as the original's."""
    source = Path(model_directory(source))
    model = load_t5(str(source), None, tokenizer=False).model
    if edits := edits_of(model):
        raise UserError(f"{source} carries {' + '.join(e.kind for e in edits)}: only a dense T5 can be converted.")
    state = to_modelcenter(model.state_dict(), tied=bool(model.config.scale_decoder_outputs), prefix="")
    with atomic_directory(target) as partial:
        with patient_stream(partial / "pytorch_model.pt") as stream:
            torch.save({name: tensor.half() for name, tensor in state.items()}, stream)
        write_json(partial / "config.json", config_to_modelcenter(model.config))
        _copy_tokenizer(source, partial)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in _TOKENIZER_FILES:
        if (source / name).is_file() and not (target / name).exists():
            shutil.copyfile(source / name, target / name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert one way or the other.

    Raises:
        UserError, ModelError: the source is no model, or the target is there already.
    """
    given = parse(arguments)
    guard("utils.convert_t5", given)
    with locked(given.target):
        if given.target.exists():
            raise UserError(f"{given.target} exists already: name a new directory.")
        (to_hugging_face if given.to == "hf" else to_model_center)(given.source, given.target)
    print(f"made: {given.target}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
