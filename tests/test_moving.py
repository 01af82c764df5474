"""docs/moving.md, row by row: the commands run on tiny models, the flags are understood."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel

from model import DecompositionConfig, apply_edit
from tests.helpers_minidisc import write_entities
from tests.test_scripts import ROOT, launch, repository
from tests.tiny import backbone, write_squad
from tests.tiny_bert import edit_config, run_task, save_bert, tiny_word_pieces, write_epochs, write_glue
from utils import convert_t5
from utils.lock import release_all
from utils.tucker.general_arguments import parse_general_arguments
from utils.tucker.task_arguments import parse_task_arguments
from utils.variator.arguments import parse_arguments

__all__ = ["repository"]
pytestmark = pytest.mark.usefixtures("single_thread")

#: Rows that tell of no command and no flag.
PROSE = ("`tucker_weighter.*`", "masked models", "no record of why")
#: Tools that fetch: their command lines are parsed alone.
_FETCH = ("utils/save_data.py", "utils.download")
#: What makes a run small, by script.
_SHORT = {
    "train_t5.py": "--training-step 1 --max-input-length 64 --batch-size 4",
    "general_distill.py": "--max_steps 1 --max_seq_length 32 --train_batch_size 4 --valid_batches 1",
    "task_distill.py": "--max_steps 1 --max_seq_length 32 --train_batch_size 8 --no-costs",
    "run_glue.py": "--max_steps 1 --max_seq_length 32 --train_batch_size 8 --no-costs",
    "pregenerate_training_data.py": "--max_seq_len 32 --num_workers 1 --line_filter off --epochs_to_generate 1",
    "data_augmentation.py": "--N 1 --output OUT.tsv",
}
#: A call of each script, that its flags are appended to.
_CALL = {
    "train_t5.py": "--dataset sst2 --model-config T5 --data-path GLUE --distil task-hidden --output-path OUT",
    "general_distill.py": "--pregenerated_data TEXT --teacher_model BERT --student_model BERT --output_dir OUT",
    "task_distill.py": "--data_dir GLUE --task_name sst2 --teacher_model TEACHER --student_model BERT --output_dir OUT",
    "run_glue.py": "--model_name_or_path TEACHER --task_name SST-2 --do_eval --data_dir GLUE --output_dir OUT",
    "pregenerate_training_data.py": "--train_corpus CORPUS --bert_model BERT --output_dir OUT",
    "data_augmentation.py": "--pretrained_bert_model BERT --glue_dir GLUE --task_name SST-2 --output OUT.tsv",
    "run_minidisc_cls.py": "--mode minidisc --teacher_model SORTED --task_name mrpc --data_dir GLUE --output_dir OUT",
}
#: The script whose flags a section's prose names.
_OF_SECTION = {"Variator": "train_t5.py", "Xcompression": "general_distill.py", "MiniDisc": "run_minidisc_cls.py"}
_PLACEHOLDER = re.compile(
    r"\b(BERT|T5|TEACHER|SORTED|STUDENT|EDITED|TEXT|CORPUS|GLUE|GLOVE|SQUAD|CHECKPOINT|RUN|OUT)\b"
)


@dataclass(frozen=True)
class Row:
    """A row of a table: its section, the head of its first column, and its two cells."""

    section: str
    head: str
    there: str
    here: str

    @property
    def is_same(self) -> bool:
        """Whether what stands on the left is run here."""
        return self.here.startswith(("the same", "accepted with one line")) and "the same call" not in self.there

    def spans(self) -> list[str]:
        """The pieces of code that are ours to run."""
        return code(self.here) if not self.is_same else [*code(self.there), *code(self.here)]

    def commands(self) -> list[str]:
        """Those that are complete commands."""
        starts = ("bash ", "python", "torchrun ", "mpirun ", "CUDA_VISIBLE_DEVICES=", "train_t5.py ")
        full = [span for span in self.spans() if span.startswith(starts)]
        return [s for s in full if s.startswith("bash ") or _PLACEHOLDER.search(s) or any(f in s for f in _FETCH)]

    def flags(self, cell: str) -> list[str]:
        """The pieces of a cell that are flags."""
        return [span for span in code(cell) if re.match(r"--?[a-z_A-Z]", span)]


def code(cell: str) -> list[str]:
    """The pieces of code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def rows() -> Iterator[Row]:
    """All rows of the page."""
    section = head = ""
    for line in (ROOT / "docs" / "moving.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section, head = line[3:].split()[0], ""
        elif not line.startswith("|"):
            head = ""
        elif not set(line) <= set("|- "):
            there, here = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:3])
            if head:
                yield Row(section, head, there, here)
            else:
                head = there


ROWS = list(rows())
COMMANDS = [(row, command) for row in ROWS if not row.head.startswith("flags") for command in row.commands()]
PYTHON = [command for _, command in COMMANDS if not command.startswith("bash ")]
SHELL = sorted({command for _, command in COMMANDS if command.startswith("bash ")})
FLAGS = [row for row in ROWS if row.head.startswith("flags") or not row.commands()]


def script_of(command: str) -> tuple[str, list[str]]:
    """The script or module of a command, and its arguments, whatever starts it."""
    words = shlex.split(command)
    for i, word in enumerate(words):
        if word.endswith(".py"):
            return word, words[i + 1 :]
        if words[i - 1] == "-m" and i and not word.startswith("torch"):
            return word, words[i + 1 :]
    raise AssertionError(command)


def python_cases() -> list[Any]:
    """The first command of each script in every run of the tests, the others in the slow ones."""
    seen: set[str] = set()
    found = []
    for command in dict.fromkeys(PYTHON):
        script, _ = script_of(command)
        found.append(pytest.param(command, marks=[pytest.mark.slow] if script in seen else []))
        seen.add(script)
    return found


class Places:
    """Small models and data for every name in capitals."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, 0
        save_bert(root / "BERT", layers=2)
        backbone(root / "T5")
        edit_config(shutil.copytree(root / "BERT", root / "EDITED"), rank_layer=8, rank_condim=16, rank_dim=16)
        write_glue(root / "GLUE")
        (root / "datasets").symlink_to("GLUE")
        write_entities(root / "GLUE" / "conll")
        write_squad(root / "SQUAD")
        write_epochs(root / "TEXT", epochs=2)
        text = "\n\n".join(["this film is good\nthe plot of it is bad and dull"] * 12)
        for folder in ("CORPUS", "data/corpus"):
            (root / folder).mkdir(parents=True)
            (root / folder / "corpus.txt").write_text(text)
        (root / "data/corpus/enwiki-latest-pages-articles.xml.bz2").write_bytes(b"BZh9")
        (root / "data/corpus/WikiExtractor.py").write_text("print()\n")
        (root / "GLOVE").write_text("good 0.1 0.2\nbad 0.2 0.1\nfilm 0.3 0.3\nplot 0.3 0.4\n")
        convert_t5.to_model_center(root / "T5", root / "CHECKPOINT")
        student = AutoModel.from_pretrained(root / "BERT")
        apply_edit(student, DecompositionConfig(rank_layer=8, rank_condim=16, rank_dim=16))
        student.save_pretrained(root / "STUDENT")
        tiny_word_pieces().save_pretrained(root / "STUDENT")
        place = f"--task_name sst2 --data_dir {root / 'GLUE'} {_SHORT['task_distill.py']}"
        for words in (
            f"--mode finetune --teacher_model {root / 'BERT'} --output_dir {root / 'TEACHER'}",
            f"--mode sparsify --teacher_model {root / 'TEACHER'} --output_dir {root / 'SORTED'}",
        ):
            run_task(f"{words} {place}".split())
        (root / "RUN").symlink_to("TEACHER")

    def words(self, text: str | Sequence[str]) -> list[str]:
        """A command line with paths for the names; OUT is a new folder."""
        given = text.split() if isinstance(text, str) else text
        out = self.root / f"out-{self.count}"
        return [_PLACEHOLDER.sub(lambda m: str(out if m[1] == "OUT" else self.root / m[1]), word) for word in given]

    def run(self, script: str, arguments: Sequence[str]) -> None:
        """A script of the root, or a module, as the command line starts it."""
        from accelerate.state import AcceleratorState

        self.count += 1
        AcceleratorState._reset_state()  # a process is made for one run: it would refuse another precision
        before = sys.argv
        sys.argv = [script, *self.words(arguments)]
        try:
            if script.endswith(".py"):
                runpy.run_path(str(ROOT / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__")
        except SystemExit as stopped:
            assert stopped.code in (0, None), f"exit code {stopped.code}"
        finally:
            sys.argv = before
            release_all()

    def parsed(self, script: str, arguments: Sequence[str]) -> dict[str, Any]:
        """All values of a call, by field name; scripts without a parser of their own are run."""
        words = self.words(arguments)
        if script == "run_glue.py":
            words = runpy.run_path(str(ROOT / script))["as_task_distill"](words)
        if script == "train_t5.py":
            groups: Any = parse_arguments(words)
        elif script == "general_distill.py":
            groups = parse_general_arguments(words)
        elif script in ("pregenerate_training_data.py", "data_augmentation.py"):
            self.run(script, [*_SHORT[script].split(), *arguments])
            return {}
        else:
            groups = parse_task_arguments(words)[1][0]
        return {name: value for group in groups for name, value in vars(group).items()}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Made once."""
    return Places(tmp_path_factory.mktemp("moving"))


def test_every_row_has_something_to_run() -> None:
    """A command or a flag, but for the rows that are named above; all three originals have both kinds of tables."""
    idle = [row.there for row in ROWS if not row.commands() and not row.flags(row.here) and not row.is_same]
    assert len(idle) == len(PROSE) and all(there.startswith(PROSE) for there in idle), idle
    for section in ("Variator", "Xcompression", "MiniDisc"):
        assert {row.head.startswith("flags") for row in ROWS if row.section == section} == {True, False}


@pytest.mark.parametrize("command", python_cases())
def test_a_command_runs(places: Places, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started as it is printed, on tiny models and for one step."""
    monkeypatch.chdir(places.root)
    script, arguments = script_of(command)
    if script in _FETCH:
        places.run(script, [*arguments, "--help"])
        return
    name = script.removeprefix("utils.").removesuffix(".py") + ".py"
    short = _SHORT.get(name, "").split()
    if name == "train_t5.py" and "squad" in command:
        short += ["--no-costs"]
    places.run(script, [*arguments, *short])
    out = places.root / f"out-{places.count}"
    assert out.is_dir() or Path(f"{out}.tsv").is_file() or "data_augmentation" in command


@pytest.mark.parametrize("command", SHELL)
def test_a_launcher_prints_its_plan(repository: Path, command: str) -> None:
    """With --dry-run, in a copy of the repository."""
    shutil.copytree(ROOT / "scripts", repository / "scripts", symlinks=True, dirs_exist_ok=True)
    for name in ("bert_scripts", "t5_scripts"):
        (repository / name).symlink_to(f"scripts/{name}")
    _, script, *words = shlex.split(command)
    done = launch(repository, f"../{script}", *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\+ python (task_distill|train_t5)\.py ", done.stdout, re.M), done.stdout


@pytest.mark.parametrize("row", FLAGS, ids=lambda row: row.there[:40])
def test_flags_are_understood(
    places: Places, row: Row, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each alone behind a complete call; where another one is named here, it sets the same values."""
    monkeypatch.chdir(places.root)
    script = code(row.head)[0] if row.head.startswith("flags") else _OF_SECTION[row.section]

    def values(flag: str) -> dict[str, Any]:
        call = _CALL[script]
        if "--layer_or_sparsity" in flag:
            mode = "maxidisc" if "_path" in flag else "distill"
            call = call.replace("--mode minidisc", f"--mode {mode}")
        if re.search("--ops|--rank_|--use_swap", flag):
            call += " --use_swap"
        if "--init_from_teacher" in flag:
            call = call.replace("--student_model BERT ", "")
        if "--resume" in flag:
            call = call.replace("OUT", "TEACHER")
        return places.parsed(script, [*call.split(), *shlex.split(flag)])

    there = [values(flag) for flag in row.flags(row.there)] if row.head.startswith("flags") else []
    told = capsys.readouterr().err
    here = [values(flag) for flag in row.flags(row.here)]
    if row.here.startswith("accepted with one line"):
        for flag in row.flags(row.there):
            name = flag.split()[0].lstrip("-").replace("_", "-")
            assert "local-rank" in name or f"--{name} has no effect" in told.replace("_", "-"), flag
    elif row.here.startswith("`-") and len(here) == 1:
        assert all(found == here[0] for found in there)
