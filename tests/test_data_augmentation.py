"""Data augmentation as a tool: the files that come out, for every task, and runs that stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, BertModel

from dataset import read_glue, read_tagged
from dataset.conll import read_conll
from dataset.errors import DataError
from dataset.glue import find_glue
from dataset.tasks import get_task
from dataset.tokens import find_tagged
from tests.helpers_augmentation import FIRST, SECOND, bert, glove
from tests.tiny_bert import bert_config, tiny_word_pieces
from utils import data_augmentation
from utils.augmentation.masked_lm import load_masked_lm
from utils.augmentation.rows import find_source
from utils.errors import Interrupted, UserError

__all__ = ["bert", "glove"]
#: Rows of all tasks: their training file's header, and a row; `A` and `B` stand for its texts.
ROWS = {
    "CoLA": (None, "gj04\t1\t\tA"),
    "SST-2": ("sentence\tlabel", "A\t1"),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t70\t71\tA\tB"),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tg\tf\t2012\t1\tx\ty\tA\tB\t3.5",
    ),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "7\t1\t2\tA\tB\t0"),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tp1\tp2\tp3\tp4\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t1n\tfiction\t(\t(\t(\t(\tA\tB\tneutral\tneutral",
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel", "3\tA\tB\tnot_entailment"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "3\tA\tB\tentailment"),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "3\tA\tB\t1"),
}


def write_task(glue: Path, folder: str, texts: list[tuple[str, str]]) -> Path:
    """A training file of a task with the given texts."""
    header, row = ROWS[folder]
    rows = ["\t".join({"A": a, "B": b}.get(column, column) for column in row.split("\t")) for a, b in texts]
    path = glue / folder / "train.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([*([header] if header else []), *rows]) + "\n", encoding="utf-8")
    return path


def run(bert: Path, glue: Path, task: str, *more: object) -> None:
    fixed = f"--pretrained_bert_model {bert} --glue_dir {glue} --task_name {task}"
    data_augmentation.main([*fixed.split(), *map(str, more)])


@pytest.mark.parametrize("folder", ROWS)
def test_every_glue_task_keeps_its_format(folder: str, bert: Path, tmp_path: Path) -> None:
    """Header, then each row followed by its versions; all but the texts stays; the reader reads it."""
    source = write_task(tmp_path, folder, [(FIRST, SECOND), ("2 of 3", ""), (SECOND, FIRST)])
    run(bert, tmp_path, folder, "--N", 6, "--p", 0.8)
    lines = (tmp_path / folder / "train_aug.tsv").read_text(encoding="utf-8").splitlines()
    original = source.read_text(encoding="utf-8").splitlines()
    at = 0 if folder == "CoLA" else 1
    assert lines[:at] == original[:at]
    starts = [lines.index(row) for row in original[at:]]
    assert starts == sorted(starts) and starts[0] == at
    groups = [lines[a:b] for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]
    assert len(groups[0]) > 3 and len(groups[1]) == 1 and len(groups[2]) > 3
    texts = [k for k, column in enumerate(ROWS[folder][1].split("\t")) if column in ("A", "B")]
    for group in groups:
        rows = [row.split("\t") for row in group]
        for k in range(len(rows[0])):
            assert (len({row[k] for row in rows}) > 1) == (k in texts and len(rows) > 1)
    task = get_task(folder)
    examples = read_glue(task, tmp_path / folder, "train", file="train_aug.tsv")
    assert len(examples) == len(lines) - at and len({example.label for example in examples}) == 1
    assert not [path for path in (tmp_path / folder).iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("name", "label", "written"), [("rte", 1, "not_entailment"), ("stsb", 2.5, "2.5"), ("cola", 1, "1")]
)
def test_saved_datasets_become_rows_of_a_file(
    name: str, label: float, written: str, bert: Path, tmp_path: Path
) -> None:
    """A folder of save_to_disk: train_aug.tsv lies in it, and is read as that task's training file."""
    import datasets

    task = get_task(name)
    texts = dict(zip(task.columns, (FIRST, f"{SECOND}\tand\nmore"), strict=False))
    rows = datasets.Dataset.from_list([{**texts, "label": label, "idx": k} for k in range(2)])
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / name))
    run(bert, tmp_path, name, "--N", 3, "--p", 0.8)
    lines = (tmp_path / name / "train_aug.tsv").read_text(encoding="utf-8").splitlines()
    assert all(written in line.split("\t") for line in lines[name != "cola" :])
    examples = read_glue(task, tmp_path, "train", file="train_aug.tsv")
    assert len(examples) == len(lines) - (name != "cola") > 2 and {example.label for example in examples} == {label}
    assert examples[0].texts == tuple(text.replace("\t", " ").replace("\n", " ") for text in texts.values())


def test_conll_labels_follow_their_words(bert: Path, tmp_path: Path) -> None:
    """Columns behind the token stay, sentences stay apart, document marks go."""
    folder = tmp_path / "conll"
    folder.mkdir()
    text = "-DOCSTART- -X- -X- O\n\nGood NN B-NP B-MISC\nFilms NN I-NP I-MISC\nof NN B-NP O\n\nbad NN B-NP O\n, , O O\n"
    (folder / "train.txt").write_text(text, encoding="utf-8")
    run(bert, tmp_path, "conll", "--N", 4, "--p", 1)
    sentences = list(read_conll(folder / "train_aug.tsv"))
    assert sentences[0].tokens == ("Good", "Films", "of") and len(sentences) > 4
    for sentence in sentences:
        expected = ("B-MISC", "I-MISC", "O") if len(sentence.tokens) == 3 else ("O", "O")
        assert sentence.tags == expected
        assert sentence.tokens[-1] in ("of", ",")
    assert len({sentence.tokens for sentence in sentences}) == len(sentences)
    assert all(sentence.tokens[0][0].isupper() for sentence in sentences if len(sentence.tokens) == 3)


def test_the_same_seed_gives_the_same_file(bert: Path, glove: Path, tmp_path: Path) -> None:
    """And another seed another one; candidates from the vectors alone give another one, too."""
    write_task(tmp_path, "MRPC", [(FIRST, SECOND)] * 3)
    made: list[bytes] = []
    for more in ((), (), ("--seed", 7), ("--candidates", "embeddings")):
        output = tmp_path / f"{len(made)}.tsv"
        run(bert, tmp_path, "mrpc", "--glove_embs", glove, "--output", output, *more)
        made.append(output.read_bytes())
    assert made[0] == made[1] and len(set(made)) == 3


def test_a_stopped_run_goes_on_where_it_was(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file has the bytes of an undisturbed run; a run with other settings starts anew."""
    monkeypatch.setattr(data_augmentation, "_BLOCK", 2)
    texts = [(f"{FIRST} {SECOND}" if k % 2 else f"dull film {k}", SECOND) for k in range(7)]
    write_task(tmp_path, "RTE", texts)
    target = tmp_path / "RTE" / "train_aug.tsv"
    run(bert, tmp_path, "rte", "--N", 3)
    expected = target.read_bytes()
    target.unlink()
    original = data_augmentation._augmented

    def stop(block: Any, first: int, *rest: Any) -> Any:
        if first == 4:
            raise KeyboardInterrupt
        return original(block, first, *rest)

    for more, goes_on in (((), True), (("--seed", 1), False)):
        monkeypatch.setattr(data_augmentation, "_augmented", stop)
        with pytest.raises(Interrupted, match="4 of 7 rows are kept"):
            run(bert, tmp_path, "rte", "--N", 3)
        assert not target.exists()
        (tmp_path / "RTE" / ".train_aug.tsv.partial").open("ab").write(b"half a li")
        monkeypatch.setattr(data_augmentation, "_augmented", original)
        capsys.readouterr()
        run(bert, tmp_path, "rte", "--N", 3, *more)
        assert ("going on behind row 4" in capsys.readouterr().out) == goes_on
        assert (target.read_bytes() == expected) == goes_on
        target.unlink()
    assert [path.name for path in (tmp_path / "RTE").iterdir()] == ["train.tsv"]


def test_a_model_without_a_head_is_named_and_its_vectors_work(tmp_path: Path) -> None:
    """A sentence encoder has no masked-language-model head: one sentence says so, and what to do."""
    torch.manual_seed(0)
    BertModel(bert_config()).save_pretrained(tmp_path / "encoder")
    tiny_word_pieces().save_pretrained(tmp_path / "encoder")
    write_task(tmp_path, "SST-2", [(FIRST, "")])
    with pytest.raises(UserError, match=r"encoder has no masked-language-model head.*--candidates embeddings"):
        run(tmp_path / "encoder", tmp_path, "sst2")
    run(tmp_path / "encoder", tmp_path, "sst2", "--candidates", "embeddings")
    assert len((tmp_path / "SST-2" / "train_aug.tsv").read_text().splitlines()) > 10


def test_a_head_alone_is_enough(tmp_path: Path) -> None:
    """BertForMaskedLM, and a directory whose embedding is not tied."""
    torch.manual_seed(0)
    BertForMaskedLM(bert_config(tie_word_embeddings=False)).save_pretrained(tmp_path / "lm")
    tiny_word_pieces().save_pretrained(tmp_path / "lm")
    assert load_masked_lm(str(tmp_path / "lm"), "--m") is not None


def test_defaults_are_tinyberts() -> None:
    """Candidates, probability and samples per task."""
    arguments = data_augmentation.AugmentationArguments("bert", Path("glue"), "mrpc")
    assert (arguments.M, arguments.p) == (15, 0.4)
    known = {"cola": 30, "mrpc": 30, "mnli": 10, "qnli": 20, "qqp": 10, "rte": 20, "sst2": 20, "stsb": 30}
    assert {name: data_augmentation.SAMPLES[name] for name in known} == known


@pytest.mark.parametrize(
    ("task", "more", "words"),
    [
        ("MRCP", (), "did you mean mrpc"),
        ("squad", (), "rows of squad cannot be augmented"),
        ("RTE", (), r"--data_dir .*: neither train\.tsv of rte nor a saved dataset"),
        ("MRPC", ("--p", 1.5), "--p must be at least 0 and at most 1, found 1.5"),
        ("MRPC", ("--M", 0), "--M must be at least 1, found 0"),
        ("MRPC", ("--N", -1), "--N must be at least 0, found -1"),
        ("MRPC", ("--mask_share", 2), "--mask_share must be at least 0 and at most 1, found 2.0"),
        ("MRPC", ("--batch_size", 0), "--batch_size must be at least 1, found 0"),
        ("MRPC", ("--glove_embs", "nowhere.txt"), "--glove_embs nowhere.txt: there is no such file"),
        ("MRPC", ("--candidates", "glove"), "candidates"),
        ("MRPC", ("--task", "x"), "--task_name: unknown dataset .x."),
    ],
)
def test_bad_settings_are_one_sentence(
    task: str, more: tuple[object, ...], words: str, bert: Path, tmp_path: Path
) -> None:
    """Before anything is written."""
    write_task(tmp_path, "MRPC", [(FIRST, SECOND)])
    with pytest.raises((UserError, DataError), match=words):
        run(bert, tmp_path, task, *more)
    assert [path.name for path in (tmp_path / "MRPC").iterdir()] == ["train.tsv"]


def test_broken_rows_are_found_before_the_work_begins(bert: Path, tmp_path: Path) -> None:
    """File and line; a header without the text columns; QQP's short rows are left out, as by the reader."""
    path = write_task(tmp_path, "RTE", [(FIRST, SECOND)] * 2)
    path.write_text(path.read_text() + "4\tonly one text\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:4: 2 columns, the header has \d: is a tab missing"):
        run(bert, tmp_path, "rte")
    path.write_text("index\tsentence1\tlabel\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:1: no column 'sentence2'"):
        run(bert, tmp_path, "rte")
    path = write_task(tmp_path, "QQP", [(FIRST, SECOND)])
    path.write_text(path.read_text() + "8\t1\n", encoding="utf-8")
    run(bert, tmp_path, "qqp", "--N", 1)
    (tmp_path / "conll").mkdir()
    (tmp_path / "conll" / "train.txt").write_text("EU B-ORG\nrejects\n")
    with pytest.raises(DataError, match=r"train\.txt:2: 1 column, expected 2"):
        run(bert, tmp_path, "conll")


def test_a_tab_inside_a_text_is_refused_as_in_training(bert: Path, tmp_path: Path) -> None:
    """File, line and both numbers of columns, in every task's file, and nothing is written."""
    for folder, (header, row) in ROWS.items():
        path = write_task(tmp_path, folder, [(FIRST, SECOND), ("a\tgood film", SECOND)])
        columns = len(row.split("\t"))
        words = rf"train\.tsv:{3 if header else 2}: {columns + 1} columns, .* {columns}: is there a tab"
        with pytest.raises(DataError, match=words):
            run(bert, tmp_path, folder)
        with pytest.raises(DataError, match=words):
            read_glue(get_task(folder), tmp_path, "train")
        assert [one.name for one in path.parent.iterdir()] == ["train.tsv"]


@pytest.mark.parametrize("name", ["train.txt", "train.tsv", "train.conll"])
@pytest.mark.parametrize(
    ("task", "below", "tag"),
    [
        ("conll", "conll", "PER"),
        ("CoNLL-2003", "CoNLL-2003", "PER"),
        ("conll2003", ".", "PER"),
        ("wnut17", "WNUT-17", "person"),
    ],
)
def test_tagged_files_are_found_where_training_finds_them(
    tmp_path: Path, name: str, task: str, below: str, tag: str
) -> None:
    """One finder: the same file under every name, and the new file beside it."""
    (tmp_path / below).mkdir(exist_ok=True)
    (tmp_path / below / name).write_text(f"film B-{tag}\nis O\n")
    source, known = find_source(task, tmp_path), get_task(task)
    assert source.path == find_tagged(known, tmp_path, "train") == tmp_path / below / name
    assert source.target == tmp_path / below / "train_aug.tsv" and data_augmentation.SAMPLES[source.task]


@pytest.mark.parametrize("below", [".", "MRPC", "mrpc", "glue/MRPC", "mrpc/data"])
def test_glue_files_are_found_where_training_finds_them(tmp_path: Path, below: str) -> None:
    """The nearest, a saved dataset before a TSV file in the same folder."""
    path = write_task(tmp_path / "made", "MRPC", [(FIRST, SECOND)])
    (tmp_path / "data" / below).mkdir(parents=True)
    path.rename(tmp_path / "data" / below / "train.tsv")
    assert find_source("mrpc", tmp_path / "data").path == find_glue(get_task("mrpc"), tmp_path / "data", "train")
    (tmp_path / "data" / below / "dataset_dict.json").write_text("{}")
    assert find_glue(get_task("mrpc"), tmp_path / "data", "train") == tmp_path / "data" / below


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_new_sentences_of_tagged_words_are_read_by_training(bert: Path, tmp_path: Path, separator: str) -> None:
    """Odd blanks inside tokens and tokens that are none survive, and every version keeps its tags."""
    words = ("good", "10\u00a0000", "\u00a0", "[MASK]", "film", *(["New York"] if separator == "\t" else []))
    tags = ("O", "B-product", "O", "O", "B-group", "B-location")[: len(words)]
    rows = "".join(f"{word}{separator}{tag}\n" for word, tag in zip(words, tags, strict=True))
    (tmp_path / "train.txt").write_text(f"{rows}\nfilm{separator}O\n")
    run(bert, tmp_path, "wnut17", "--N", 4, "--p", 1)
    found = read_tagged(get_task("wnut17"), tmp_path, "train", "train_aug.tsv")
    versions = [row for row in found if len(row.words) == len(words)]
    assert len(versions) > 1 and versions[0].words == words
    for row in versions:
        assert tuple(columns[1] for columns in row.rows) == tags
        assert (row.words[1:4], row.words[5:]) == (words[1:4], words[5:])


def test_usage_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is called, not as its file is."""
    with pytest.raises(SystemExit):
        data_augmentation.main(["--help"])
    assert "usage: python -m utils.data_augmentation [-h]" in capsys.readouterr().out
