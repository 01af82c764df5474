"""The embedded default: grammar, corpus, tokenizer, backbone and their cache."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

from utils.embedded import build as build_module
from utils.embedded import grammar
from utils.embedded.__main__ import main
from utils.embedded.backbone import build_backbone
from utils.embedded.build import build, default_paths
from utils.embedded.corpus import clean_docstring, cut, docstrings, library_files, write_corpus
from utils.embedded.sizes import BACKBONE_SIZES
from utils.embedded.tasks import TASK_FILES, write_glue, write_squad
from utils.embedded.tokenizer import WHOLE_WORDS, train_tokenizer
from utils.errors import UserError


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


# The tasks with fewer rows, so that the tests take no time.
TASKS = {
    name: replace(task, splits=tuple((split, 600 if split == "train" else 60) for split, _ in task.splits))
    for name, task in TASK_FILES.items()
}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "glue"
    for task in TASKS.values():
        write_glue(task, folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "corpus"
    write_corpus(folder, seed=1, library_bytes=200_000, grammar_bytes=200_000)
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> PreTrainedTokenizerFast:
    return train_tokenizer([corpus / "train.txt"], vocab_size=2000)


# ---- tasks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_task_files_depend_on_the_seed_alone(name: str, glue: Path, tmp_path: Path) -> None:
    """The same seed writes the same bytes, another seed other rows."""
    task = TASKS[name]
    write_glue(task, tmp_path / "same", seed=1)
    write_glue(task, tmp_path / "other", seed=2)
    again = _files(tmp_path / "same" / task.folder)
    assert again == _files(glue / task.folder)
    assert all(again[file] != content for file, content in _files(tmp_path / "other" / task.folder).items())


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_known_and_balanced(name: str, glue: Path) -> None:
    """Every class of a task is as frequent as the next, and there is no other."""
    task = TASKS[name]
    column = task.header.split("\t")
    label_column = "Quality" if name == "mrpc" else column[-1]
    for split, size in task.splits:
        if not split.startswith("test"):
            counts = Counter(row[label_column] for row in _rows(glue / task.folder / f"{split}.tsv"))
            assert set(counts) == set(task.labels) and sum(counts.values()) == size
            assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", TASKS)
def test_headers_are_glues_and_every_row_has_all_columns(name: str, glue: Path) -> None:
    """Train and dev carry the labelled header, test the one without label."""
    task = TASKS[name]
    for split, size in task.splits:
        lines = (glue / task.folder / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        assert lines[0] == (task.test_header if split.startswith("test") else task.header)
        assert len(lines) == size + 1
        assert {line.count("\t") for line in lines} == {lines[0].count("\t")}


@pytest.mark.parametrize("name", TASKS)
def test_held_out_rows_are_not_trained_on(name: str, glue: Path) -> None:
    """No text of dev or test is in train, and none is in two held-out splits."""
    task = TASKS[name]
    texts = [key for key in task.test_header.split("\t") if "entence" in key and "parse" not in key]
    texts = texts or [key for key in task.test_header.split("\t") if "question" in key or "String" in key]
    if name == "qnli":
        texts = ["question", "sentence"]
    splits = {
        split: [tuple(row[key] for key in texts) for row in _rows(glue / task.folder / f"{split}.tsv")]
        for split, _ in task.splits
    }
    held_out = [row for split, rows in splits.items() if split != "train" for row in rows]
    assert len(set(held_out)) == len(held_out)
    assert not set(held_out) & set(splits["train"])


def test_bag_of_words_does_not_decide_the_sentiment() -> None:
    """The same words in another order have the other label."""
    rng = random.Random(0)
    labels: dict[tuple[str, ...], set[int]] = {}
    for number in range(30_000):
        label = number % 2
        labels.setdefault(tuple(sorted(grammar.sentiment(rng, label).split())), set()).add(label)
    assert sum(len(found) == 2 for found in labels.values()) > 100


def test_a_negation_or_a_main_clause_turns_the_label() -> None:
    """In a negated sentence, and in one with two clauses that disagree, both labels meet the same adjective."""
    rng = random.Random(0)
    rows = [(grammar.sentiment(rng, number % 2), number % 2) for number in range(20_000)]
    assert {label for text, label in rows if re.fullmatch(r"the \w+ was (not )?dull \.", text)} == {0, 1}
    assert {label for text, label in rows if "dull" in text and "although" in text} == {0, 1}


def test_answers_stand_where_they_are_said_to(tmp_path: Path) -> None:
    """context[answer_start:] begins with the answer, as whole words, and the answer is there only once."""
    write_squad(tmp_path / "squad", seed=1)
    contexts = {}
    for split in ("train", "dev"):
        data = json.loads((tmp_path / "squad" / f"{split}-v1.1.json").read_text(encoding="utf-8"))
        assert data["version"] == "1.1"
        paragraphs = [paragraph for article in data["data"] for paragraph in article["paragraphs"]]
        contexts[split] = {paragraph["context"] for paragraph in paragraphs}
        for paragraph in paragraphs:
            for question in paragraph["qas"]:
                answer = question["answers"][0]
                start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
                padded = f" {paragraph['context']} "
                assert padded[start : end + 2] == f" {answer['text']} "
    assert not contexts["train"] & contexts["dev"]


@pytest.mark.parametrize("slot", grammar.QUESTION_SLOTS)
def test_a_question_does_not_give_its_answer_away(slot: str) -> None:
    """The answer is not among the question's words."""
    rng = random.Random(0)
    for _ in range(200):
        question, answer = grammar.ask(rng, grammar.draw_fact(rng), slot)
        assert f" {answer} " not in f" {question} "


# ---- corpus ----------------------------------------------------------------------------------------------


def test_corpus_depends_on_the_seed_alone(corpus: Path, tmp_path: Path) -> None:
    """A second run writes the same bytes."""
    write_corpus(tmp_path / "again", seed=1, library_bytes=200_000, grammar_bytes=200_000)
    assert _files(tmp_path / "again") == _files(corpus)


def test_corpus_lines_are_spans_of_about_128_words(corpus: Path) -> None:
    """No line is longer, nearly all are full, and validation text is not trained on."""
    train = (corpus / "train.txt").read_text(encoding="utf-8").splitlines()
    valid = (corpus / "valid.txt").read_text(encoding="utf-8").splitlines()
    lengths = Counter(len(line.split()) for line in [*train, *valid])
    assert max(lengths) == 128 and lengths[128] >= len(train) + len(valid) - 2
    assert valid and not set(train) & set(valid)


def test_library_is_read_in_order_without_its_tests(tmp_path: Path) -> None:
    """Tests, third-party packages and parts that some distributions leave out give no text."""
    for name in (
        "b.py",
        "a/c.py",
        "test/x.py",
        "a/tests/x.py",
        "site-packages/x.py",
        "idlelib/x.py",
        "sitecustomize.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('"""Text."""\n', encoding="utf-8")
    assert [file.relative_to(tmp_path).as_posix() for file in library_files(tmp_path)] == ["a/c.py", "b.py"]


def test_library_files_are_never_run(tmp_path: Path) -> None:
    """A module that would fail on import gives its docstrings all the same."""
    (tmp_path / "bad.py").write_text(
        '"""This text of the module is worth reading ."""\nraise SystemExit\n', encoding="utf-8"
    )
    write_corpus(tmp_path / "corpus", seed=1, library_bytes=1000, grammar_bytes=5000, root=tmp_path)
    written = b"".join(_files(tmp_path / "corpus").values()).decode()
    assert "This text of the module is worth reading" in written


def test_cleaning_keeps_prose_and_drops_code() -> None:
    """Doctests, indented listings and lines of symbols go; markup goes, its text stays."""
    text = (
        "Return the `size` of a :class:`File` in bytes.\n\n    indented = code()\n\n"
        ">>> size()\n3\n\n=====  ====\n\nEvery other paragraph stays as it is, on one line\nand without breaks."
    )
    assert clean_docstring(text) == (
        "Return the size of a File in bytes . Every other paragraph stays as it is , on one line and without breaks ."
    )


def test_docstrings_of_all_levels_are_found() -> None:
    """Modules, classes, functions and methods."""
    source = '"""One."""\nclass A:\n    """Two."""\n    def f(self):\n        """Three."""\n'
    source += 'async def g():\n    """Four."""\n'
    assert set(docstrings(source)) == {"One.", "Two.", "Three.", "Four."}


def test_cut_loses_no_word() -> None:
    """Short texts are joined, long ones split, the rest is kept."""
    texts = ["a b c", "d e f g h i j", "k l"]
    assert list(cut(texts, 5)) == ["a b c d e", "f g h i j", "k l"]


# ---- tokenizer -------------------------------------------------------------------------------------------


def test_tokenizer_has_t5s_layout(tokenizer: PreTrainedTokenizerFast) -> None:
    """pad 0, eos 1, unk 2, and the sentinels last, counted downwards."""
    assert len(tokenizer) == 2000
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{number}>" for number in range(100)])
    assert sentinels == list(range(1999, 1899, -1))


def test_tokenizer_appends_eos_and_keeps_sentinels_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    """A prompt ends with EOS, its answer slot is one id, and it decodes to its text."""
    ids = tokenizer("the plot was dull .\nAnswer: <extra_id_0>").input_ids
    assert ids[-1] == 1 and ids.count(1) == 1 and ids[-2] == tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert tokenizer.decode(ids[:-2]) == "the plot was dull . Answer:"


def test_answers_of_the_prompts_are_single_pieces(tokenizer: PreTrainedTokenizerFast) -> None:
    """Each verbalizer word is one id, and no two are the same."""
    pieces = [tokenizer(word, add_special_tokens=False).input_ids for word in WHOLE_WORDS]
    assert all(len(piece) == 1 for piece in pieces)
    assert len({piece[0] for piece in pieces}) == len(WHOLE_WORDS)


def test_ascii_text_has_no_unknown_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Every printable ASCII character can be written."""
    text = " ".join(chr(code) for code in range(33, 127))
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_tokenizer_training_is_repeatable(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The same text gives the same pieces and scores."""
    again = train_tokenizer([corpus / "train.txt"], vocab_size=2000)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_extra_text_reaches_the_tokenizer(corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A word that only the extra file has becomes a piece."""
    extra = tmp_path / "extra.txt"
    extra.write_text("zanzibarian voyages\n" * 2000, encoding="utf-8")
    richer = train_tokenizer([corpus / "train.txt"], vocab_size=2000, extra_files=[extra])
    assert len(tokenizer.tokenize("zanzibarian")) > 1
    assert len(richer.tokenize("zanzibarian")) == 1


# ---- backbone and cache ----------------------------------------------------------------------------------


def test_backbone_is_seeded_and_leaves_the_generator_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    """The same seed gives the same weights; the caller's random state is untouched."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build_backbone(BACKBONE_SIZES["tiny"], tokenizer, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    weights = [model.encoder.block[3].layer[1].DenseReluDense.wi.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    bias = first.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert bias[1, 1] > bias[17, 1] and bias[1, 2] < bias[17, 2]  # head 1 looks left, head 2 right
    assert first.config.decoder_start_token_id == 0 and first.config.dropout_rate == 0.0


def test_matching_heads_start_by_looking_at_the_same_word(tokenizer: PreTrainedTokenizerFast) -> None:
    """In a sentence with one word twice, the matching head's largest logit is the other occurrence."""
    size = BACKBONE_SIZES["tiny"]
    model = build_backbone(size, tokenizer, 1)
    words = torch.tensor([5, 9, 7, 11, 5, 8])  # token 5 at positions 0 and 4
    attention = model.encoder.block[0].layer[0].SelfAttention
    states = model.encoder.block[0].layer[0].layer_norm(model.shared(words))
    rows = slice(3 * size.d_kv, 4 * size.d_kv)
    logits = attention.q(states)[:, rows] @ attention.k(states)[:, rows].T
    logits = logits + attention.compute_bias(6, 6)[0, 3]
    assert logits[0].argmax() == 4 and logits[4].argmax() == 0
    assert logits[0, 4] > logits[0, [0, 1, 2, 3, 5]].max() + 2


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus that takes no time."""
    monkeypatch.setattr(build_module, "TASK_FILES", TASKS)
    monkeypatch.setattr(build_module, "_LIBRARY_BYTES", 300_000)
    monkeypatch.setattr(build_module, "_GRAMMAR_BYTES", 100_000)


def test_everything_is_made_once(small: None, tmp_path: Path) -> None:
    """A second run says "reused" and touches nothing; another seed makes everything again."""
    paths = default_paths("tiny", tmp_path / "data", tmp_path / "checkpoints")
    said: list[str] = []
    build("tiny", paths, say=said.append)
    assert not any("reused" in line for line in said)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    said.clear()
    build("tiny", paths, say=said.append)
    assert len(said) == 2 and all("reused" in line for line in said)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    build("tiny", paths, seed=2, say=said.append)
    assert (paths.data / "corpus" / "train.txt").stat().st_mtime_ns > before[paths.data / "corpus" / "train.txt"]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = AutoTokenizer.from_pretrained(paths.backbone)
        model = AutoModelForSeq2SeqLM.from_pretrained(paths.backbone)
    assert loaded.is_fast and loaded("dull").input_ids[-1] == loaded.eos_token_id == 1
    assert model.config.vocab_size == len(loaded)


def test_an_interrupted_run_leaves_nothing_half_made(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that fails leaves no folder under its name, and the next run makes it."""
    paths = default_paths("tiny", tmp_path / "data", tmp_path / "checkpoints")

    def broken(*_: object) -> tuple[int, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "write_corpus", broken)
        with pytest.raises(UserError, match=r"Could not write .*data: No space left on device\.$"):
            build("tiny", paths, say=lambda line: None)
    assert not paths.data.exists()
    build("tiny", paths, say=lambda line: None)
    assert (paths.data / "corpus" / "train.txt").is_file()


def test_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    """A data folder of the user's is refused and stays."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest\.json"):
        build("tiny", default_paths("tiny", tmp_path / "data", tmp_path), say=lambda line: None)
    assert (tmp_path / "data" / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_missing_extra_text_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the flag's name."""
    with pytest.raises(SystemExit) as stopped:
        main(["--extra-text", "/nowhere/text.txt"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip() == "error: --extra_text /nowhere/text.txt: no such file"
