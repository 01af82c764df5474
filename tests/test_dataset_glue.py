"""Reading GLUE: TSV, saved datasets, the hub, and what is said about broken files."""

from pathlib import Path

import datasets
import pytest

import dataset.sources
from dataset import DataError, get_task, read_glue

HEADERS = {
    "SST-2": "sentence\tlabel",
    "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "MNLI": "index\tsentence1\tsentence2\tlabel1\tgold_label",
    "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "STS-B": "index\tsentence1\tsentence2\tscore",
    "CoLA": None,
}


def write(folder: Path, task_folder: str, *rows: str, name: str = "train.tsv") -> Path:
    """A TSV file of one task, with its header."""
    header = HEADERS[task_folder]
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows] if header else rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("below", [".", "SST-2", "sst2", "glue/sst2", "glue/SST-2", "sst2/data"])
def test_tsv_is_found_in_every_documented_place(tmp_path, below):
    """The files may lie in the folder itself or in its usual subfolders."""
    write(tmp_path / below, "SST-2", "a fine film \t1", "dull\t0")
    rows = read_glue(get_task("sst2"), tmp_path, "train")
    assert [(row.index, row.text_a, row.text_b, row.label) for row in rows] == [
        (0, "a fine film ", None, 1),
        (1, "dull", None, 0),
    ]


def test_byte_order_mark_and_carriage_returns_are_removed(tmp_path):
    """A BOM does not become part of the first column's name, nor a CR part of the last column."""
    text = f"\ufeff{HEADERS['MRPC']}\r\n1\t5\t6\tA a.\tB b.\r\n"
    (tmp_path / "train.tsv").write_bytes(text.encode("utf-8"))
    (row,) = read_glue(get_task("mrpc"), tmp_path, "train")
    assert (row.label, row.texts) == (1, ("A a.", "B b."))


def test_quotes_and_unusual_line_separators_are_text(tmp_path):
    """Nothing is unquoted, and a row does not end at U+2028 or U+0085."""
    text = 'He said "no\u2028 and \x85 left'
    write(tmp_path, "SST-2", f"{text}\t0", '"x\t1')
    assert [row.text_a for row in read_glue(get_task("sst2"), tmp_path, "train")] == [text, '"x']


def test_mnli_has_two_development_sets(tmp_path):
    """mnli reads dev_matched, mnlimm dev_mismatched, with labels in hub order."""
    write(tmp_path / "MNLI", "MNLI", "0\tp\th\tx\tcontradiction", name="dev_matched.tsv")
    write(tmp_path / "MNLI", "MNLI", "0\tq\ti\tx\tneutral", name="dev_mismatched.tsv")
    assert read_glue(get_task("mnli"), tmp_path, "valid")[0].label == 2
    assert read_glue(get_task("mnlimm"), tmp_path, "valid")[0].label == 1


def test_cola_has_no_header(tmp_path):
    """The first line of CoLA's training file is a row."""
    write(tmp_path, "CoLA", "gj04\t1\t\tThey left.", "gj04\t0\t*\tLeft they.")
    rows = read_glue(get_task("cola"), tmp_path, "train")
    assert [(row.text_a, row.label) for row in rows] == [("They left.", 1), ("Left they.", 0)]


def test_scores_are_floats(tmp_path):
    """STS-B has real-valued labels."""
    write(tmp_path, "STS-B", "0\ta\tb\t3.250")
    assert read_glue(get_task("stsb"), tmp_path, "train")[0].label == 3.25


def test_incomplete_rows_are_dropped_for_qqp_only(tmp_path, caplog):
    """QQP as published has broken rows; they are left out with a warning."""
    write(tmp_path, "QQP", "1\t1\t2\ta\tb\t1", "2\t3", "3\t5\t6\tc\td\t0")
    assert len(read_glue(get_task("qqp"), tmp_path, "train")) == 2
    assert "1 incomplete row left out (line 3)" in caplog.text
    write(tmp_path, "QQP", "1\t1\t2\ta\tb\tmore\t1")
    with pytest.raises(DataError, match=r"train\.tsv:2: 7 columns, the header has 6"):
        read_glue(get_task("qqp"), tmp_path, "train")


@pytest.mark.parametrize(
    ("folder", "rows", "message"),
    [
        ("SST-2", ["fine\t1", "bad\t2"], r"train\.tsv:3: label '2' is none of sst2's: 0, 1"),
        ("SST-2", ["fine\t1", "no label"], r"train\.tsv:3: 1 column, the header has 2"),
        ("SST-2", [], "a header and no rows"),
        ("STS-B", ["0\ta\tb\tmuch"], r"train\.tsv:2: score 'much' is not a number"),
        ("STS-B", ["0\ta\tb\tnan"], r"train\.tsv:2: score 'nan' is not a finite number"),
        ("STS-B", ["0\ta\tb\t5", "1\ta\tb\t5.01"], r"train\.tsv:3: score '5.01' is not between 0 and 5"),
        ("STS-B", ["0\ta\tb\t-0.5"], r"train\.tsv:2: score '-0.5' is not between 0 and 5"),
        ("SST-2", ["a\tb\t1"], r"train\.tsv:2: 3 columns, the header has 2: is there a tab inside a text\?"),
        ("SST-2", ["fine\t1", "fine\t1\t"], r"train\.tsv:3: 3 columns, the header has 2"),
        ("MRPC", ["1\t2\t3\ta\tb\tc"], r"train\.tsv:2: 6 columns, the header has 5"),
        ("MNLI", ["0\ta\tx\tneutral"], r"train\.tsv:2: 4 columns, the header has 5: is a tab missing\?"),
        ("CoLA", ["gj04\t1\t\tThey\tleft."], r"train\.tsv:1: 5 columns, cola's rows have 4"),
        ("CoLA", ["gj04\t1\t\tThey left.", "They left."], r"train\.tsv:2: 1 column, cola's rows have 4"),
    ],
)
def test_broken_rows_are_reported_with_file_and_line(tmp_path, folder, rows, message):
    """The message names the file, the line, what is there and what is allowed."""
    write(tmp_path, folder, *rows)
    with pytest.raises(DataError, match=message):
        read_glue(get_task(folder), tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"sentence"\t"label"\n"fine"\t1\n', r"train\.tsv:1: the header is in quotes, as a CSV writer"),
        (b"sentence,label\nfine,1\n", r"train\.tsv:1: the columns are separated by commas, and tabs are expected"),
        (b'"label","sentence"\n1,"fine"\n', "separated by commas"),
        (b"sentence;label\nfine;1\n", "separated by semicolons"),
        (b"sentence label\nfine 1\n", "separated by spaces"),
        (b"sentence\tlabel\tlabel\nfine\t1\t0\n", r"train\.tsv:1: the header names the column 'label' 2 times"),
        (b"sentence\tlabel\rfine\t1\rbad\t0\r", r"train\.tsv: its lines end in CR alone, as on old Macs"),
        (b"sentence\tlabel\rfine\t1\rbad\t0\n", "its lines end in CR alone"),
        (b"sentence\tlabel\rfine\t1\nbad\t0\n", r"train\.tsv:1: the header holds a CR inside"),
        (
            "sentence\tlabel\nfine\t1\n".encode("utf-16"),
            r"this file is UTF-16, and UTF-8 is expected: convert it with iconv",
        ),
        ("sentence\tlabel\nfine\t1\n".encode("utf-16-le"), "this file is UTF-16LE"),
        ("sentence\tlabel\nfine\t1\n".encode("utf-16-be"), "this file is UTF-16BE"),
        ("sentence\tlabel\nfine\t1\n".encode("utf-32"), "this file is UTF-32"),
        (b"sentence\tlabel\nfine\t1\ncaf\xe9\t1\n", r"train\.tsv:3: this line is not UTF-8 .*iconv -f WINDOWS-1252"),
        (b"\x1f\x8b\x08\0\0\0", "this file is packed"),
        (b"a" * 5000 + b"\t1\n", r"no column 'sentence', the header is 'a{70,80} \.\.\.$"),
        (b"sentence\tlabel\nfine\t" + b"1" * 5000 + b"\n", r"label '1{70,80} \.\.\. is none of sst2's"),
    ],
)
def test_what_else_a_file_may_be_is_said_in_a_short_sentence(tmp_path, content, message):
    """The cause and the cure, and of what was found no more than fits on a line."""
    (tmp_path / "train.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message) as found:
        read_glue(get_task("sst2"), tmp_path, "train")
    assert len(str(found.value)) < 250 + len(str(tmp_path))


def test_cola_with_a_header_of_its_own_is_read_by_that(tmp_path):
    """Exports of the hub's data have one, which the published file has not."""
    (tmp_path / "train.tsv").write_text("sentence\tlabel\tidx\nThey left.\t1\t7\n")
    (row,) = read_glue(get_task("cola"), tmp_path, "train")
    assert (row.text_a, row.label) == ("They left.", 1)


def test_texts_in_a_csv_writers_quotes_are_told(tmp_path, caplog):
    """They are read as they stand, since quotes are text; ordinary quotes are not worth a word."""
    write(tmp_path, "SST-2", '"so ""good"" a film"\t1', '"fine"\t1', 'a ""b""\t0')
    rows = read_glue(get_task("sst2"), tmp_path, "train")
    assert rows[0].text_a == '"so ""good"" a film"'
    assert "1 of 3 texts are in quotes with doubled quotes inside" in caplog.text
    caplog.clear()
    write(tmp_path, "SST-2", '"fine"\t1', 'a ""b""\t0')
    read_glue(get_task("sst2"), tmp_path, "train")
    assert not caplog.records


@pytest.mark.parametrize("label", ["-1", "0", "", "?", "positive", "1e9"])
@pytest.mark.parametrize("name", ["sst2", "mrpc", "cola", "stsb", "mnli", "qqp"])
def test_labels_of_test_files_are_placeholders(tmp_path, name, label):
    """Whatever stands there, the texts are read; a label that the task has may be kept."""
    task = get_task(name)
    header = ["index", *task.file_columns, task.file_label_column]
    row = ["0", *("text" for _ in task.file_columns), label]
    (tmp_path / task.test_file).write_text("\t".join(header) + "\n" + "\t".join(row) + "\n")
    (found,) = read_glue(task, tmp_path, "test")
    assert found.texts == ("text",) * len(task.columns)
    assert found.label is None or label == "0"


@pytest.mark.parametrize("column", ["index", "idx", "id"])
def test_test_rows_keep_what_their_file_calls_them(tmp_path, column):
    """In file order; where two rows have one name, predictions could not be told apart."""
    path = tmp_path / "test.tsv"
    path.write_text(f"{column}\tsentence\n3\ta\n1\tb\n0\tc\n")
    rows = read_glue(get_task("sst2"), tmp_path, "test")
    assert [(row.index, row.row_id, row.text_a) for row in rows] == [(0, "3", "a"), (1, "1", "b"), (2, "0", "c")]
    path.write_text(f"{column}\tsentence\n3\ta\n1\tb\n3\tc\n")
    with pytest.raises(DataError, match=r"test\.tsv:4: the index '3' is that of .*test\.tsv:2"):
        read_glue(get_task("sst2"), tmp_path, "test")


def test_rows_without_an_index_have_no_name(tmp_path):
    """Of training rows the column is not looked at."""
    (tmp_path / "test.tsv").write_text("sentence\na\n")
    assert read_glue(get_task("sst2"), tmp_path, "test")[0].row_id is None
    (tmp_path / "train.tsv").write_text("index\tsentence\tlabel\n3\ta\t1\n3\ta\t1\n")
    assert [row.row_id for row in read_glue(get_task("sst2"), tmp_path, "train")] == [None, None]


def test_wrong_header_is_reported(tmp_path):
    """A file of another task is refused by its columns."""
    write(tmp_path, "SST-2", "fine\t1")
    with pytest.raises(DataError, match=r"train\.tsv:1: no column '#1 String', the header is 'sentence, label'"):
        read_glue(get_task("mrpc"), tmp_path, "train")


def test_empty_file_and_bad_encoding_are_reported(tmp_path):
    """Neither gives a stack trace from inside a library."""
    (tmp_path / "train.tsv").touch()
    with pytest.raises(DataError, match="this file is empty"):
        read_glue(get_task("sst2"), tmp_path, "train")
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\nfine\t1\ncaf\xe9\t1\n")
    with pytest.raises(DataError, match=r"train\.tsv:3: this line is not UTF-8"):
        read_glue(get_task("sst2"), tmp_path, "train")


def test_missing_files_are_reported_with_what_is_there(tmp_path):
    """The message says what was looked for and what the folder holds."""
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "train.csv").touch()
    with pytest.raises(DataError, match=r"neither train\.tsv of sst2 .* it holds train\.csv"):
        read_glue(get_task("sst2"), tmp_path, "train")
    with pytest.raises(DataError, match="it does not exist"):
        read_glue(get_task("sst2"), tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="unknown split 'dev'"):
        read_glue(get_task("sst2"), tmp_path, "dev")
    with pytest.raises(DataError, match="squad is not a GLUE task"):
        read_glue(get_task("squad"), tmp_path, "train")


def saved(names: list[str]) -> datasets.DatasetDict:
    """A tiny RTE in hub form; ``names`` are the stored class names."""
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "idx": datasets.Value("int32"),
        }
    )

    def part(labels: list[int]) -> datasets.Dataset:
        count = range(len(labels))
        columns = {"sentence1": [f"a{i}" for i in count], "sentence2": [f"b{i}" for i in count]}
        return datasets.Dataset.from_dict({**columns, "label": labels, "idx": list(count)}, features=features)

    return datasets.DatasetDict({"train": part([0, 1]), "validation": part([1]), "test": part([-1])})


@pytest.mark.parametrize("below", [".", "rte", "glue/rte", "rte/data"])
def test_saved_dataset_is_read_from_every_documented_place(tmp_path, below):
    """``save_to_disk`` folders are found like TSV files; hidden labels are None."""
    saved(["entailment", "not_entailment"]).save_to_disk(str(tmp_path / below))
    task = get_task("rte")
    assert [(r.texts, r.label) for r in read_glue(task, tmp_path, "train")] == [
        (("a0", "b0"), 0),
        (("a1", "b1"), 1),
    ]
    assert read_glue(task, tmp_path, "valid")[0].label == 1
    (hidden,) = read_glue(task, tmp_path, "test")
    assert hidden.label is None and hidden.row_id == "0"


def test_stored_class_names_decide_the_label_id(tmp_path):
    """A saved dataset with its classes the other way round gives this table's ids."""
    saved(["not_entailment", "entailment"]).save_to_disk(str(tmp_path))
    assert [row.label for row in read_glue(get_task("rte"), tmp_path, "train")] == [1, 0]


def test_saved_dataset_of_another_task_is_refused(tmp_path):
    """Wrong columns, missing splits and unknown classes are named."""
    saved(["yes", "no"]).save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match=r"row 0: label 'yes' is none of rte's: entailment, not_entailment"):
        read_glue(get_task("rte"), tmp_path, "train")
    with pytest.raises(DataError, match="no column question, sentence"):
        read_glue(get_task("qnli"), tmp_path, "train")
    saved(["yes", "no"])["train"].save_to_disk(str(tmp_path / "mnli"))
    with pytest.raises(DataError, match="saved dataset"):
        read_glue(get_task("mnli"), tmp_path / "mnli", "valid")


def test_hub_is_asked_for_the_right_configuration(monkeypatch):
    """``hub`` loads GLUE's configuration and split; no network is used here."""
    asked = []

    def load(repository, configuration, split):
        asked.append((repository, configuration, split))
        return saved(["entailment", "not_entailment"])["validation"]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(read_glue(get_task("rte"), "hub", "valid")) == 1
    assert asked == [("nyu-mll/glue", "rte", "validation")]


def test_unreachable_hub_is_a_data_error(monkeypatch):
    """Without a network the message names the repository and the way out."""

    def load(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"--data_dir hub: nyu-mll/glue .* a folder with the files works"):
        read_glue(get_task("rte"), dataset.sources.HUB, "valid")


@pytest.mark.parametrize(
    ("name", "split", "rows"),
    [("mrpc", "valid", 408), ("mrpc", "test", 1725), ("sst2", "valid", 872), ("stsb", "valid", 1500)],
)
def test_published_files_have_their_known_sizes(shared, name, split, rows):
    """The real GLUE files are read whole, MRPC with its byte-order mark."""
    examples = read_glue(get_task(name), shared / "data" / "glue", split)
    assert len(examples) == rows
    assert all(text for example in examples for text in example.texts)
