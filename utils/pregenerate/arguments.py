"""The flags of `python -m utils.pregenerate_training_data`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from utils.arguments import MODEL, PLACE, flag, out_of_range, parse
from utils.arguments.values import LARGEST
from utils.errors import UserError

DESCRIPTION = "Makes BERT training data of a text corpus: epoch files of masked instances, as general_distill.py reads."
_IGNORED = {
    "reduce_memory": "the corpus is never held in memory, with or without this flag",
    "multi_read": "--num_workers is the number of processes",
    "data_url": "data lie in folders of this machine",
    "train_url": "data lie in folders of this machine",
    "init_method": "data lie in folders of this machine",
    "remote_path": "data lie in folders of this machine",
}
_PROG = "python -m utils.pregenerate_training_data"


@dataclass
class PregenerateArguments:
    """Command line of the tool."""

    _argument_group_name = "pre-generation"

    train_corpus: Path = flag(
        MISSING,
        "Text file, or directory of them: plain text (one sentence or paragraph per line, blank lines between "
        "documents), or what wikiextractor writes, with or without --json.",
        reads=PLACE,
    )
    bert_model: str = flag(
        MISSING,
        "Directory or hub id of a BERT; only its tokenizer is used.",
        aliases=("model", "model_name_or_path"),
        reads=MODEL,
    )
    output_dir: Path = flag(MISSING, "Directory for epoch_N.json and epoch_N_metrics.json.")
    do_lower_case: bool = flag(False, "Make all text lower case; left out: as the tokenizer was saved.")
    epochs_to_generate: int = flag(
        3, "Epochs, each with other masks, lengths and pairs. Complete ones are kept.", least=1
    )
    max_seq_len: int = flag(128, "Most tokens of an instance, special ones included.", name="max_seq_length")
    short_seq_prob: float = flag(0.1, "Share of instances that aim at a random shorter length.", least=0, most=1)
    masked_lm_prob: float = flag(0.15, "Share of tokens to mask; 0 masks none.", least=0, most=1)
    max_predictions_per_seq: int = flag(20, "Most masked tokens of an instance.")
    do_whole_word_mask: bool = flag(False, "Mask all pieces of a word or none.")
    one_seq: bool = flag(False, "One segment per instance, no next-sentence pairs.")
    line_filter: Literal["drop", "keep", "off"] = flag(
        "drop",
        "Lines that are no English prose: drop them; keep them as they are and only clean the others (the original); "
        "off: neither filter nor clean.",
    )
    split_sentences: bool = flag(False, "Cut lines into sentences, where they are paragraphs (as wikiextractor's are).")
    num_workers: int = flag(0, "Processes; 0: one per core. The files are the same for any number.", least=0)
    seed: int = flag(42, "Seed of everything random.", least=0, most=LARGEST)
    overwrite: bool = flag(False, "Delete the epochs that --output_dir holds and start anew.")
    debug: bool = flag(False, "Show the traceback of an error.")


def parse_arguments(arguments: Sequence[str] | None = None) -> PregenerateArguments:
    """Parse and check.

    Raises:
        UserError: a flag is unknown, or a value cannot be.
    """
    args: PregenerateArguments
    (args,) = parse([PregenerateArguments], DESCRIPTION, arguments, _IGNORED, prog=_PROG)
    if problems := out_of_range([args]):
        raise UserError(f"{'; '.join(problems)}.")
    _check(args)
    return args


def _check(args: PregenerateArguments) -> None:
    shortest = 4 if args.one_seq else 5
    for problem, sentence in (
        (args.max_seq_len < shortest, f"--max_seq_length {args.max_seq_len}: expected {shortest} or more."),
        (
            args.max_predictions_per_seq < 1,
            f"--max_predictions_per_seq {args.max_predictions_per_seq}: expected 1 or more "
            "(--masked_lm_prob 0 masks nothing).",
        ),
        (
            args.do_whole_word_mask and args.masked_lm_prob == 0,
            "--do_whole_word_mask has no effect with --masked_lm_prob 0: leave one of them out.",
        ),
    ):
        if problem:
            raise UserError(sentence)
