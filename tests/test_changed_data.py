"""Data that change between a run's beginning and its resumption: refused, unless a flag allows it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset.features import Feature
from dataset.fingerprint import _PIECE_BYTES, _PIECES, of_files, of_rows
from tests.tiny import Tiny, assert_same_run, run
from tests.tiny_bert import TinyBert, run_general, run_task
from utils.engine.data_record import check_data
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., None]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """The tiny BERT and its data."""
    return TinyBert(tmp_path_factory.mktemp("bert"))


def edit(path: Path) -> None:
    """One letter of the last line is another."""
    text = path.read_text()
    at = text.rindex("good")
    path.write_text(text[:at] + "film" + text[at + 4 :])


def t5_rows(tiny: Tiny, bert: TinyBert, folder: Path) -> tuple[Run, list[Path]]:
    """train_t5.py on SST-2, whose rows are held in memory."""
    shutil.copytree(tiny.glue, folder)
    arguments = ("--data-path", folder, "--save-step", 2)
    call = lambda output, *more: run(tiny.sst2(output, *arguments, *more))  # noqa: E731
    return call, [folder / "SST-2" / "train.tsv", folder / "SST-2" / "dev.tsv"]


def t5_text(tiny: Tiny, bert: TinyBert, folder: Path) -> tuple[Run, list[Path]]:
    """train_t5.py on a streamed corpus."""
    shutil.copytree(tiny.corpus, folder)
    call = lambda output, *more: run(tiny.wiki(output, "--data-path", folder, "--save-step", 5, *more))  # noqa: E731
    return call, [folder / "train.txt", folder / "valid.txt"]


def general(tiny: Tiny, bert: TinyBert, folder: Path) -> tuple[Run, list[Path]]:
    """general_distill.py."""
    shutil.copytree(bert.text, folder)
    more_flags = ("--pregenerated_data", folder, "--init_from_teacher", "--max_steps", 4)
    call = lambda output, *more: run_general(bert.general(output, *more_flags, *more))  # noqa: E731
    return call, [folder / "epoch_1.json"]


def task(tiny: Tiny, bert: TinyBert, folder: Path) -> tuple[Run, list[Path]]:
    """task_distill.py."""
    shutil.copytree(bert.glue, folder)
    flags = ("--data_dir", folder, "--mode", "finetune", "--teacher_model", bert.model, "--max_steps", 2)
    call = lambda output, *more: run_task(bert.task(output, *flags, *more))  # noqa: E731
    return call, [folder / "SST-2" / "train.tsv", folder / "SST-2" / "dev.tsv"]


@pytest.mark.parametrize("case", [t5_rows, t5_text, general, task], ids=lambda case: case.__name__)
def test_changed_data_are_refused_unless_allowed(
    case: Callable[..., tuple[Run, list[Path]]], tiny: Tiny, bert: TinyBert, tmp_path: Path
) -> None:
    """Each file for itself; put back, the run goes on; so it does with the flag, which says so and records the new."""
    call, files = case(tiny, bert, tmp_path / "data")
    output = tmp_path / "run"
    call(output)
    first = (output / "data.json").read_text()
    for file in files:
        before = file.read_text()
        edit(file)
        for resume in (("--resume",), ("--resume", "auto")):
            with pytest.raises(UserError, match=r"--resume in .*run: the data are not .* began with \((train|valid)"):
                call(output, *resume)
        file.write_text(before)
        os.utime(file, (1, 1))  # only contents count
        call(output, "--resume")
        assert (output / "data.json").read_text() == first
    edit(files[0])
    call(output, "--resume", "--allow-changed-data")
    assert "warning: the data have changed since the run began (train, " in (output / "log.log").read_text()
    assert (output / "data.json").read_text() != first
    call(output, "--resume")


def test_data_may_change_before_the_first_checkpoint(tiny: Tiny, bert: TinyBert, tmp_path: Path) -> None:
    """Nothing was learnt from them yet; the run is that of the new data."""
    call, files = t5_rows(tiny, bert, tmp_path / "data")
    call(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    edit(files[0])
    call(tmp_path / "run", "--resume", "auto")
    call(tmp_path / "fresh")
    assert_same_run(tmp_path / "run", tmp_path / "fresh")
    assert json.loads((tmp_path / "run" / "data.json").read_text()) == json.loads(
        (tmp_path / "fresh" / "data.json").read_text()
    )


def test_a_schedule_refuses_other_data_between_its_stages(bert: TinyBert, tmp_path: Path) -> None:
    """The first stage is complete, the second not begun: its data must be those of the first."""
    shutil.copytree(bert.glue, tmp_path / "data")
    data = ("--data_dir", tmp_path / "data", "--num_train_epochs", 1)
    run_task(bert.task(tmp_path / "teacher", *data, "--mode", "finetune", "--teacher_model", bert.model))
    path = ("--mode", "maxidisc", "--layer_or_sparsity_path", "50,90S", "--teacher_model", tmp_path / "teacher")
    command = bert.task(tmp_path / "run", *data, *path, "--grid", "50,90")
    run_task(command)
    shutil.rmtree(tmp_path / "run" / "50S-90S")
    edit(tmp_path / "data" / "SST-2" / "train.tsv")
    with pytest.raises(UserError, match=r"--resume in .*run: the data are not .* \(train, rows: was 24 rows, sha256"):
        run_task([*command, "--resume"])
    assert not (tmp_path / "run" / "50S-90S").exists()


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    """Found and expected version are named."""
    check_data(tmp_path, {"train": {"a": "1"}}, False, False)
    check_data(tmp_path, {"train": {"a": "1"}, "valid": {"b": "new"}}, True, False)  # a set that was not recorded
    (tmp_path / "data.json").write_text(json.dumps({"format_version": 7}))
    with pytest.raises(UserError, match=r"data\.json has format version 7, this toolkit reads 1"):
        check_data(tmp_path, {}, True, False)


def test_an_added_or_missing_file_is_named(tmp_path: Path) -> None:
    """A file that was not there, or is not there any more."""
    check_data(tmp_path, {"train": {"a": "1", "b": "2"}}, False, False)
    with pytest.raises(UserError, match=r"\(train, b: was 2, is not there\)"):
        check_data(tmp_path, {"train": {"a": "1"}}, True, False)
    with pytest.raises(UserError, match=r"\(train, c: was not there, is 3\)"):
        check_data(tmp_path, {"train": {"a": "1", "b": "2", "c": "3"}}, True, False)


@pytest.mark.parametrize("at", [0, -1])
def test_long_files_are_sampled_from_end_to_end(tmp_path: Path, at: int) -> None:
    """First and last byte of a file too long to be read, and its length, count."""
    file = tmp_path / "long.txt"
    with file.open("wb") as stream:
        stream.truncate(2 * _PIECES * _PIECE_BYTES)  # sparse
    before = of_files([file])
    with file.open("r+b") as stream:
        stream.seek(at, os.SEEK_END if at else os.SEEK_SET)
        stream.write(b"x")
    after = of_files([file])
    assert before != after
    os.truncate(file, file.stat().st_size + 1)
    assert of_files([file]) not in (before, after)


def test_every_part_of_a_row_counts() -> None:
    """Tokens, label and order."""
    rows = [Feature(0, [1, 2], 0), Feature(1, [3], 1)]
    found = [of_rows(rows), of_rows(rows[::-1]), of_rows([rows[0], Feature(1, [3], 0)]), of_rows([rows[0]])]
    assert len({str(one) for one in found}) == 4 and of_rows(list(rows)) == found[0]
