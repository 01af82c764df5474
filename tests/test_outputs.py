"""What commands write is never what they read, nor what somebody else has put there."""

from __future__ import annotations

import ast
import json
import os
import re
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset.submission import FILES, write_predictions
from utils.checksums import CHECKSUMS_FILE, listed
from utils.embedded.build import make_once
from utils.engine import RunDirectory
from utils.engine.run_files import RUN_FOLDERS
from utils.errors import UserError
from utils.fetching import fetch
from utils.lock import release_all
from utils.outputs import COMMANDS, REPORT_MARK, guard
from utils.plan.commit import check_target
from utils.tucker.prediction import check_place
from utils.tucker.training import make_directory
from utils.writing import atomic_directory

ROOT = Path(__file__).resolve().parent.parent
#: What can be started and writes nothing that its user names as an output, or only below the folders of its own runs.
OTHERS = {
    "serving": "answers requests",
    "utils.installation": "prints",
    "utils.warm": "starts the entry scripts",
    "utils.export.probe": "works for utils.export, in a process of its own",
    "utils.save_data": "leaves alone what is there",
    "utils.download": "leaves alone what is there",
    "utils.embedded": "replaces only what its manifest lists",
    "utils.embedded.bert": "replaces only what its manifest lists",
    "utils.quickstart_report": "report.md and its plot, in the folder of the quickstart",
    "utils.api_page": "docs/api.md",
    "utils.paper": "starts the entry scripts",
    "utils.scaling": "its page, and what it measured",
    **{f"utils.studies.{name}": "starts the entry scripts" for name in ("axes", "composition", "faults", "minidisc")},
    **{f"utils.studies.{name}": "starts the entry scripts" for name in ("serving", "tucker", "variator")},
}


def values(command: str, **given: Any) -> Namespace:
    """Parsed arguments: None for all that are not given."""
    rules = COMMANDS[command]
    return Namespace(**{**dict.fromkeys((*rules.reads, *rules.folders, *rules.adds, *rules.files)), **given})


def files_below(folder: Path) -> dict[str, bytes]:
    """Everything, as it was."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the table -------------------------------------------------------------------------------------------------------


def scripts() -> dict[str, str]:
    """Every program of the repository -> its source."""
    found = {}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("utils/**/*.py"), *ROOT.glob("serving/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            flags = path.parent / "arguments.py"
            found[name] = text + (flags.read_text(encoding="utf-8") if flags.is_file() else "")
    return found


def test_every_command_that_writes_is_in_the_table() -> None:
    """A new script has to declare what it reads and writes, or to say why it need not; all that do ask `guard`."""
    programs = scripts()
    known = {name.split(",")[0] for name in COMMANDS}
    shims = {name for name, text in programs.items() if "." not in name and name not in {*known, *OTHERS}}
    assert set(programs) - shims == known | set(OTHERS)
    for name in known:
        assert f'guard("{name}' in programs[name], name


@pytest.mark.parametrize("command", COMMANDS)
def test_names_of_the_table_are_those_of_the_flags(command: str) -> None:
    """A value that is renamed would not be looked at any more: `guard` fails, instead of passing over it."""
    rules = COMMANDS[command]
    for name in (*rules.reads, *rules.folders, *rules.adds, *rules.files):
        given = vars(values(command))
        del given[name]
        with pytest.raises(KeyError):
            guard(command, Namespace(**given))
    guard(command, values(command))


# --- folders ---------------------------------------------------------------------------------------------------------


def a_run(folder: Path) -> Path:
    """What a run leaves."""
    for name in ("best/config.json", "best/model.safetensors", "checkpoints/step-00000001/trainer.json", "log.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    for name in ("arguments.json", "best/arguments.json"):
        (folder / name).write_text('{"arguments": {}}')
    return folder


FOLDERS = [
    (command, read, folder) for command, rules in COMMANDS.items() for read in rules.reads for folder in rules.folders
]


@pytest.mark.parametrize(("command", "read", "folder"), FOLDERS)
def test_a_folder_that_holds_what_is_read(command: str, read: str, folder: str, tmp_path: Path) -> None:
    """The folder in every spelling, its best/, and a folder above: refused with both flags, nothing is touched."""
    run = a_run(tmp_path / "above" / "run")
    (tmp_path / "link").symlink_to(run)
    below = Path(os.path.relpath(run))
    spellings = [run, f"{run}/", run / "best" / "..", tmp_path / "link", below, f"./{below}/.", [run]]
    before = files_below(tmp_path)
    for source in (*spellings, run / "best", tmp_path / "link" / "best", [tmp_path / "none", run / "best"]):
        for target in (run, Path(f"{run}/../run"), tmp_path / "link", tmp_path / "above", below):
            with pytest.raises(UserError, match=r"which this call reads: name another folder\.$"):
                guard(command, values(command, **{read: source, folder: target}))
    with pytest.raises(UserError, match=r"(is|lies in) .*, which this call reads"):
        guard(command, values(command, **{read: run, folder: run / "best"}))
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(("command", "read", "folder"), FOLDERS)
def test_a_folder_beside_what_is_read(command: str, read: str, folder: str, tmp_path: Path) -> None:
    """A new folder, beside or within it, a name that begins alike, and a hub's id are nobody's business."""
    run = a_run(tmp_path / "run")
    for source, target in ((run, tmp_path / "new"), (run, tmp_path / "run2"), (run, run / "new"), ("org/run", run)):
        guard(command, values(command, **{read: source, folder: target}))


def test_a_text_and_what_is_made_of_it(tmp_path: Path) -> None:
    """Epochs among the texts would be read as text the next time; beside a folder or a single file they are fine."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words")
    for target in (tmp_path / "texts", tmp_path / "texts" / "made"):
        with pytest.raises(UserError, match=r"--output_dir .* lies in .*texts, which this call reads"):
            guard("utils.pregenerate_training_data", Namespace(train_corpus=tmp_path / "texts", output_dir=target))
    guard("utils.pregenerate_training_data", Namespace(train_corpus=tmp_path / "texts", output_dir=tmp_path))
    text = tmp_path / "texts" / "a.txt"
    guard("utils.pregenerate_training_data", Namespace(train_corpus=text, output_dir=tmp_path / "texts"))


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/run` is the run, on either side."""
    run = a_run(tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    for source, target in (("~/run", run), (run, Path("~/run")), ("~/run/best", Path("~"))):
        with pytest.raises(UserError, match="which this call reads"):
            guard("utils.quantize", Namespace(model=source, output_dir=target))


# --- files -----------------------------------------------------------------------------------------------------------


FILES_OF = [(command, name) for command, rules in COMMANDS.items() for name in rules.files]
SUFFIX = {"utils.report": ".html"}


@pytest.mark.parametrize(("command", "name"), FILES_OF)
def test_a_file_that_somebody_else_wrote(command: str, name: str, tmp_path: Path) -> None:
    """Text, JSON and what comes beside: refused and untouched; a folder, a device; a new one and an empty one pass."""
    suffix = SUFFIX.get(command, ".json")
    for content in ("years of work", '{"mine": 1}', "[1, 2]", '[{"mine": 1}]'):
        file = tmp_path / f"file{suffix}"
        file.write_text(content)
        with pytest.raises(UserError, match=r"is there already, and this command did not write it"):
            guard(command, values(command, **{name: file}))
        assert file.read_text() == content
    (tmp_path / "folder").mkdir()
    for target, told in ((tmp_path / "folder", "is a folder"), (Path("/dev/null"), "is no ordinary file")):
        with pytest.raises(UserError, match=told):
            guard(command, values(command, **{name: target}))
    (tmp_path / f"empty{suffix}").touch()
    for target in (tmp_path / f"new{suffix}", tmp_path / f"empty{suffix}"):
        guard(command, values(command, **{name: target}))


@pytest.mark.parametrize(
    ("command", "name", "file", "content"),
    [
        ("utils.cost", "json", "a.json", '[{"macs": 1, "family": "bert"}]'),
        ("utils.plan", "json", "a.json", '{"budget": "macs<=1"}'),
        ("utils.plan", "cost_table", "a.json", '{"key": {}, "rows": {}}'),
        ("utils.doctor", "json", "a.json", '{"healthy": true, "findings": []}'),
        ("utils.report", "output", "a.html", f"<html><!-- {REPORT_MARK} -->"),
        ("utils.data_augmentation", "output", "train_aug.tsv", "rows"),
    ],
)
def test_a_file_of_an_earlier_call_is_replaced(
    command: str, name: str, file: str, content: str, tmp_path: Path
) -> None:
    """Each command knows its own."""
    (tmp_path / file).write_text(content)
    guard(command, values(command, **{name: tmp_path / file}))


def test_what_comes_beside_a_file(tmp_path: Path) -> None:
    """The report's Markdown and the export's record are looked at as well, also with --overwrite."""
    (tmp_path / "README.md").write_text("# mine")
    with pytest.raises(UserError, match=r"README\.md is there already"):
        guard("utils.report", values("utils.report", output=tmp_path / "README.html"))
    (tmp_path / "m.onnx.json").write_text("{}")
    with pytest.raises(UserError, match=r"m\.onnx\.json is there already"):
        guard("utils.export", values("utils.export", output=tmp_path / "m.onnx", overwrite=True))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "config"])
def test_an_export_over_its_own_model(name: str, tmp_path: Path) -> None:
    """With --overwrite too, through a link, and where the record beside the file gets a name of the model's."""
    run = a_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(run / "best")
    for source in (run, run / "best", tmp_path / "link"):
        for folder in (run / "best", tmp_path / "link"):
            with pytest.raises(UserError, match=r"is read by this call|did not write it"):
                guard("utils.export", values("utils.export", model=source, output=folder / name, overwrite=True))
    guard("utils.export", values("utils.export", model=run, output=run / "best" / "model.onnx", overwrite=True))
    guard("utils.export", values("utils.export", model=run, output=run / "best" / "README.md"))


def test_a_text_over_itself(tmp_path: Path) -> None:
    """Also by a hard link and with --overwrite, which replaces other texts."""
    text = tmp_path / "text.txt"
    text.write_text("words")
    os.link(text, tmp_path / "train.txt")
    for target in (text, tmp_path / "train.txt"):
        with pytest.raises(UserError, match=r"is read by this call \(with the text "):
            guard("utils.make_corpus", values("utils.make_corpus", files=[text], output=target, overwrite=True))
    (tmp_path / "other.txt").write_text("words")
    given = values("utils.make_corpus", files=[text], output=tmp_path / "other.txt", overwrite=True)
    guard("utils.make_corpus", given)


def test_an_archive_of_predictions_is_replaced(tmp_path: Path) -> None:
    """A zip of other files is not."""
    for inside, fits in (("CoLA.tsv", True), ("thesis.tex", False)):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(inside, "x")
        given = values("utils.submission", folder=tmp_path / "predictions", output=tmp_path / "a.zip")
        if fits:
            guard("utils.submission", given)
        else:
            with pytest.raises(UserError, match="did not write it"):
                guard("utils.submission", given)


# --- a run's folder --------------------------------------------------------------------------------------------------


def claim(folder: Path, **more: Any) -> RunDirectory:
    """A run begins there."""
    try:
        return RunDirectory(folder, {"random_seed": 1}, **more)
    finally:
        release_all()


@pytest.mark.parametrize(
    "name", ["slurm-123.out", "nohup.out", "job.log", "train.err", "events.out.tfevents.1", ".nfs01"]
)
def test_a_scheduler_may_write_into_a_run_before_it_begins(name: str, tmp_path: Path) -> None:
    """Its file counts as nothing, and stays when the run is replaced."""
    (tmp_path / name).write_text("x")
    claim(tmp_path)
    run = claim(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "x"
    assert run.remarks == [f"--overwrite leaves what no run has written: {name}"]


@pytest.mark.parametrize("name", ["thesis.tex", "data/train.tsv", "model.safetensors", ".hidden"])
def test_the_first_foreign_file_is_named(name: str, tmp_path: Path) -> None:
    """A folder with somebody's files is no run's."""
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_text("x")
    with pytest.raises(UserError, match=rf"holds no run of this toolkit \(there is {re.escape(name.split('/')[0])}\)"):
        claim(tmp_path / "run", overwrite=True)


def test_overwrite_removes_what_runs_write_and_nothing_else(tmp_path: Path) -> None:
    """Files, folders of models and stages of a schedule go; what lies beside them stays, and is told in one line."""
    run = a_run(tmp_path / "run")
    a_run(run / "iteration-1")
    for name in ("result.json", "evaluation.json", "tensorboard/events.out.tfevents.1", "predictions/CoLA.tsv"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("{}")
    foreign = {"notes.txt", "data/train.tsv", "outside"}
    (run / "data").mkdir()
    for name in ("notes.txt", "data/train.tsv"):
        (run / name).write_text("mine")
    (run / "outside").symlink_to(tmp_path)
    made = claim(run, overwrite=True)
    assert {str(path.relative_to(run)) for path in run.rglob("*") if not path.is_dir() or path.is_symlink()} == {
        "arguments.json",
        ".lock",
        *foreign,
    }
    assert made.remarks == ["--overwrite leaves what no run has written: data and 2 more"]


@pytest.mark.parametrize(
    "name", ["best/notes.txt", "checkpoints/mine/x.bin", "iteration-1/notes.txt", "predictions/mine.tsv", "best/link"]
)
def test_overwrite_stops_at_foreign_files_within(name: str, tmp_path: Path) -> None:
    """The first one is named, and nothing is deleted."""
    run = a_run(tmp_path / "run")
    a_run(run / "iteration-1")
    (run / name).parent.mkdir(exist_ok=True)
    if name.endswith("link"):
        (run / name).symlink_to(tmp_path)
    else:
        (run / name).write_text("mine")
    before = files_below(run)
    with pytest.raises(UserError, match=rf"^--overwrite would delete .*{Path(name).name}, which no run has written"):
        claim(run, overwrite=True)
    assert {k: v for k, v in files_below(run).items() if k != ".lock"} == before


@pytest.mark.parametrize("part", ["best", "checkpoints/step-00000001"])
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}], ids=str)
def test_a_model_or_a_checkpoint_is_no_run(part: str, how: dict[str, bool], tmp_path: Path) -> None:
    """Though a run's arguments lie in it."""
    run = a_run(tmp_path / "run")
    (run / part / "arguments.json").write_text('{"arguments": {}}')
    before = files_below(run)
    with pytest.raises(UserError, match="holds a model or a checkpoint, not a run"):
        claim(run / part, **how)
    assert files_below(run) == before


def test_a_better_model_keeps_what_somebody_put_beside_it(tmp_path: Path) -> None:
    """What a run has written in best/ is replaced, a README is not."""
    best = tmp_path / "best"
    (best / "figures").mkdir(parents=True)
    for name in ("README.md", "figures/a.png", "model.safetensors", "tokenizer.json"):
        (best / name).write_text("old")
    with atomic_directory(best) as partial:
        (partial / "model.safetensors").write_text("new")
    expected = {"README.md": b"old", "figures/a.png": b"old", "model.safetensors": b"new"}
    found = files_below(best)
    assert set(found) == {*expected, CHECKSUMS_FILE} and {name: found[name] for name in expected} == expected
    assert set(listed(best) or ()) == {"model.safetensors"}


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "x" * 300, "\n", "a b", "é", "x" * 255])
def test_names_at_the_edge(name: str, tmp_path: Path) -> None:
    """A name is taken as it is, or refused in one sentence."""
    if "x" * 256 in name:
        with pytest.raises(UserError, match=r"^Cannot make --output_dir .*: File name too long\.$"):
            claim(tmp_path / name)
    else:
        claim(tmp_path / name)
        assert json.loads((tmp_path / name / "arguments.json").read_text())["seed"] == 1


def test_the_names_of_predictions_are_those_of_the_submission() -> None:
    """A new test set has a file that --overwrite may remove."""
    assert {entry.file for entry in FILES.values()} <= set(RUN_FOLDERS["predictions"])


def test_predictions_never_replace_data(tmp_path: Path) -> None:
    """A test set with a name of predictions, the folder of the data, and one of its tasks; new folders pass."""
    data = tmp_path / "glue"
    for name, text in (("AX/AX.tsv", "index\tsentence1"), ("conll/test.txt", "Anna B-PER")):
        (data / name).parent.mkdir(parents=True)
        (data / name).write_text(text)
    for folder in (data / "AX", data, data / "conll", data / "AX" / ".." / "conll"):
        with pytest.raises(UserError, match=r"^--predictions_dir .*name another folder"):
            check_place(folder, str(data))
    write_predictions("rte", [0, 1], tmp_path / "made")
    for folder in (tmp_path / "made", tmp_path / "new", data / "new"):
        check_place(folder, str(data))


def test_a_file_that_was_not_fetched_is_not_replaced(tmp_path: Path) -> None:
    """Refused before the server is asked; one that was fetched and changed is kept under another name."""
    said: list[str] = []
    file = tmp_path / "config.json"
    file.write_text("mine")
    with pytest.raises(UserError, match=r"is there already and was not fetched by this tool"):
        fetch("https://127.0.0.1:9/config.json", file, say=said.append)
    (tmp_path / "config.json.json").write_text('{"num_bytes": 4, "sha256": "0"}')
    for number in ("", ".2"):
        file.write_text("mine")
        with pytest.raises(UserError):
            fetch("https://127.0.0.1:9/config.json", file, say=said.append, tries=1, pause_s=0.0)
        assert (tmp_path / f"config.json.changed{number}").read_text() == "mine"


def test_the_embedded_data_replace_only_themselves(tmp_path: Path) -> None:
    """Made anew with other settings: files of before go, somebody's stay; a foreign manifest is refused."""
    said: list[str] = []

    def made(*names: str) -> Callable[[Path], dict[str, Any]]:
        def write(folder: Path) -> dict[str, Any]:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(name)
            return {}

        return write

    folder = tmp_path / "data"
    make_once(folder, {"format": 1}, made("glue/a.tsv", "glue/b.tsv"), "data", said.append)
    (folder / "glue" / "mine").mkdir()
    (folder / "glue" / "mine" / "train.tsv").write_text("mine")
    make_once(folder, {"format": 2}, made("glue/a.tsv", "c.txt"), "data", said.append)
    assert set(files_below(folder)) == {"glue/a.tsv", "c.txt", "glue/mine/train.tsv", "manifest.json"}
    assert any("stays: " in line and line.endswith("mine/train.tsv") for line in said)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"name": "app", "key": "mine"}')
    with pytest.raises(UserError, match="holds files that this tool did not make"):
        make_once(tmp_path / "app", {"format": 1}, made("a"), "data", said.append)


def test_a_plan_replaces_only_what_a_plan_has_written(tmp_path: Path) -> None:
    """--overwrite: not a model of somebody's, and not one with somebody's files in it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(UserError, match="was not written by --commit"):
        check_target(model, overwrite=True)
    (model / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="was not written by --commit"):
        check_target(model, overwrite=True)
    (model / "plan.json").write_text('{"budget": "macs<=0.5x", "command": []}')
    check_target(model, overwrite=True)
    with pytest.raises(UserError, match="is there already"):
        check_target(model, overwrite=False)
    (model / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt, which --commit has not written"):
        check_target(model, overwrite=True)
    check_target(tmp_path / "new", overwrite=False)


def test_no_command_deletes_folders_in_a_way_of_its_own() -> None:
    """Where `rmtree` stands: what is half-written or temporary, and what a run or a manifest says is its own."""
    allowed = {
        "dataset/pregenerated_arrays.py",
        "utils/archives.py",
        "utils/embedded/build.py",
        "utils/engine/checkpoint.py",
        "utils/writing.py",
        "utils/engine/run_directory.py",
        "utils/pregenerate_training_data.py",
        "utils/save_data.py",
        *(f"utils/studies/faults/{name}.py" for name in ("__main__", "bench", "rows")),
    }
    found = set()
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if {".venv", "tests", "docs"} & {*parts}:
            continue
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        if any(ast.unparse(call.func) in ("shutil.rmtree", "rmtree") for call in calls):
            found.add("/".join(parts))
    assert found <= allowed


# --- what is no run's, by whatever name ------------------------------------------------------------------------------

#: Names that runs write, each of which somebody else may have given to a file of theirs.
TAKEN = (
    *("arguments.json", "data.json", "metrics.jsonl", "log.log", "result.json", "evaluation.json", "command.txt"),
    *("schedule.json", "best/model.safetensors", "checkpoints/step-00000001/trainer.json", "predictions/RTE.tsv"),
    *("tensorboard/events.out.tfevents.1", "iteration-1/arguments.json"),
)


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}, {"resume": "auto"}], ids=str)
@pytest.mark.parametrize("name", TAKEN)
def test_a_folder_with_the_names_of_a_run_is_none(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    """Somebody's file, alone and with an arguments.json that is not the toolkit's: refused, and nothing is touched."""
    for number, files in enumerate(((name,), (name, "arguments.json", "metrics.jsonl", "best/config.json"))):
        folder = tmp_path / str(number)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text('{"lr": 0.1}')
        before = files_below(folder)
        with pytest.raises(UserError, match=r"holds no run of this toolkit \(there is "):
            claim(folder, **how)
        assert files_below(folder) == before


@pytest.mark.parametrize("name", ["evaluation.json", "result.json", "data.json", "schedule.json"])
def test_a_file_of_somebody_by_the_name_of_a_record_stays(name: str, tmp_path: Path) -> None:
    """It is no object in JSON, as every record is: neither this call nor the run after it deletes it."""
    run = a_run(tmp_path / "run")
    (run / name).write_text("mine")
    before = files_below(run) | {".lock": b""}
    with pytest.raises(UserError, match=rf"--overwrite would delete .*{name}, which no run has written"):
        claim(run, overwrite=True)
    assert files_below(run) | {".lock": b""} == before


@pytest.mark.parametrize("text", ["", '{"arguments": ', "\x00" * 40])
def test_a_run_whose_record_is_damaged_can_still_be_replaced(text: str, tmp_path: Path) -> None:
    """The lock that it has left says that it is a run; what is in it goes, what is not stays."""
    claim(tmp_path)
    (tmp_path / "arguments.json").write_text(text)
    (tmp_path / "metrics.jsonl").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path, overwrite=True)
    assert not (tmp_path / "metrics.jsonl").exists() and (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["model-mine.safetensors", "plugin-notes.json", "tokenizer_old.json", "vocab.txt", "mine/config.json"]
)
@pytest.mark.parametrize("part", ["best", "checkpoints/step-00000001"])
def test_overwrite_stops_at_what_is_in_no_list(part: str, name: str, tmp_path: Path) -> None:
    """A file in a model or a checkpoint with a name that others of its kind have; a better model keeps it."""
    run = a_run(tmp_path / "run")
    for written in ("best", "checkpoints/step-00000001"):
        with atomic_directory(run / written) as partial:
            (partial / "model.safetensors").write_text("new")
    file = run / part / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with atomic_directory(run / "best") as partial:
        (partial / "model.safetensors").write_text("better")
    before = files_below(run)
    with pytest.raises(UserError, match=rf"^--overwrite would delete .*{Path(name).name}, which no run has written"):
        claim(run, overwrite=True)
    assert {k: v for k, v in files_below(run).items() if k != ".lock"} == before
    file.unlink()
    claim(run, overwrite=True)
    assert not (run / "best").exists()


def test_a_half_written_file_of_a_model_is_the_toolkits(tmp_path: Path) -> None:
    """What a kill leaves while choice.json of a model is written anew hinders no --overwrite."""
    run = a_run(tmp_path / "run")
    with atomic_directory(run / "best") as partial:
        (partial / "choice.json").write_text("{}")
    left = run / "best" / ".choice.json.0123abcd.partial"
    left.mkdir()
    for name in ("choice.json", ".lock"):
        (left / name).write_text("{}")
    claim(run, overwrite=True)
    assert not (run / "best").exists()


def test_a_plan_keeps_what_is_in_no_list(tmp_path: Path) -> None:
    """A tokenizer of somebody's beside a committed model is no reason to delete it."""
    with atomic_directory(tmp_path / "plan") as partial:
        (partial / "plan.json").write_text('{"budget": "", "command": []}')
    check_target(tmp_path / "plan", overwrite=True)
    (tmp_path / "plan" / "tokenizer_mine.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer_mine\.json, which --commit has not written"):
        check_target(tmp_path / "plan", overwrite=True)


@pytest.mark.parametrize("name", ["arguments.json", "evaluation.json"])
def test_an_evaluation_replaces_no_file_of_others(name: str, tmp_path: Path) -> None:
    """Its own of before, it does."""
    (tmp_path / name).write_text('{"lr": 0.1}')
    with pytest.raises(UserError, match=rf"holds {name}, which no run has written: name another directory"):
        make_directory(tmp_path)
    (tmp_path / name).write_text('{"arguments": {}, "task": "mrpc", "model": "m"}')
    make_directory(tmp_path)
