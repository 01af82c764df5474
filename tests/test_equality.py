"""Two processes against one with the same rows per step, for each entry script and engine.

Losses and weights are equal up to the order of summation, metrics of evaluation exactly. Without dropout, since each
process draws numbers of its own. All runs of two processes are made by the same pair, one after the other.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_engines import assert_equal_runs
from tests.helpers_minidisc import write_entities
from tests.helpers_ranks import SCRIPTS, run_ranks, run_several
from tests.tiny import Tiny, write_sst2
from tests.tiny_bert import TinyBert, save_bert, tiny_word_pieces, write_epochs
from utils.tucker.loading import load_classifier
from utils.tucker.tasks import task_for

pytestmark = pytest.mark.usefixtures("one_thread")
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class World:
    """Models without dropout and data whose sizes divide by nothing."""

    def __init__(self, tiny: Tiny, root: Path) -> None:
        self.root, self.tiny, self.bert = root, tiny, TinyBert(root / "bert-data")
        self.model = save_bert(root / "bert", layers=4, **NO_DROPOUT)
        self.student = save_bert(root / "student", layers=2, seed=1, **NO_DROPOUT)
        write_sst2(root / "glue", train=27, valid=11)
        write_sst2(root / "bert-glue", train=29, valid=11)
        for task in ("sst2", "conll"):
            # It has learnt nothing, and teaches as well as any.
            load_classifier(str(self.model), task_for(task), trained=False).save_pretrained(root / f"teacher-{task}")
            tiny_word_pieces().save_pretrained(root / f"teacher-{task}")
        self.text = write_epochs(root / "text", epochs=1, rows=23)
        self.entities = write_entities(root / "entities", count=25)

    def t5(self, dataset: str, *more: object) -> Callable[[Path, int], list[object]]:
        """Batches of four rows in total."""
        made = {"sst2": self.tiny.sst2, "wiki": self.tiny.wiki, "squad": self.tiny.qa}[dataset]
        data = ("--data-path", self.root / "glue") if dataset == "sst2" else ()
        return lambda output, processes: [*made(output, *more), *data, "--batch-size", 4 // processes]

    def general(self, *more: object, rows: int = 4) -> Callable[[Path, int], list[object]]:
        """Steps of `rows` rows in total."""
        fixed = ("--teacher_model", self.model, "--student_model", self.student, "--pregenerated_data", self.text)
        return lambda output, processes: [
            *self.bert.general(output, *fixed, *more),
            *("--train_batch_size", rows // processes, "--num_train_epochs", 2, "--eval_batch_size", 4 // processes),
        ]

    def task(self, *more: object, rows: int = 4, task: str = "sst2") -> Callable[[Path, int], list[object]]:
        """Steps of `rows` rows in total."""
        data = self.entities if task == "conll" else self.root / "bert-glue"
        return lambda output, processes: [
            *self.bert.task(output, *more, task=task),
            *(
                "--data_dir",
                data,
                "--train_batch_size",
                rows // processes,
                "--num_train_epochs",
                2,
                "--eval_batch_size",
                4 // processes,
            ),
        ]


@dataclass(frozen=True)
class Case:
    """A run: the script, and its flags for an output folder and a number of processes."""

    script: str
    flags: Callable[[Path, int], list[object]]

    def command(self, output: Path, processes: int, *more: object) -> str:
        """One line for `run_several`."""
        return shlex.join(map(str, [self.script, *self.flags(output, processes), *more]))


#: A matrix bank that all layers share.
BANK = ("--use_swap", "--rank_layer", 5, "--rank_condim", 10, "--rank_dim", 9)
PLUGINS = ("--distil", "task-hidden", "--mux-num", 2, 4, "--residual-scale", 1)


def cases(world: World) -> dict[str, Case]:
    """Every entry script with accumulation 1 and 3, and every kind of loss."""
    student, source = ("--student_model", world.student), ("--teacher_model", world.model)
    teacher, tagger = (("--teacher_model", world.root / f"teacher-{task}") for task in ("sst2", "conll"))
    three = ("--gradient_accumulation_steps", 3)
    return {
        "t5": Case("train_t5", world.t5("sst2", "--epochs", 2)),
        "t5-plugins-accumulated": Case("train_t5", world.t5("sst2", *PLUGINS, "--grad-accumulation", 3)),
        "t5-corpus-streamed": Case("train_t5", world.t5("wiki", *PLUGINS)),
        "t5-answers-accumulated": Case("train_t5", world.t5("squad", "--grad-accumulation", 3)),
        "general": Case("general_distill", world.general()),
        "general-accumulated": Case("general_distill", world.general(*three, *BANK, rows=12)),
        "task-finetune-accumulated": Case("task_distill", world.task("--mode", "finetune", *source, *three, rows=12)),
        "task-intermediate": Case("task_distill", world.task("--stage", "intermediate", *teacher, *student)),
        "entities-finetune": Case("task_distill", world.task("--mode", "finetune", *source, task="conll")),
        "entities-prediction": Case(
            "task_distill", world.task("--stage", "prediction", *tagger, *student, task="conll")
        ),
    }


#: Every script with accumulation 1 and 3; the rest takes longer.
FAST = (
    *("t5", "t5-plugins-accumulated", "general", "general-accumulated"),
    *("task-intermediate", "task-finetune-accumulated"),
)
SLOW = ("t5-corpus-streamed", "t5-answers-accumulated", "entities-finetune", "entities-prediction")
ENGINES = ("ddp", "fsdp")


class Runs:
    """Directories of runs, by name of the case."""

    def __init__(self, root: Path, all_cases: dict[str, Case]) -> None:
        self.root, self.cases = root, all_cases

    def one(self, name: str) -> Path:
        """Made at the first use."""
        output = self.root / "one" / name
        if not output.exists():
            script, *arguments = shlex.split(self.cases[name].command(output, 1))
            SCRIPTS[script](arguments)
        return output

    def two(self, name: str, engine: str) -> Path:
        """All of the fast ones, or of the slow ones, are made at the first use of one."""
        together = FAST if name in FAST else SLOW
        output = self.root / engine / name
        if not output.exists():
            commands = [self.cases[n].command(self.root / e / n, 2, "--engine", e) for e in ENGINES for n in together]
            ended = run_ranks(commands, self.root / f"output-{together[0]}", script=run_several)
            assert ended.codes == [0, 0], ended.errors
        return output


@pytest.fixture(scope="module")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("equality")
    return Runs(root, cases(World(tiny, root / "world")))


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_equal_one(engine: str, name: str, runs: Runs) -> None:
    """Every step's loss and gradient norm, the final weights, and the metrics."""
    assert set(runs.cases) == {*FAST, *SLOW}
    assert_equal_runs(runs.two(name, engine), runs.one(name))
