"""Values of flags: numbers, tasks in every spelling, home folders, and what is refused at the edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from utils.arguments import ToolParser
from utils.arguments.spellings import meant
from utils.arguments.values import LARGEST, number, place, text, whole_number
from utils.augmentation.arguments import parse_arguments as parse_augmentation
from utils.errors import UserError
from utils.export.arguments import parse as parse_export
from utils.pregenerate.arguments import parse_arguments as parse_pregeneration
from utils.tucker.general_arguments import parse_general_arguments
from utils.tucker.task_arguments import parse_task_arguments
from utils.variator.arguments import parse_arguments

T5 = ["--task_name", "sst2", "--data_dir", "d", "--model_config", "m", "--output_dir", "o"]
BERT = ["--mode", "finetune", "--teacher_model", "t", "--task_name", "sst2", "--data_dir", "d", "--output_dir", "o"]
GENERAL = ["--pregenerated_data", "p", "--teacher_model", "t", "--student_model", "s", "--output_dir", "o"]
AUGMENT = ["--pretrained_bert_model", "b", "--data_dir", "g", "--task_name", "sst2"]
PREGENERATE = ["--train_corpus", "c", "--bert_model", "b", "--output_dir", "o"]
#: Each script with what it needs, and the flags of its batch and length.
SCRIPTS: list[Any] = [
    pytest.param(parse_arguments, T5, id="train_t5"),
    pytest.param(parse_task_arguments, BERT, id="task_distill"),
    pytest.param(parse_general_arguments, GENERAL, id="general_distill"),
]
TOOLS: list[Any] = [
    *SCRIPTS,
    pytest.param(parse_augmentation, AUGMENT, id="data_augmentation"),
    pytest.param(parse_pregeneration, PREGENERATE, id="pregenerate_training_data"),
]
Parse = Callable[[Sequence[str]], Any]


def values_of(parsed: Any) -> dict[str, Any]:
    """All values of a command line by field name, whatever the script gives back."""
    groups = parsed[1][0] if isinstance(parsed, tuple) and isinstance(parsed[1], list) else parsed
    merged: dict[str, Any] = {}
    for group in groups if isinstance(groups, tuple) else [groups]:
        merged |= vars(group)
    return merged


@pytest.mark.parametrize("word", ["2", "2.0", "2e0", "+2", "0.2e1"])
@pytest.mark.parametrize(("parse", "base"), SCRIPTS)
def test_whole_numbers_are_understood_in_every_notation(parse: Parse, base: list[str], word: str) -> None:
    """As the originals and Transformers take epochs, in every script and for every whole number."""
    found = values_of(parse([*base, "--epochs", word, "--train_batch_size", word, "--max_steps", "1e3"]))
    assert (found["epochs"], found["batch_size"], found["training_step"]) == (2, 2, 1000)
    assert type(found["epochs"]) is int


@pytest.mark.parametrize(("parse", "base"), SCRIPTS)
def test_a_part_of_an_epoch_is_refused_with_what_would_do(parse: Parse, base: list[str]) -> None:
    """One sentence that names --max_steps and the value."""
    with pytest.raises(UserError, match=r"--num_train_epochs: expected a whole number \(--max_steps .*found '0\.5'"):
        parse([*base, "--num_train_epochs", "0.5"])


@pytest.mark.parametrize("word", ["-1", str(2**63), str(2**64), "9" * 400, "1e400", "nan", "0.5", "", "  ", "one"])
@pytest.mark.parametrize(("parse", "base"), TOOLS)
def test_seeds_that_cannot_be(parse: Parse, base: list[str], word: str) -> None:
    """Named with the flag as --help shows it, in a sentence of one line."""
    with pytest.raises(UserError, match=r"--seed") as refused:
        parse([*base, f"--random-seed={word}" if parse in (parse_arguments,) else f"--seed={word}"])
    assert len(str(refused.value)) < 250 and "\n" not in str(refused.value)


@pytest.mark.parametrize("word", ["0", "7", str(2**63 - 1)])
@pytest.mark.parametrize(("parse", "base"), TOOLS)
def test_seeds_that_can_be(parse: Parse, base: list[str], word: str) -> None:
    """The refusals above are not blind."""
    found = values_of(parse([*base, "--seed", word]))
    assert int(word) in (found.get("random_seed"), found.get("seed"))


@pytest.mark.parametrize("word", ["inf", "-inf", "nan", "1e999", "", "1,5", "9" * 400])
@pytest.mark.parametrize(("parse", "base"), SCRIPTS)
def test_rates_have_to_be_finite_numbers(parse: Parse, base: list[str], word: str) -> None:
    """Also with a minus in front, which argparse alone takes for a flag."""
    with pytest.raises(UserError, match="--learning_rate"):
        parse([*base, "--lr", word])


@pytest.mark.parametrize("flag", ["--output_dir", "--output-path", "--data_dir", "--data-path", "--task_name"])
@pytest.mark.parametrize(("parse", "base"), SCRIPTS[:2])
def test_empty_values_are_refused(parse: Parse, base: list[str], flag: str) -> None:
    """As an unset variable of a shell leaves them."""
    for words in ([flag, ""], [f"{flag}="], [flag, " "]):
        with pytest.raises(UserError, match=r"--(output_dir|data_dir|task_name): expected a value, found an empty one"):
            parse([*base, *words])


@pytest.mark.parametrize(("parse", "base"), TOOLS)
def test_a_home_folder_is_meant_in_every_path(
    parse: Parse, base: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`~` behind `=`, where shells leave it, and in quotation marks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["--output_dir=~/runs/x"], ["--output-dir", "~/runs/x"], ["--output=~/runs/x"]):
        found = values_of(parse([*base, *words]))
        assert tmp_path / "runs" / "x" in (found.get("output_path"), found.get("output_dir"), found.get("output"))
    name = "model_config" if parse is parse_arguments else "bert_model" if base is PREGENERATE else "teacher_model"
    if base is not AUGMENT:
        assert values_of(parse([*base, f"--{name}=~/model"]))[name] == str(tmp_path / "model")


def test_the_home_of_nobody_is_refused() -> None:
    """A folder that is called `~somebody` is never made."""
    with pytest.raises(UserError, match="--output_dir: there is no user whose home folder ~no-such-user is"):
        parse_arguments([*T5, "--output_dir=~no-such-user/x"])


@pytest.mark.parametrize(
    ("word", "name"), [("SST-2", "sst2"), ("sst_2", "sst2"), ("SST2", "sst2"), ("Mrpc", "mrpc"), ("MNLI", "mnli")]
)
def test_tasks_are_understood_in_every_spelling(word: str, name: str) -> None:
    """The same names in the scripts of both families, whose runs record the short one."""
    for flag in ("--task_name", "--dataset", "--task"):
        assert parse_arguments([*T5, flag, word])[0].dataset == name
        assert values_of(parse_task_arguments([*BERT, flag, word]))["task_name"] == name


@pytest.mark.parametrize(
    ("word", "name"), [("STS-B", "stsb"), ("sts-b", "stsb"), ("WNUT-17", "wnut17"), ("CoNLL-2003", "conll")]
)
def test_tasks_of_encoders_too(word: str, name: str) -> None:
    """Those that T5 is not trained on here; there, one sentence tells which are."""
    assert values_of(parse_task_arguments([*BERT, "--task-name", word]))["task_name"] == name
    with pytest.raises(UserError, match=rf"--task_name: expected mnli, .* or wiki, found '{word}'"):
        parse_arguments([*T5, "--dataset", word])


@pytest.mark.parametrize(
    ("scale", "mode"),
    [("1K", "maxidisc"), ("9" * 400 + "L", "maxidisc"), ("1e999L", "maxidisc"), ("2,1K", "maxidisc"),
     ("1K", "distill"), ("9" * 400 + "L", "distill"), ("nanS", "distill"), ("infR", "distill")],
)  # fmt: skip
def test_scales_at_the_edge_are_refused_before_anything_is_made(
    scale: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin ratio of 1 keeps every token; nobody has so many layers."""
    monkeypatch.chdir(tmp_path)
    flag = "--layer_or_sparsity_path" if mode == "maxidisc" else "--layer_or_sparsity"
    with pytest.raises(UserError, match=flag) as refused:
        parse_task_arguments([*BERT, "--mode", mode, flag, scale])
    assert len(str(refused.value)) < 250 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mistake", "proposed"),
    [("--epoch", "--num_train_epochs"), ("--batch", "--train_batch_size"), ("--bs", "--train_batch_size"),
     ("--out", "--output_dir"), ("--out-dir", "--output_dir"), ("--fp16", "--precision"), ("--steps", "--max_steps"),
     ("--plugins", "--plugin_path"), ("--ratio", "--mux_num"), ("--force", "--overwrite"), ("--verbose", "--debug"),
     ("--taks", "--task_name"), ("--ouput_dir", "--output_dir"), ("--leanring-rate", "--learning_rate"),
     ("--model_name", "--model_config"), ("--Epochs", "--num_train_epochs")],
)  # fmt: skip
def test_what_is_meant_is_proposed(mistake: str, proposed: str) -> None:
    """By meaning before letters."""
    with pytest.raises(UserError, match=f"Not understood: {mistake}; did you mean {proposed}\\?"):
        parse_arguments([*T5, mistake, "3"])


def test_gpus_are_the_launchers_matter() -> None:
    """What no script has as a flag, with the place where it is found."""
    with pytest.raises(UserError, match=r"--gpus; torchrun starts a process for each GPU"):
        parse_task_arguments([*BERT, "--gpus", "2"])
    assert meant("--gpus", ["gpus", "x"]) == "did you mean --gpus?"


def test_values_by_themselves() -> None:
    """The conversions, without a command line."""
    assert whole_number(str(LARGEST)) == LARGEST and whole_number("1e3") == 1000 and number("-1e-5") == -1e-5
    assert text("a~b") == "a~b" and place("x/~") == Path("x/~")


@pytest.mark.parametrize("words", [["--costs", "false"], ["--costs=no"], ["--no-costs"], ["--no_costs"], ["--costs=0"]])
def test_switches_are_switched_off_in_every_way(words: list[str]) -> None:
    """With a value, or with --no- in front; also those that are off by default."""
    assert not parse_arguments([*T5, *words])[0].costs
    assert parse_arguments([*T5, *words, "--costs"])[0].costs
    assert not parse_arguments([*T5, "--delta-tuning", "--no-delta-tuning"])[1].delta_tuning


def test_tools_take_the_same_values(capsys: pytest.CaptureFixture[str]) -> None:
    """A tool's parser converts as the scripts' dataclasses do, and ends the process at a mistake."""
    parser = ToolParser(prog="tool")
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--tolerance", type=float, default=0.1, help="50 % of what is usual (default: %(default)s)")
    parser.add_argument("--over-write", action="store_true")
    parser.add_argument("--label", default="")
    assert parser.parse_args([]).label == ""
    given = parser.parse_args(["--output-path", "~", "--rows", "1.0", "2", "--no-over_write", "--tolerance", "-1e-5"])
    assert given.output_dir == Path.home() and given.rows == [1, 2] and not given.over_write
    assert given.tolerance == -1e-5 and "50 % of what is usual (default: 0.1)" in " ".join(parser.format_help().split())
    for words, told in (
        (["--rows", "1.5"], "--rows: expected a whole number, found '1.5'"),
        (["--toler", "1"], "Not understood: --toler; did you mean --tolerance?"),
        (["stray"], "Not understood: stray"),
    ):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(words)
        assert stop.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"error: {told}") and shown.count("\n") == 1


# --- what is meant ----------------------------------------------------------------------------------------------------


def listing() -> ToolParser:
    """A parser with flags of several values of every kind."""
    made = ToolParser()
    made.add_argument("--ratios", nargs="+", type=int)
    made.add_argument("--shares", nargs="*", type=float)
    made.add_argument("--tasks", nargs="+", choices=["sst2", "mrpc"])
    made.add_argument("--files", nargs="+", type=Path)
    made.add_argument("--ratio", type=int)
    return made


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ratios", "2,4"], "--ratios: give several separated by blanks (2 4), found '2,4'"),
        (["--shares", "0.5, 1.5"], "--shares: give several separated by blanks (0.5 1.5), found '0.5, 1.5'"),
        (["--tasks", "sst2,mrpc"], "--tasks: give several separated by blanks (sst2 mrpc), found 'sst2,mrpc'"),
        (["--tasks", "sst2,cola"], "--tasks"),
        (["--ratios", "2,x"], "--ratios: expected a whole number, found '2,x'"),
        (["--ratio", "2,4"], "--ratio: expected a whole number, found '2,4'"),
    ],
)
def test_commas_between_several_values_are_told(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where blanks would make it a value; a flag of one value, and what would be none either way, say so as before."""
    with pytest.raises(SystemExit):
        listing().parse_args(words)
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_several_values_stay_what_they_were() -> None:
    """Blanks, choices, and paths that hold a comma."""
    found = listing().parse_args(["--ratios", "2", "4", "--tasks", "mrpc", "--files", "a,b", "c"])
    assert (found.ratios, found.tasks, found.files) == ([2, 4], ["mrpc"], [Path("a,b"), Path("c")])


@pytest.mark.parametrize(
    ("word", "meant"), [("sst", "sst2"), ("SST", "sst2"), ("mnl", "mnli"), ("qqpp", "qqp"), ("wikipedia", "wiki")]
)
def test_a_task_is_proposed_by_how_it_begins(word: str, meant: str) -> None:
    """Not by letters that happen to be the same: sst is sst2, not squad."""
    with pytest.raises(UserError, match=rf"did you mean {meant}\? expected mnli, "):
        parse_arguments(["--task_name", word, *T5[2:]])


def test_the_name_of_a_torch_file_ends_as_its_reader_wants(tmp_path: Path) -> None:
    """One sentence before anything is loaded, for a file that torch would write and warn of."""
    words = ["--model", str(tmp_path), "--format", "torch", "--output"]
    with pytest.raises(
        UserError, match=r"--output .*/k2\.onnx: the name of what --format torch writes ends in \.pt2\."
    ):
        parse_export([*words, str(tmp_path / "k2.onnx")])
    assert parse_export([*words, str(tmp_path / "k2.pt2")]).format == "torch"


def test_augmented_rows_serve_schedules_too() -> None:
    """Distillations of a schedule train on them; the order of importance is that of the development rows."""
    schedule = [*BERT[2:], "--aug_train", "--mode"]
    assert parse_task_arguments([*schedule, "minidisc"])[1][0].task.aug_train
    with pytest.raises(UserError, match=r"--aug_train is for training: .*--mode sparsify"):
        parse_task_arguments([*schedule, "sparsify"])
