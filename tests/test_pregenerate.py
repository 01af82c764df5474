"""Making BERT's training data: what the instances are, and what is refused."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_pregenerate import Run, bert, run, text
from tests.helpers_wordpiece import NumberedText, write_tokenizer
from utils.errors import UserError
from utils.pregenerate import generate
from utils.pregenerate.corpus import TextRules, index_corpus
from utils.pregenerate.generate import Generator, write_epoch
from utils.pregenerate.instances import InstanceSettings
from utils.pregenerate.tokens import load_pieces
from utils.pregenerate_training_data import main

__all__ = ["bert", "run", "text"]
PROSE = "This is a line of quite ordinary English prose, which is long enough to be kept"


def rows_of(directory: Path, epoch: int = 0) -> list[dict[str, Any]]:
    """The instances of an epoch."""
    return [json.loads(line) for line in (directory / f"epoch_{epoch}.json").read_text().splitlines()]


def restored(row: dict[str, Any]) -> list[str]:
    """The tokens before anything was masked."""
    tokens = list(row["tokens"])
    for position, label in zip(row["masked_lm_positions"], row["masked_lm_labels"], strict=True):
        tokens[position] = label
    return tokens


def words_of(tokens: list[str]) -> list[int]:
    """The numbers of the words that begin in `tokens`."""
    return [int(token[1:]) for token in tokens if token.startswith("x")]


def segments_of(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Both segments as they were, without special tokens."""
    tokens = restored(row)
    sides: tuple[list[str], list[str]] = ([], [])
    for token, segment in zip(tokens, row["segment_ids"], strict=True):
        if token not in ("[CLS]", "[SEP]"):
            sides[segment].append(token)
    return sides


# the instances


@pytest.mark.parametrize("flags", [(), ("--do_whole_word_mask",), ("--one_seq",)], ids=["pairs", "whole", "one_seq"])
def test_files_do_not_depend_on_the_number_of_workers(run: Run, flags: tuple[str, ...]) -> None:
    """One process and three write the same bytes."""
    alone, together = run("1", *flags), run("3", *flags, "--num_workers", 3)
    names = sorted(path.name for path in alone.iterdir())
    assert names == [
        "epoch_0.json",
        "epoch_0_metrics.json",
        "epoch_1.json",
        "epoch_1_metrics.json",
        "pregenerated.json",
    ]
    for name in names:
        assert (alone / name).read_bytes() == (together / name).read_bytes(), name
    assert ("--one_seq" in flags) == (not any(1 in row["segment_ids"] for row in rows_of(together)))


def test_seed_and_epoch_decide_what_is_made(run: Run) -> None:
    """The same again for the same seed; another epoch and another seed are other data."""
    first, again, other = run("a"), run("b"), run("c", "--seed", 7)
    assert rows_of(first) == rows_of(again)
    assert rows_of(first) != rows_of(other)
    assert rows_of(first, 0) != rows_of(first, 1)


def test_lines_have_the_originals_form(run: Run) -> None:
    """Five keys in their order; positions ascend; the metrics count the lines."""
    directory = run("out")
    rows = rows_of(directory)
    for row in rows:
        assert list(row) == ["tokens", "segment_ids", "is_random_next", "masked_lm_positions", "masked_lm_labels"]
        assert row["tokens"][0] == "[CLS]" and row["tokens"][-1] == "[SEP]"
        assert len(row["segment_ids"]) == len(row["tokens"]) <= 24
        assert row["masked_lm_positions"] == sorted(set(row["masked_lm_positions"]))
    metrics = json.loads((directory / "epoch_0_metrics.json").read_text())
    assert metrics == {"num_training_examples": len(rows), "max_seq_len": 24}


def test_single_segments_are_the_whole_text_in_order(run: Run, text: NumberedText) -> None:
    """No token is lost or comes twice, and none crosses the end of a document."""
    rows = rows_of(run("out", "--one_seq"))
    assert [n for row in rows for n in words_of(restored(row))] == list(range(text.num_words))
    for row in rows:
        numbers = words_of(restored(row))
        assert not row["is_random_next"] and row["tokens"].count("[SEP]") == 1
        assert len({text.document_of(n) for n in numbers}) <= 1


def test_second_segments_follow_or_are_of_another_document(run: Run, text: NumberedText) -> None:
    """Both are runs of text; a true next one comes after the first in the same document, in about half of the rows."""
    rows = [row for epoch in range(2) for row in rows_of(run("out"), epoch)]
    for row in rows:
        first, second = map(words_of, segments_of(row))
        for side in (first, second):
            assert all(b == a + 1 for a, b in pairwise(side))
        if not first or not second:  # a single piece of a word was left
            continue
        documents = text.document_of(first[0]), text.document_of(second[0])
        assert row["is_random_next"] == (documents[0] != documents[1])
        assert row["is_random_next"] or first[-1] < second[0]
    assert 0.4 < sum(row["is_random_next"] for row in rows) / len(rows) < 0.85


def test_random_documents_are_drawn_by_their_length(tmp_path: Path, bert: Path) -> None:
    """Every line of the other documents is equally likely: a document of 90 lines comes nine times as often as one
    of 10, and never the present one."""
    counted = NumberedText([[3] * 10, [3] * 90, [3] * 20])
    index = tmp_path / "index"
    index.mkdir()
    corpus = index_corpus([counted.write(tmp_path / "c.txt")], index, TextRules("off"))
    rng = random.Random(0)
    drawn = [corpus.random_line(rng, but_not=2) for _ in range(4000)]
    assert {document for document, _ in drawn} == {0, 1}
    assert 0.88 < sum(document for document, _ in drawn) / 4000 < 0.92
    assert {line for document, line in drawn if document == 0} == set(range(10))
    assert next(iter(corpus.segments(1, 89))).startswith(f"x{counted.documents[1][89][0]}a")


def test_whole_word_masking_masks_whole_words(run: Run) -> None:
    """A word's two pieces are both masked or neither; without the flag some are separated."""

    def separated(directory: Path) -> int:
        count = 0
        for row in rows_of(directory):
            tokens, masked = restored(row), set(row["masked_lm_positions"])
            words = [at for at in range(len(tokens) - 1) if tokens[at][0] == "x" and tokens[at + 1] == "##a"]
            count += sum((at in masked) != (at + 1 in masked) for at in words)
        return count

    assert separated(run("whole", "--do_whole_word_mask")) == 0
    assert separated(run("pieces")) > 0


def test_masks_are_as_many_as_asked_for(run: Run) -> None:
    """15 % of all tokens by default, at most the given number; 0 hides nothing; most become the mask token."""
    rows = rows_of(run("out"))
    for row in rows:
        assert len(row["masked_lm_positions"]) == max(1, round(0.15 * len(row["tokens"])))
    labels = sum(len(row["masked_lm_labels"]) for row in rows)
    assert 0.7 < sum(row["tokens"].count("[MASK]") for row in rows) / labels < 0.9
    few = rows_of(run("few", "--masked_lm_prob", 0.5, "--max_predictions_per_seq", 2))
    assert max(len(row["masked_lm_positions"]) for row in few) == 2
    assert not any(row["masked_lm_positions"] for row in rows_of(run("none", "--masked_lm_prob", 0)))


def test_short_sequences_come_as_often_as_asked_for(run: Run, text: NumberedText) -> None:
    """With probability 0 only the end of a document is short, with probability 1 most are."""

    def short(directory: Path) -> float:
        lengths = [len(row["tokens"]) for row in rows_of(directory)]
        return sum(length < 24 for length in lengths) / len(lengths)

    ends = len(text.documents) / len(rows_of(run("full", "--one_seq", "--short_seq_prob", 0)))
    assert short(run("full", "--one_seq", "--short_seq_prob", 0)) <= ends
    assert short(run("short", "--one_seq", "--short_seq_prob", 1)) > 0.9


def test_memory_does_not_grow_with_the_corpus(
    tmp_path: Path, text: NumberedText, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight times the text needs at most a tenth more at the peak."""
    monkeypatch.setattr(generate, "_PART_BYTES", 4096)
    pieces = load_pieces(str(bert), False, 24)
    once = text.write(tmp_path / "once").read_text()

    def peak(times: int) -> int:
        path = tmp_path / f"{times}.txt"
        path.write_text("\n".join([once] * times))
        tracemalloc.start()
        index = tmp_path / f"index-{times}"
        index.mkdir()
        corpus = index_corpus([path], index, TextRules("off"))
        generator = Generator(corpus, pieces, InstanceSettings(24), 0)
        parts = (generator.part(0, *place) for place in corpus.parts(generate._PART_BYTES))
        write_epoch(tmp_path, times, parts, 24, lambda count: None)
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    peak(1)  # whatever is made once
    assert peak(16) < 1.1 * peak(2)


def test_other_settings_are_refused_and_more_epochs_are_added(run: Run) -> None:
    """Epochs of another setting are not mixed in silence; `--overwrite` replaces them."""
    directory = run("out", "--epochs_to_generate", 1)
    first = (directory / "epoch_0.json").read_bytes()
    with pytest.raises(UserError, match=r"another max_seq_len, seed; take another --output_dir, or --overwrite"):
        run("out", "--max-seq-len", 20, "--seed", 1)
    run("out", "--epochs_to_generate", 3, "--num_workers", 2)
    assert (directory / "epoch_0.json").read_bytes() == first and rows_of(directory, 2)
    run("out", "--epochs_to_generate", 1, "--max_seq_len", 20, "--overwrite")
    assert not (directory / "epoch_2.json").exists()
    assert max(len(row["tokens"]) for row in rows_of(directory)) == 20


def test_epochs_of_unknown_origin_are_not_touched(run: Run, tmp_path: Path) -> None:
    """Such as the original's own."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "epoch_0.json").write_text("{}\n")
    for more in ((), ("--overwrite",)):
        with pytest.raises(UserError, match="holds epochs of unknown origin: take another one"):
            run("out", *more)
    assert (tmp_path / "out" / "epoch_0.json").read_text() == "{}\n"


# bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--epochs_to_generate 0", "--epochs_to_generate must be at least 1, found 0"),
        ("--max_seq_len 4", "--max_seq_length 4: expected 5"),
        ("--short_seq_prob 1.5", "--short_seq_prob must be at least 0 and at most 1, found 1.5"),
        ("--masked_lm_prob nan", "--masked_lm_prob: expected a finite number, found .nan."),
        ("--max_predictions_per_seq 0", "--max_predictions_per_seq 0"),
        ("--do_whole_word_mask --masked_lm_prob 0", "no effect with --masked_lm_prob 0"),
        ("--num_workers -1", "--num_workers must be at least 0, found -1"),
        ("--max_seq 128", "did you mean --max_seq_length"),
        ("--line_filter maybe", "--line_filter"),
    ],
)
def test_flags_that_make_no_sense_are_refused(run: Run, flags: str, message: str) -> None:
    """Before anything is written."""
    with pytest.raises(UserError, match=message):
        run("out", *flags.split())


def test_a_model_without_a_wordpiece_vocabulary_is_refused(run: Run, tmp_path: Path) -> None:
    """No vocabulary at all, and a T5's."""
    from tests.helpers_tokenizer import tiny_tokenizer

    (tmp_path / "empty").mkdir()
    tiny_tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match=r"has no tokenizer files"):
        run("out", "--bert_model", tmp_path / "empty")
    with pytest.raises(UserError, match="expected a BERT with a WordPiece vocabulary"):
        run("out", "--bert_model", tmp_path / "t5")


def test_pairs_need_two_documents(run: Run, text: NumberedText, tmp_path: Path) -> None:
    """One document has no random next segment; single segments do without."""
    NumberedText([[5, 5]]).write(tmp_path / "one.txt")
    with pytest.raises(UserError, match="one document only"):
        run("out", "--train_corpus", tmp_path / "one.txt")
    assert len(rows_of(run("out", "--train_corpus", tmp_path / "one.txt", "--one_seq"))) == 1


def test_text_is_made_lower_case_where_the_model_wants_it(tmp_path: Path) -> None:
    """By the flag; else as saved; else, with a bare vocabulary, if that has no capital letter."""

    def pieces(name: str, lower: bool) -> list[str]:
        return load_pieces(str(tmp_path / name), lower, 24)(["Word word"])[0]

    write_tokenizer(tmp_path / "cased", ["word", "Word"])
    write_tokenizer(tmp_path / "uncased", ["word"])
    assert pieces("cased", False) == ["Word", "word"]
    assert pieces("cased", True) == pieces("uncased", False) == ["word", "word"]
    saved = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (tmp_path / "cased" / "tokenizer_config.json").write_text(json.dumps(saved))
    assert pieces("cased", False) == ["word", "word"]
    with pytest.raises(UserError, match="--max_seq_length 513: this model reads at most 512"):
        load_pieces(str(tmp_path / "cased"), False, 513)


def test_special_tokens_and_cuts_of_a_saved_tokenizer_change_nothing(tmp_path: Path) -> None:
    """A saved tokenizer may cut at a length, pad, and add special tokens: text is cut into pieces all the same."""
    from transformers import BertTokenizer

    saved = BertTokenizer.from_pretrained(write_tokenizer(tmp_path / "bert", ["word"]))
    saved.backend_tokenizer.enable_truncation(2)
    saved.backend_tokenizer.enable_padding(length=9)
    saved.save_pretrained(tmp_path / "saved")
    assert load_pieces(str(tmp_path / "saved"), False, 24)(["word " * 5, "word"]) == [["word"] * 5, ["word"]]


def test_control_tokens_in_the_corpus_are_text(bert: Path) -> None:
    """Marks that end or hide something are the generator's alone."""
    (pieces,) = load_pieces(str(bert), False, 32)(["a [SEP] b [MASK] c [CLS][PAD]"])
    assert not {"[SEP]", "[MASK]", "[CLS]", "[PAD]"} & set(pieces)


def test_usage_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is called, not as its file is."""
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "usage: python -m utils.pregenerate_training_data [-h]" in capsys.readouterr().out
