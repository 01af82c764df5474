"""Makes BERT training data of a text corpus: epoch files of masked instances, as `general_distill.py` reads them.

    python -m utils.pregenerate_training_data --train_corpus wiki/ --bert_model bert-base-uncased --output_dir data/pre

docs/pregenerated_data.md tells the formats, and how to get from a Wikipedia dump to here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.pregenerate.arguments import PregenerateArguments, parse_arguments

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_arguments)  # before the libraries load

from tqdm import tqdm

from utils.errors import Interrupted, UserError, run_as_script
from utils.heartbeat import doing
from utils.hints import next_lines
from utils.lock import locked
from utils.outputs import guard
from utils.pregenerate.corpus import Corpus, TextRules, find_text_files, index_corpus
from utils.pregenerate.generate import Generator, epoch_files, workers, write_epoch
from utils.pregenerate.instances import InstanceSettings
from utils.pregenerate.tokens import Pieces, load_pieces
from utils.tool_steps import after_pregeneration
from utils.writing import write_json

#: Beside the epochs: the settings that they were made with.
SETTINGS_FILE = "pregenerated.json"
#: Flags that decide what is in an epoch, beside the text and the tokenizer.
_DECISIVE = (
    "max_seq_len",
    "short_seq_prob",
    "masked_lm_prob",
    "max_predictions_per_seq",
    "do_whole_word_mask",
    "one_seq",
    "line_filter",
    "split_sentences",
    "seed",
)
_EPOCH_FILE = re.compile(r"epoch_\d+(_metrics)?\.json$")
_INDEX = ".index.partial"
_SIGINT = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """The tool: index the corpus, then write every epoch that is not there yet."""
    args = parse_arguments(arguments)
    guard("utils.pregenerate_training_data", args)
    settings = InstanceSettings(
        max_seq_len=args.max_seq_len,
        short_seq_prob=args.short_seq_prob,
        masked_lm_prob=args.masked_lm_prob,
        max_predictions_per_seq=args.max_predictions_per_seq,
        whole_word=args.do_whole_word_mask,
        one_seq=args.one_seq,
    )
    pieces = load_pieces(args.bert_model, args.do_lower_case, args.max_seq_len)
    files = find_text_files(args.train_corpus)
    rules = TextRules(args.line_filter, args.split_sentences)
    with locked(args.output_dir), _index_directory(args.output_dir) as index, _interruptible(args.output_dir):
        with _bar("reading the corpus", sum(path.stat().st_size for path in files)) as advance:
            corpus = index_corpus(files, index, rules, advance)
        _report_corpus(corpus, args)
        _claim(args, corpus, pieces)
        _write_missing(args, Generator(corpus, pieces, settings, args.seed))
    if commands := after_pregeneration(args.output_dir, args.bert_model, args.max_seq_len):
        print(next_lines(commands))


def _report_corpus(corpus: Corpus, args: PregenerateArguments) -> None:
    size = corpus.size
    dropped = f", {size.dropped_lines:,} more are no prose and left out" if size.dropped_lines else ""
    print(
        f"corpus: {size.num_bytes / 1e6:,.1f} MB in {len(corpus.files)} file(s), {size.documents:,} documents, "
        f"{size.lines:,} lines{dropped}"
    )
    if size.documents < 2 and not args.one_seq:
        raise UserError(
            f"--train_corpus {args.train_corpus}: there is one document only, pairs need a second one; put blank "
            "lines between documents, or take --one_seq."
        )


def _claim(args: PregenerateArguments, corpus: Corpus, pieces: Pieces) -> None:
    """See that epochs which are there belong to this run, and note what it is made with."""
    own = {
        "train_corpus": corpus.size.digest,
        "bert_model": hashlib.blake2b(f"{pieces.definition}{pieces.special}".encode(), digest_size=16).hexdigest(),
        **{name: getattr(args, name) for name in _DECISIVE},
    }
    path = args.output_dir / SETTINGS_FILE
    there = [path for path in args.output_dir.glob("epoch_*.json") if _EPOCH_FILE.match(path.name)]
    if there and not path.is_file():
        raise UserError(f"--output_dir {args.output_dir} holds epochs of unknown origin: take another one.")
    if args.overwrite:
        for file in there:
            file.unlink()
    elif there:
        _check_same(path, own, args.output_dir)
    write_json(path, own)


def _check_same(path: Path, own: dict[str, Any], directory: Path) -> None:
    hint = "take another --output_dir, or --overwrite."
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"--output_dir {directory}: {path.name} is damaged; {hint}") from None
    differing = [name for name in own if before.get(name) != own[name]]
    if differing:
        raise UserError(f"--output_dir {directory} holds epochs made with another {', '.join(differing)}; {hint}")


def _write_missing(args: PregenerateArguments, generator: Generator) -> None:
    wanted = range(args.epochs_to_generate)
    missing = [epoch for epoch in wanted if not all(path.is_file() for path in epoch_files(args.output_dir, epoch))]
    for epoch in wanted:
        if epoch not in missing:
            print(f"reused: {epoch_files(args.output_dir, epoch)[0]}")
    if not missing:
        return
    with workers(generator, args.num_workers or len(os.sched_getaffinity(0))) as parts_of:
        for epoch in missing:
            with _bar(f"epoch {epoch + 1}/{len(wanted)}", generator.corpus.size.num_bytes) as advance:
                count = write_epoch(args.output_dir, epoch, parts_of(epoch), args.max_seq_len, advance)
            print(f"made: {epoch_files(args.output_dir, epoch)[0]} ({count:,} instances)")


@contextmanager
def _index_directory(output_dir: Path) -> Iterator[Path]:
    """A place on disk for the index, while the tool runs."""
    index = output_dir / _INDEX
    try:
        shutil.rmtree(index, ignore_errors=True)  # of a run that was killed
        index.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--output_dir {output_dir}: cannot be written ({error.strerror}).") from error
    try:
        yield index
    finally:
        shutil.rmtree(index, ignore_errors=True)


@contextmanager
def _interruptible(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(_SIGINT, f"complete epochs stay in {output_dir}.") from None


@contextmanager
def _bar(text: str, num_bytes: int) -> Iterator[Callable[[int], object]]:
    """A progress bar in bytes of text on a terminal, a line now and then otherwise."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        bar.update(count)

    with (
        tqdm(total=num_bytes, desc=text, unit="B", unit_scale=True, disable=None, leave=False) as bar,
        doing(text, lambda: f"{done / 1e6:,.1f} of {num_bytes / 1e6:,.1f} MB"),
    ):
        yield advance


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=())
