"""What `--help` of the two distillation scripts says, and shared flags that would be ignored."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from utils.errors import UserError
from utils.tucker.general_arguments import parse_general_arguments
from utils.tucker.task_arguments import parse_task_arguments

Parse = Callable[[Sequence[str]], Any]
each_script = pytest.mark.parametrize("parse", [parse_task_arguments, parse_general_arguments])
TASK = "--task_name mrpc --data_dir d --teacher_model t --student_model s --output_dir o"
GENERAL = "--pregenerated_data p --teacher_model t --student_model s --output_dir o"


@each_script
def test_help_has_no_noise(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    """Each flag in one spelling and once; no defaults that say nothing; nothing of T5; no flag without effect."""
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out.split("\noptions:")[1]
    for noise in ("(default: None)", "(default: False)", "T5,", "for T5", "10000000", "num_workers", "micro-batch"):
        assert noise not in shown, noise
    lines = [line for line in shown.splitlines() if line.startswith("  --")]
    names = [name for line in lines for name in re.findall(r"--[\w-]+", line[2:].split("  ")[0])]
    assert len(names) == len(set(names)) and not [name for name in names if "-" in name[2:]]
    assert "--output_dir OUTPUT_DIR" in shown and "output_path" not in shown and "eval_step" not in shown


def test_switching_off_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """--no_costs does not repeat the text of --costs."""
    with pytest.raises(SystemExit):
        parse_task_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--no_costs The opposite of --costs." in shown and shown.count("Measure parameters, MACs and latency") == 1


@pytest.mark.parametrize(
    ("parse", "words", "message"),
    [
        (parse_task_arguments, f"{TASK} --num_workers 2", "--num_workers is for streamed corpora"),
        (parse_task_arguments, f"{TASK} --valid_batches 3", "--valid_batches is for text"),
        (parse_general_arguments, f"{GENERAL} --num_workers 2", "--num_workers is for streamed corpora"),
    ],
)
def test_flags_without_effect_are_refused(parse: Parse, words: str, message: str) -> None:
    """Shared with train_t5.py, where they have one."""
    with pytest.raises(UserError, match=message):
        parse(words.split())
