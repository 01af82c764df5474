"""Makes more training rows by replacing words: `train_aug.tsv` beside a task's train.tsv.

    python -m utils.data_augmentation --pretrained_bert_model bert-base-uncased --glove_embs glove.42B.300d.txt \\
        --data_dir data/glue --task_name MRPC

Words of a single piece get candidates from the masked language model, the others from word vectors; stop words,
numbers and punctuation stay. docs/data_augmentation.md tells the details.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Sequence
from typing import Any

from utils.augmentation.arguments import SAMPLES, AugmentationArguments, parse_arguments

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_arguments)  # before the libraries load

import torch
from tqdm import tqdm

from dataset.chunking import chunked
from utils.augmentation.augmenter import Augmenter, Pieces, new_rows
from utils.augmentation.masked_lm import MaskedLm, candidate_words, load_masked_lm
from utils.augmentation.neighbours import WordVectors, model_vectors, read_glove
from utils.augmentation.output import GrowingFile
from utils.augmentation.rows import Row, Source, find_source
from utils.errors import Interrupted, run_as_script
from utils.heartbeat import doing
from utils.hints import next_lines
from utils.lock import locked
from utils.opening.tokenizers import BERT_TOKENS, MASKED_TOKENS, check_fits, open_tokenizer
from utils.outputs import guard
from utils.tool_steps import after_augmentation
from utils.tucker.loading import load_encoder

#: Rows whose words go through the model together and are written together.
_BLOCK = 256


def main(arguments: Sequence[str] | None = None) -> None:
    """The tool: read the rows, find candidates, write rows and their new versions."""
    args = parse_arguments(arguments)
    source = find_source(args.task_name, args.glue_dir)
    total = sum(1 for _ in source.rows())  # also finds broken rows before the work begins
    num_samples = SAMPLES[source.task] if args.N is None else args.N
    target = args.output or source.target
    guard("utils.data_augmentation", args)
    with locked(target):
        augmenter = build_augmenter(args)
        file = GrowingFile(target, _settings(args, source, num_samples))
        if done := file.counts["rows"]:
            print(f"going on behind row {done:,} of an earlier run")
        try:
            write_rows(source, augmenter, file, total, num_samples, args)
            file.finish()
        except KeyboardInterrupt:
            kept = f"{file.counts['rows']:,} of {total:,} rows are kept."
            raise Interrupted(signal.SIGINT, kept) from None
        finally:
            file.close()
    print(f"made: {target} ({file.counts['rows']:,} rows and {file.counts['new']:,} new ones)")
    if target == source.target and source.task != "mnlimm":
        print(next_lines(after_augmentation(source.task, args.glue_dir, args.pretrained_bert_model)))


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
    run_as_script(main, debug="--debug" in sys.argv, goes_on=())
