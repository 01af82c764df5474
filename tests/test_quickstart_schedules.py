"""The quickstart's table of schedules: every trial with its metric and seconds, and what each method took in all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.errors import UserError
from utils.quickstart_schedules import compared, read_schedules, schedule_table

PATHS = {"paths": {"60S-90S": 0.9, "80S-90S": 0.8}, "path_seconds": {"60S-90S": 5.04, "80S-90S": 4.0}}


def schedule(folder: Path, **values: Any) -> Path:
    """A folder with a schedule.json."""
    folder.mkdir(exist_ok=True)
    (folder / "schedule.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_every_path_has_a_line_and_the_search_the_sum_of_its_distillations(tmp_path: Path) -> None:
    folder = schedule(tmp_path, best_value=0.9, train_seconds=9.04, best_path="60S-90S", **PATHS)
    assert schedule_table("accuracy", read_schedules("maxidisc", folder)).lines == [
        ["schedule", "accuracy", "distillations", "training (s)"],
        ["over 60S", "0.900", "2", "5.0"],
        ["over 80S", "0.800", "2", "4.0"],
        ["maxidisc, which kept that over 60S", "0.900", "4", "9.0"],
    ]


def test_what_paths_share_is_one_distillation(tmp_path: Path) -> None:
    shared = {"paths": {"50S-90S": 0.8, "50S-80S-90S": 0.9}, "path_seconds": {"50S-90S": 2.0, "50S-80S-90S": 3.0}}
    folder = schedule(tmp_path, best_value=0.9, train_seconds=4.0, best_path="50S-80S-90S", **shared)
    _, longer, every = read_schedules("maxidisc", folder)
    assert (longer.name, longer.distillations) == ("over 50S and 80S", 3)
    assert (every.name, every.distillations) == ("maxidisc, which kept that over 50S and 80S", 4)


def test_a_single_distillation_and_a_choice_are_a_line_each(tmp_path: Path) -> None:
    """A folder without a schedule, such as a teacher, adds none."""
    once = {"paths": {"90S": 0.7}, "path_seconds": {"90S": 2.0}, "best_path": "90S"}
    folder = schedule(tmp_path / "a", best_value=0.7, train_seconds=2.0, **once)
    chosen = {"iterations": [{"written": "70S"}, {"written": "90S"}]}
    other = schedule(tmp_path / "b", best_value=0.95, train_seconds=6.0, **chosen)
    found = [*read_schedules("conventional", folder), *read_schedules("minidisc", other)]
    assert [(one.name, one.metric, one.distillations, one.train_seconds) for one in found] == [
        ("conventional", 0.7, 1, 2.0),
        ("minidisc, which chose 70S", 0.95, 2, 6.0),
    ]
    assert read_schedules("teacher", tmp_path) == []
    text = schedule_table("accuracy", found).markdown().splitlines()
    assert text[1] == "|---|---:|---:|---:|" and text[3] == "| minidisc, which chose 70S | 0.950 | 2 | 6.0 |"


def test_the_choice_is_held_against_the_search_and_against_its_assistants(tmp_path: Path) -> None:
    """Whichever is better; without one of them nothing is said."""
    search = read_schedules(
        "maxidisc", schedule(tmp_path / "a", best_value=0.9, train_seconds=9.0, best_path="60S-90S", **PATHS)
    )
    chosen = {"iterations": [{"written": "60S"}, {"written": "90S"}]}
    choice = read_schedules("minidisc", schedule(tmp_path / "b", best_value=0.88, train_seconds=6.3, **chosen))
    told = compared("accuracy", [*search, *choice])
    assert told.startswith("The choice took 70% of the search's time. Its accuracy is -0.020 beside the best")
    assert "+0.030 beside the mean over its 2 assistants" in told
    assert compared("accuracy", search) == compared("accuracy", choice) == ""


@pytest.mark.parametrize("lacking", ["path_seconds", "best_value", "best_path"])
def test_a_schedule_without_its_times_is_one_sentence(tmp_path: Path, lacking: str) -> None:
    values = {"best_value": 0.9, "train_seconds": 9.0, "best_path": "60S-90S", **PATHS}
    del values[lacking]
    with pytest.raises(UserError, match=f"holds no schedule with its times .no '{lacking}'.; run it again"):
        read_schedules("maxidisc", schedule(tmp_path, **values))
