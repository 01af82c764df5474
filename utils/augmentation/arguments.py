"""The flags of `python -m utils.data_augmentation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from utils.arguments import MODEL, PLACE, flag, out_of_range, parse
from utils.arguments.values import LARGEST, task_among
from utils.errors import UserError

#: New rows per row; those of TinyBERT, and for the tasks that it leaves out those of tasks of the same size.
SAMPLES: Mapping[str, int] = MappingProxyType(
    {
        **{"cola": 30, "mnli": 10, "mnlimm": 10, "mrpc": 30, "qnli": 20, "qqp": 10, "rte": 20, "sst2": 20},
        **{"stsb": 30, "wnli": 30, "conll": 10, "wnut17": 30},
    }
)
#: Accepted because the other tools have it.
_IGNORED = {"do-lower-case": "the tokenizer's own settings decide"}
DESCRIPTION = "Makes more training rows by replacing words: `train_aug.tsv` beside a task's train.tsv."
_PROG = "python -m utils.data_augmentation"


@dataclass
class AugmentationArguments:
    """Command line of the tool."""

    _argument_group_name = "augmentation"

    pretrained_bert_model: str = flag(
        MISSING,
        "Directory or hub id of a BERT with its masked-language-model head.",
        aliases=("bert_model", "model", "model_name_or_path"),
        reads=MODEL,
    )
    glue_dir: Path = flag(
        MISSING,
        "Directory of the tasks (a folder per task: GLUE's TSV files or a saved datasets folder), or of one.",
        name="data_dir",
        reads=PLACE,
    )
    task_name: str = flag(MISSING, "A GLUE task (CoLA, MRPC, …), conll or wnut17.", convert=task_among(()))
    glove_embs: Path | None = flag(
        None, "GloVe text file for words of several pieces; left out: the model's own word embeddings.", reads=PLACE
    )
    M: int = flag(15, "Most candidates per word.", least=1)
    p: float = flag(0.4, "Probability that a word with candidates is replaced.", least=0, most=1)
    N: int | None = flag(
        None,
        "New rows per row; default: " + ", ".join(f"{name} {count}" for name, count in SAMPLES.items()) + ".",
        least=0,
    )
    candidates: Literal["mlm", "embeddings"] = flag(
        "mlm", "embeddings: nearest word vectors for all words; needs no masked-language-model head."
    )
    seed: int = flag(42, "Seed of the draws.", least=0, most=LARGEST)
    batch_size: int = flag(64, "Sentences that go through the model together.", least=1)
    mask_share: float = flag(
        0.15,
        "Largest share of a sentence that is masked at once, as in BERT's pre-training; 0: one word at a time.",
        least=0,
        most=1,
    )
    output: Path | None = flag(None, "The file to write; default: train_aug.tsv in the task's folder.")
    debug: bool = flag(False, "Show the traceback of an error.")


def parse_arguments(arguments: Sequence[str] | None = None) -> AugmentationArguments:
    """Parse and check.

    Raises:
        UserError: a flag is unknown, or a value cannot be.
    """
    args: AugmentationArguments
    (args,) = parse([AugmentationArguments], DESCRIPTION, arguments, _IGNORED, prog=_PROG)
    if problems := out_of_range([args]):
        raise UserError(f"{'; '.join(problems)}.")
    _check(args)
    return args


def _check(args: AugmentationArguments) -> None:
    if args.glove_embs is not None and not args.glove_embs.is_file():
        raise UserError(f"--glove_embs {args.glove_embs}: there is no such file.")
