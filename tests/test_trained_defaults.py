"""What learns decides the rate and the layers that are compared, where no flag does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.tucker.defaults import stage_defaults
from utils.tucker.general_arguments import parse_general_arguments
from utils.tucker.task_arguments import parse_task_arguments

_BASE = "--data_dir d --output_dir o --task_name"
#: config.json of students by name; a run has it in best/.
STUDENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "factors": {"compression": [{"kind": "decomposition"}]},
    "original": {"load_compressed_model": True},
    "told": {"load_compressed_model": True, "compression": [{"kind": "pruning"}]},
    "pruned": {"compression": [{"kind": "layer_drop"}, {"kind": "pruning"}]},
    "stack": {"compression": [{"kind": "pruning"}, {"kind": "decomposition"}]},
}


@pytest.fixture
def students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The students, each as a model's folder and as a run's."""
    for name, config in STUDENTS.items():
        for folder in (tmp_path / name, tmp_path / f"run-{name}" / "best"):
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    monkeypatch.chdir(tmp_path)


def rates(line: str) -> list[tuple[float, str]]:
    """Rate and compared layers of each stage of a call."""
    _, commands = parse_task_arguments(line.split())
    return [(command.optimisation.lr, command.bert.distill_layers) for command in commands]


@pytest.mark.usefixtures("students")
@pytest.mark.parametrize("prefix", ["", "run-"])
@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ("plain", [(5e-5, "last"), (3e-5, "last")]),
        ("factors", [(5e-4, "all"), (5e-4, "last")]),
        ("original", [(5e-4, "all"), (5e-4, "last")]),
        ("told", [(2e-4, "last"), (2e-4, "last")]),
        ("pruned", [(2e-4, "last"), (2e-4, "last")]),
        ("stack", [(5e-4, "all"), (5e-4, "last")]),
    ],
)
def test_a_students_config_decides(prefix: str, student: str, expected: list[tuple[float, str]]) -> None:
    """In both stages at once and one by one, of a model's folder and of a run's; a flag wins."""
    line = f"{_BASE} mrpc --teacher_model t --student_model {prefix}{student}"
    assert rates(f"{line} --stage both") == expected
    assert rates(line) == expected[:1] and rates(f"{line} --pred_distill") == expected[1:]
    assert rates(f"{line} --learning_rate 1e-5 --distill_layers last") == [(1e-5, "last")]


@pytest.mark.usefixtures("students")
@pytest.mark.parametrize("spelling", ["--use_swap", "--use-swap", "-use_swap"])
def test_a_decomposition_that_is_asked_for_decides(spelling: str) -> None:
    """--use_swap, in every spelling and in both scripts; a hub id is a dense model."""
    ranks = f"{spelling} --rank_layer 4 --rank_condim 8 --rank_dim 8"
    line = f"{_BASE} mrpc --teacher_model t --student_model plain {ranks}"
    assert rates(f"{line} --stage both") == [(5e-4, "all"), (5e-4, "last")]
    assert rates(f"{_BASE} mrpc --teacher_model t --student_model google/some-bert") == [(5e-5, "last")]
    general = "--pregenerated_data p --teacher_model t --output_dir o --student_model"
    for words, expected in (
        (f"plain {ranks}", (1e-3, "all")),
        ("factors", (1e-3, "all")),
        ("plain", (5e-5, "last")),
        (f"plain {ranks} --lr 1e-4 --distill_layers last", (1e-4, "last")),
    ):
        command = parse_general_arguments(f"{general} {words}".split())
        assert (command.optimisation.lr, command.bert.distill_layers) == expected
    assert parse_general_arguments(f"{general} plain --optimizer bertadam".split()).optimisation.clip_grad == 0.0


@pytest.mark.usefixtures("students")
def test_regression_of_factors_is_gentler() -> None:
    """On STS-B factors at 5e-4 learn a constant."""
    line = f"{_BASE} STS-B --teacher_model t --student_model factors --stage both"
    assert [rate for rate, _ in rates(line)] == [1e-4, 1e-4]


@pytest.mark.usefixtures("students")
@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        ("--mode minidisc", 2e-4),
        ("--mode distill --layer_or_sparsity 90S", 2e-4),
        ("--mode distill --layer_or_sparsity 4L", 2e-4),
        ("--mode distill --layer_or_sparsity 60r", 5e-4),
        ("--mode distill --layer_or_sparsity 4K", 1e-3),
        ("--mode maxidisc --layer_or_sparsity_path 30,60R", 5e-4),
        ("--mode minidisc --axis rank --target 60R", 5e-4),
        ("--mode minidisc --axis layers --target 4L", 2e-4),
        ("--mode distill --layer_or_sparsity factors", 5e-4),
        ("--mode distill --layer_or_sparsity plain", 3e-5),
        ("--mode finetune", 3e-5),
    ],
)
def test_schedules_have_the_rates_of_their_axes(flags: str, rate: float) -> None:
    """Pruned parts and layers, factors, plugins; a folder as student by what it is."""
    assert [found for found, _ in rates(f"{_BASE} mrpc --teacher_model plain {flags}")] == [rate]


def test_published_values_stay_reachable() -> None:
    """Those of TinyBERT's paper are the defaults of dense models, and can be given."""
    assert stage_defaults("mrpc", "intermediate")["lr"] == 5e-5
    assert stage_defaults("mrpc", "prediction")["lr"] == 3e-5
