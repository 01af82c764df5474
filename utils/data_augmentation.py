"""Makes more training rows by replacing words: `train_aug.tsv` beside a task's train.tsv.

    python -m utils.data_augmentation --pretrained_bert_model bert-base-uncased --glove_embs glove.42B.300d.txt \\
        --glue_dir data/glue --task_name MRPC

Words of a single piece get candidates from the masked language model, the others from word vectors; stop words,
numbers and punctuation stay. docs/data_augmentation.md tells the details.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from tqdm import tqdm

from dataset.chunking import chunked
from utils.arguments import flag, parse
from utils.augmentation.augmenter import Augmenter, Pieces, new_rows
from utils.augmentation.masked_lm import MaskedLm, candidate_words, load_masked_lm
from utils.augmentation.neighbours import WordVectors, model_vectors, read_glove
from utils.augmentation.output import GrowingFile
from utils.augmentation.rows import Row, Source, find_source
from utils.errors import Interrupted, UserError, run_as_script
from utils.heartbeat import doing
from utils.hints import next_lines
from utils.opening.tokenizers import BERT_TOKENS, MASKED_TOKENS, check_fits, open_tokenizer
from utils.outputs import guard
from utils.tool_steps import after_augmentation
from utils.tucker.loading import load_encoder

#: New rows per row; those of TinyBERT, and for the tasks it leaves out those of tasks of the same size.
SAMPLES: Mapping[str, int] = MappingProxyType(
    {
        **{"cola": 30, "mnli": 10, "mnlimm": 10, "mrpc": 30, "qnli": 20, "qqp": 10, "rte": 20, "sst2": 20},
        **{"stsb": 30, "wnli": 30, "conll": 10, "wnut17": 30},
    }
)
#: Accepted because the other tools have it.
_IGNORED = {"do-lower-case": "the tokenizer's own settings decide"}
_PROG = "python -m utils.data_augmentation"
#: Rows whose words go through the model together and are written together.
_BLOCK = 256


@dataclass
class AugmentationArguments:
    """Command line of the tool."""

    _argument_group_name = "augmentation"

    pretrained_bert_model: str = flag(MISSING, "Directory or hub id of a BERT with its masked-language-model head.")
    glue_dir: Path = flag(
        MISSING, "Directory of the tasks (a folder per task: GLUE's TSV files or a saved datasets folder), or of one."
    )
    task_name: str = flag(MISSING, "A GLUE task (CoLA, MRPC, …), conll or wnut17.")
    glove_embs: Path | None = flag(
        None, "GloVe text file for words of several pieces; left out: the model's own word embeddings."
    )
    M: int = flag(15, "Most candidates per word.")
    p: float = flag(0.4, "Probability that a word with candidates is replaced.")
    N: int | None = flag(
        None, "New rows per row; default: " + ", ".join(f"{name} {count}" for name, count in SAMPLES.items()) + "."
    )
    candidates: Literal["mlm", "embeddings"] = flag(
        "mlm", "embeddings: nearest word vectors for all words; needs no masked-language-model head."
    )
    seed: int = flag(42, "Seed of the draws.")
    batch_size: int = flag(64, "Sentences that go through the model together.")
    mask_share: float = flag(
        0.15, "Largest share of a sentence that is masked at once, as in BERT's pre-training; 0: one word at a time."
    )
    output: Path | None = flag(None, "The file to write; default: train_aug.tsv in the task's folder.")
    debug: bool = flag(False, "Show the traceback of an error.")


def main(arguments: Sequence[str] | None = None) -> None:
    """The tool: read the rows, find candidates, write rows and their new versions."""
    args: AugmentationArguments
    (args,) = parse([AugmentationArguments], str(__doc__).split("\n")[0], arguments, _IGNORED, prog=_PROG)
    _check(args)
    source = find_source(args.task_name, args.glue_dir)
    total = sum(1 for _ in source.rows())  # also finds broken rows before the work begins
    num_samples = SAMPLES[source.task] if args.N is None else args.N
    target = args.output or source.target
    guard("utils.data_augmentation", args)
    augmenter = build_augmenter(args)
    file = GrowingFile(target, _settings(args, source, num_samples))
    if done := file.counts["rows"]:
        print(f"going on behind row {done:,} of an earlier run")
    try:
        write_rows(source, augmenter, file, total, num_samples, args)
        file.finish()
    except KeyboardInterrupt:
        done = file.counts["rows"]
        raise Interrupted(signal.SIGINT, f"{done:,} of {total:,} rows are kept; the same command goes on.") from None
    finally:
        file.close()
    print(f"made: {target} ({file.counts['rows']:,} rows and {file.counts['new']:,} new ones)")
    if target == source.target and source.task != "mnlimm":
        print(next_lines(after_augmentation(source.task, args.glue_dir, args.pretrained_bert_model)))


def _check(args: AugmentationArguments) -> None:
    for problem, sentence in (
        (args.M < 1, f"--M {args.M}: expected 1 or more."),
        (args.N is not None and args.N < 0, f"--N {args.N}: expected 0 or more."),
        (not 0 <= args.p <= 1, f"--p {args.p}: expected 0 to 1."),
        (not 0 <= args.mask_share <= 1, f"--mask_share {args.mask_share}: expected 0 to 1."),
        (args.batch_size < 1, f"--batch_size {args.batch_size}: expected 1 or more."),
        (
            args.glove_embs is not None and not args.glove_embs.is_file(),
            f"--glove_embs {args.glove_embs}: there is no such file.",
        ),
    ):
        if problem:
            raise UserError(sentence)


def _settings(args: AugmentationArguments, source: Source, num_samples: int) -> dict[str, Any]:
    """What decides the rows; a run with the same goes on where it was stopped."""
    status = source.file.stat()
    glove = args.glove_embs
    return {
        "source": [str(source.path.resolve()), status.st_size, status.st_mtime_ns],
        "model": args.pretrained_bert_model,
        "glove": None if glove is None else [str(glove.resolve()), glove.stat().st_size],
        "settings": [args.M, args.p, num_samples, args.candidates, args.seed, args.batch_size, args.mask_share],
    }


def build_augmenter(args: AugmentationArguments) -> Augmenter:
    """The model and the word vectors that the arguments name.

    Raises:
        UserError, DataError: one of them is missing or broken.
    """
    needs = MASKED_TOKENS if args.candidates == "mlm" else BERT_TOKENS
    tokenizer = open_tokenizer(args.pretrained_bert_model, needs=needs)
    pieces = Pieces(tokenizer)
    model: Any = None
    masked_lm = None
    if args.candidates == "mlm":
        model = load_masked_lm(args.pretrained_bert_model, "--pretrained_bert_model")
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        masked_lm = MaskedLm(model, tokenizer, args.M, args.batch_size, args.mask_share)
    elif args.glove_embs is None:
        model = load_encoder(args.pretrained_bert_model)
    if model is not None:
        check_fits(tokenizer, model, args.pretrained_bert_model)
    masked_lm = (
        MaskedLm(model, tokenizer, args.M, args.batch_size, args.mask_share) if args.candidates == "mlm" else None
    )
    vectors = _own_vectors(model, tokenizer, pieces) if args.glove_embs is None else read_glove(args.glove_embs)
    return Augmenter(pieces, tokenizer.unk_token_id, vectors, masked_lm, args.M)


def _own_vectors(model: Any, tokenizer: Any, pieces: Pieces) -> WordVectors:
    table = model.get_input_embeddings().weight.detach().float().cpu()
    unknown = tokenizer.unk_token_id
    return model_vectors(list(candidate_words(tokenizer, len(table))), table, lambda word: pieces([word])[0], unknown)


def write_rows(
    source: Source, augmenter: Augmenter, file: GrowingFile, total: int, num_samples: int, args: AugmentationArguments
) -> None:
    """Append every row that `file` does not hold yet, each followed by its new versions."""
    done = file.counts["rows"]
    if not file.num_bytes and source.header:
        file.append(source.header + "\n")
    first = 0
    with (
        tqdm(total=total, initial=done, desc="rows", unit="row", disable=None, leave=False) as bar,
        doing("making rows", lambda: f"{first:,} of {total:,} rows"),
    ):
        for block in chunked(source.rows(), _BLOCK):
            if first >= done:
                text, made = _augmented(block, first, augmenter, num_samples, args)
                file.append(text, rows=len(block), new=made)
                bar.update(len(block))
            first += len(block)


def _augmented(
    block: Sequence[Row], first: int, augmenter: Augmenter, num_samples: int, args: AugmentationArguments
) -> tuple[str, int]:
    """The text of a block of rows, and how many new rows are in it. `first` is the number of the block's first row."""
    found = iter(augmenter.candidates([sentence for row in block for sentence in row.sentences]))
    parts, made = [], 0
    for number, row in enumerate(block, start=first):
        options = [next(found) for _ in row.sentences]
        # A generator per row: what is drawn does not depend on the rows before.
        rng = random.Random(f"{args.seed}:{number}")
        new = new_rows(row.sentences, options, num_samples, args.p, rng)
        parts += [row.written([sentence.words for sentence in row.sentences]), *(row.written(words) for words in new)]
        made += len(new)
    return "".join(parts), made


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
