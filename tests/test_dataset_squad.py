"""Reading SQuAD and its decoder layout."""

import json

import datasets
import pytest

from dataset import DataError, SquadExample, encode_squad, read_squad, sentinel_id
from tests.helpers_tokenizer import tiny_tokenizer


def content(answers=("in 1843", "1843")) -> dict:
    """One article with one question."""
    question = {
        "id": "q1",
        "question": "When is it?",
        "answers": [{"text": text, "answer_start": 0} for text in answers],
    }
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "in 1843", "qas": [question]}]}]}


@pytest.mark.parametrize(
    ("below", "name", "split"),
    [
        (".", "train-v1.1.json", "train"),
        ("SQuAD", "dev-v1.1.json", "valid"),
        ("squad", "dev.json", "valid"),
        ("squad", "train.json", "train"),
    ],
)
def test_json_is_found_in_every_documented_place(tmp_path, below, name, split):
    """Both namings, in the folder itself or below; every gold answer is kept."""
    (tmp_path / below).mkdir(exist_ok=True)
    (tmp_path / below / name).write_text(json.dumps(content()))
    expected = [SquadExample("q1", "When is it?", "in 1843", ("in 1843", "1843"))]
    assert read_squad(tmp_path, split) == expected
    assert read_squad(tmp_path / below / name, split) == expected


def test_saved_dataset_is_read(tmp_path):
    """The hub's form, saved to disk."""
    rows = {"id": ["q1"], "question": ["Q?"], "context": ["c"], "answers": [{"text": ["c"], "answer_start": [0]}]}
    datasets.DatasetDict({"validation": datasets.Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "squad"))
    assert read_squad(tmp_path, "valid") == [SquadExample("q1", "Q?", "c", ("c",))]
    with pytest.raises(DataError, match="no split 'train'"):
        read_squad(tmp_path, "train")


def write_saved(folder, **columns) -> None:
    """A saved development set."""
    rows = {"id": ["q1", "q2"], "question": ["Q?", "R?"], "context": ["c", "d"], **columns}
    datasets.DatasetDict({"validation": datasets.Dataset.from_dict(rows)}).save_to_disk(str(folder))


@pytest.mark.parametrize(
    "answers",
    [
        [[{"text": "c", "answer_start": 0}], [{"text": "d", "answer_start": 0}, {"text": "e", "answer_start": 3}]],
        [[{"text": "c"}], [{"text": "d"}, {"text": "e"}]],
        [{"text": ["c"], "answer_start": [0]}, {"text": ["d", "e"], "answer_start": [0, 3]}],
        [["c"], ["d", "e"]],
    ],
)
def test_every_form_of_saved_answers_is_read(tmp_path, answers):
    """Lists in a dict, as on the hub, dicts in a list, as in SQuAD's files, and texts alone."""
    write_saved(tmp_path, answers=answers)
    assert [example.answers for example in read_squad(tmp_path, "valid")] == [("c",), ("d", "e")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answers": ["c", "d"]}, r"row 0: the answers are 'c', expected \{'text': \[...\]\} or"),
        ({"answers": [{"text": "c"}, {"text": "d"}]}, "row 0: the answers are"),
        ({"answers": [[{"text": "c"}], None]}, "row 1: the answers are None"),
        ({"answers": [[{"text": "c"}], []]}, "question q2 has no answer"),
        ({"answers": [["c"], ["d"]], "question": ["Q?", None]}, "row 1: no 'question' of type str"),
        ({"answers": [["c"], ["d"]], "id": ["q1", "q1"]}, "the question id 'q1' occurs 2 times, and each question"),
    ],
)
def test_saved_rows_of_another_form_are_refused(tmp_path, columns, message):
    """With the row, what stands there and what is expected."""
    write_saved(tmp_path, **columns)
    with pytest.raises(DataError, match=message):
        read_squad(tmp_path, "valid")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_question_id_that_comes_twice_is_refused(tmp_path, split):
    """Its questions would count as one."""
    twice = content()
    twice["data"] = twice["data"] * 12
    (tmp_path / ("train.json" if split == "train" else "dev.json")).write_text(json.dumps(twice))
    with pytest.raises(DataError, match=r"\.json: the question id 'q1' occurs 12 times, and each question needs"):
        read_squad(tmp_path, split)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [\n{]}', r"train\.json:2: not valid JSON"),
        ("[]", "expected a JSON object with the key 'data'"),
        ('{"data": [{"paragraphs": [{"context": "c"}]}]}', r"data\[0\]\.paragraphs\[0\]: no 'qas' of type list"),
        ('{"data": []}', "holds no questions"),
        (json.dumps(content(answers=())), r"qas\[0\]: question q1 has no answer; SQuAD v1\.1"),
    ],
)
def test_broken_files_are_reported_with_their_place(tmp_path, text, message):
    """The message leads to the line or the entry."""
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_squad(tmp_path, "train")


def test_other_encodings_are_named(tmp_path):
    """With the way to convert the file."""
    (tmp_path / "train.json").write_bytes(json.dumps(content()).encode("utf-16"))
    with pytest.raises(DataError, match="this file is UTF-16, and UTF-8 is expected"):
        read_squad(tmp_path, "train")
    (tmp_path / "train.json").write_bytes(json.dumps(content(("café",)), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match=r"this file is not UTF-8 .* iconv"):
        read_squad(tmp_path, "train")


def test_missing_files_and_the_test_split_are_reported(tmp_path):
    """What was looked for, and that the test set is not public."""
    with pytest.raises(DataError, match=r"neither train-v1\.1\.json or train\.json nor a saved dataset"):
        read_squad(tmp_path, "train")
    with pytest.raises(DataError, match="no public test set"):
        read_squad(tmp_path, "test")


def test_answer_is_cut_to_the_target_length():
    """Decoder input and labels have at most the target length, and the end sentinel survives."""
    tokenizer = tiny_tokenizer()
    example = SquadExample("q1", "When?", "context", ("a" * 50,))
    (feature,) = encode_squad([example], tokenizer, 64, target_length=8)
    assert feature.decoder_input_ids is not None and feature.labels is not None
    assert len(feature.decoder_input_ids) == len(feature.labels) == 8
    assert list(feature.decoder_input_ids[:2]) == [0, sentinel_id(tokenizer, 0)]
    assert feature.labels[0] == -100
    assert feature.labels[-1] == sentinel_id(tokenizer, 1)
    assert list(feature.labels[1:-1]) == list(feature.decoder_input_ids[2:])


@pytest.mark.parametrize(("letters", "cut"), [(5, 0), (6, 1)])
def test_cut_answers_are_counted(caplog, letters, cut):
    """Beside the answer there is room for two tokens."""
    rows = [SquadExample("q1", "When?", "c", ("a" * letters,)), SquadExample("q2", "When?", "c", ("a",))]
    encode_squad(rows, tiny_tokenizer(), 64, target_length=7)
    assert caplog.messages == ["squad: 1 of 2 answers are longer than 5 tokens and are cut"] * cut


def test_gold_answer_depends_on_seed_epoch_and_question_only():
    """The choice changes with the epoch, and not with the rows around it."""
    tokenizer = tiny_tokenizer()
    examples = [SquadExample(f"q{i}", "When?", "context", ("good", "bad", "film")) for i in range(20)]

    def chosen(rows, epoch):
        return [list(feature.labels or ()) for feature in encode_squad(rows, tokenizer, 64, seed=3, epoch=epoch)]

    assert chosen(examples, 1) == chosen(examples, 1)
    assert chosen(examples, 1)[5:] == chosen(examples[5:], 1)
    assert chosen(examples, 1) != chosen(examples, 2)


def test_long_context_keeps_the_question_and_the_answer_slot():
    """A context beyond the length is shortened at its end; the slot is the last token before the end token."""
    tokenizer = tiny_tokenizer()
    example = SquadExample("q1", "Does it?", "film " * 400, ("film",))
    (feature,) = encode_squad([example], tokenizer, 64)
    assert len(feature.input_ids) == 64
    assert list(feature.input_ids[-2:]) == [sentinel_id(tokenizer, 0), tokenizer.eos_token_id]
    assert tokenizer.decode(feature.input_ids).startswith("Question: Does it? Context: film film")
