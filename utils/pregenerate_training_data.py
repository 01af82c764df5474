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
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from utils.arguments import flag, parse
from utils.engine.files import write_json
from utils.errors import Interrupted, UserError, run_as_script
from utils.heartbeat import doing
from utils.hints import next_lines
from utils.outputs import guard
from utils.pregenerate.corpus import Corpus, TextRules, find_text_files, index_corpus
from utils.pregenerate.generate import Generator, epoch_files, workers, write_epoch
from utils.pregenerate.instances import InstanceSettings
from utils.pregenerate.tokens import Pieces, load_pieces
from utils.tool_steps import after_pregeneration

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
_IGNORED = {
    "reduce-memory": "the corpus is never held in memory, with or without this flag",
    "multi-read": "--num_workers is the number of processes",
    "data-url": "data lie in folders of this machine",
    "train-url": "data lie in folders of this machine",
    "init-method": "data lie in folders of this machine",
    "remote-path": "data lie in folders of this machine",
}
_PROG = "python -m utils.pregenerate_training_data"
_EPOCH_FILE = re.compile(r"epoch_\d+(_metrics)?\.json$")
_INDEX = ".index.partial"
_SIGINT = 2


@dataclass
class PregenerateArguments:
    """Command line of the tool."""

    _argument_group_name = "pre-generation"

    train_corpus: Path = flag(
        MISSING,
        "Text file, or directory of them: plain text (one sentence or paragraph per line, blank lines between "
        "documents), or what wikiextractor writes, with or without --json.",
    )
    bert_model: str = flag(MISSING, "Directory or hub id of a BERT; only its tokenizer is used.")
    output_dir: Path = flag(MISSING, "Directory for epoch_N.json and epoch_N_metrics.json.")
    do_lower_case: bool = flag(False, "Make all text lower case; left out: as the tokenizer was saved.")
    epochs_to_generate: int = flag(3, "Epochs, each with other masks, lengths and pairs. Complete ones are kept.")
    max_seq_len: int = flag(128, "Most tokens of an instance, special ones included.")
    short_seq_prob: float = flag(0.1, "Share of instances that aim at a random shorter length.")
    masked_lm_prob: float = flag(0.15, "Share of tokens to mask; 0 masks none.")
    max_predictions_per_seq: int = flag(20, "Most masked tokens of an instance.")
    do_whole_word_mask: bool = flag(False, "Mask all pieces of a word or none.")
    one_seq: bool = flag(False, "One segment per instance, no next-sentence pairs.")
    line_filter: Literal["drop", "keep", "off"] = flag(
        "drop",
        "Lines that are no English prose: drop them; keep them as they are and only clean the others (the original); "
        "off: neither filter nor clean.",
    )
    split_sentences: bool = flag(False, "Cut lines into sentences, where they are paragraphs (as wikiextractor's are).")
    num_workers: int = flag(0, "Processes; 0: one per core. The files are the same for any number.")
    seed: int = flag(42, "Seed of everything random.")
    overwrite: bool = flag(False, "Delete the epochs that --output_dir holds and start anew.")
    debug: bool = flag(False, "Show the traceback of an error.")


def main(arguments: Sequence[str] | None = None) -> None:
    """The tool: index the corpus, then write every epoch that is not there yet."""
    args: PregenerateArguments
    (args,) = parse([PregenerateArguments], str(__doc__).split("\n")[0], arguments, _IGNORED, prog=_PROG)
    _check(args)
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
    with _index_directory(args.output_dir) as index, _interruptible(args.output_dir):
        with _bar("reading the corpus", sum(path.stat().st_size for path in files)) as advance:
            corpus = index_corpus(files, index, rules, advance)
        _report_corpus(corpus, args)
        _claim(args, corpus, pieces)
        _write_missing(args, Generator(corpus, pieces, settings, args.seed))
    if commands := after_pregeneration(args.output_dir, args.bert_model, args.max_seq_len):
        print(next_lines(commands))


def _check(args: PregenerateArguments) -> None:
    shortest = 4 if args.one_seq else 5
    for problem, sentence in (
        (args.epochs_to_generate < 1, f"--epochs_to_generate {args.epochs_to_generate}: expected 1 or more."),
        (args.max_seq_len < shortest, f"--max_seq_len {args.max_seq_len}: expected {shortest} or more."),
        (not 0 <= args.short_seq_prob <= 1, f"--short_seq_prob {args.short_seq_prob}: expected 0 to 1."),
        (not 0 <= args.masked_lm_prob <= 1, f"--masked_lm_prob {args.masked_lm_prob}: expected 0 to 1."),
        (
            args.max_predictions_per_seq < 1,
            f"--max_predictions_per_seq {args.max_predictions_per_seq}: expected 1 or more "
            "(--masked_lm_prob 0 masks nothing).",
        ),
        (
            args.do_whole_word_mask and args.masked_lm_prob == 0,
            "--do_whole_word_mask has no effect with --masked_lm_prob 0: leave one of them out.",
        ),
        (args.num_workers < 0, f"--num_workers {args.num_workers}: expected 0 or more."),
    ):
        if problem:
            raise UserError(sentence)


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
        raise UserError(f"--output_dir {directory} holds epochs of unknown origin; {hint}") from None
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
        raise Interrupted(
            _SIGINT, f"complete epochs stay in {output_dir}; the same command makes the others."
        ) from None


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
    run_as_script(main, debug="--debug" in sys.argv)
