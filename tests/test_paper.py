"""`python -m utils.paper`: the grids' stages, what they are compared with, and one grid that is really run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import helpers_report as made
from tests.test_command_lines import ask
from tests.tiny import Tiny
from tests.tiny_bert import TinyBert
from utils.paper import claims, minidisc, stages, timing, tucker, variator
from utils.paper.__main__ import main, parse, request_of, tables
from utils.paper.arguments import GRIDS
from utils.paper.stages import Stage, Work, plan
from utils.tucker.task_arguments import parse_task_arguments

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    return TinyBert(tmp_path_factory.mktemp("bert"))


def words_of(paper: str, tiny: Tiny, bert: TinyBert, output: Path) -> list[str]:
    """The smallest grid of a paper."""
    small = ["--tasks", "sst2", "--seeds", "1", "--output", str(output)]
    if paper == "variator":
        return [paper, "--data", str(tiny.glue), "--backbone", str(tiny.model), "--text", str(tiny.corpus), *small]
    text = ["--text", str(bert.text)] if paper == "tucker" else []
    return [paper, "--data", str(bert.glue), "--backbone", str(bert.model), *text, *small]


def test_an_estimate_lists_every_stage_and_runs_none(
    tiny: Tiny, bert: TinyBert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All papers: commands, an estimate in total and how it was made; nothing is written."""
    for paper, count in (("variator", 4), ("tucker", 5), ("minidisc", 5)):
        output = tmp_path / paper
        main([*words_of(paper, tiny, bert, output), "--estimate", "--length", "16", "--threads", "1"])
        told = capsys.readouterr().out
        assert len(re.findall(r"^  python (?:train_t5|general_distill|task_distill)\.py ", told, re.M)) == count, told
        assert re.search(rf"{count} stages, about [\d.]+ (seconds|minutes|hours|days) on this machine\n", told)
        assert "Estimate: a forward and backward pass" in told
        assert not output.exists()


def test_a_dry_run_lists_every_stage_without_the_libraries(tiny: Tiny, bert: TinyBert, tmp_path: Path) -> None:
    """All papers in one process: commands and rows; neither torch nor Transformers is loaded, nothing is written."""
    small = ("--dry-run", "--length", "16", "--epochs", "2", "--batch-size", "8")
    papers = (("variator", 4), ("tucker", 5), ("minidisc", 5))
    commands = [("utils.paper", [*words_of(paper, tiny, bert, tmp_path / "out"), *small]) for paper, _ in papers]
    answers, loaded = ask(commands)
    assert loaded == []
    for (_, count), (code, told, errors) in zip(papers, answers, strict=True):
        assert code in (0, None) and errors == "", errors
        assert len(re.findall(r"^  python (?:train_t5|general_distill|task_distill)\.py ", told, re.M)) == count, told
        assert re.search(r": [\d,]+ rows of at most 16 tokens\n", told), told
        assert f"{count} stages; --estimate tells" in told or f"{count} stages, and 1 of unknown length" in told, told
    assert not (tmp_path / "out").exists()


def test_one_slow_step_does_not_change_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps are not timed, and of the others the median counts."""
    durations = iter([50.0, 9.0, 2.0, 2.0, 90.0, 2.0, 1.0])
    clock = [0.0]
    monkeypatch.setattr(timing.time, "process_time", lambda: clock[0])

    def once() -> None:
        clock[0] += next(durations)

    assert timing._seconds(once, "cpu", threads=2) == 1.0
    assert next(durations, None) is None


@pytest.mark.parametrize("paper", ["tucker", "minidisc"])
def test_length_beyond_the_positions_is_refused_in_a_dry_run(
    paper: str, bert: TinyBert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence with both numbers instead of an estimate."""
    with pytest.raises(SystemExit) as stopped:
        main([*words_of(paper, None, bert, tmp_path), "--dry-run", "--length", "4096", "--threads", "1"])  # type: ignore[arg-type]
    told = capsys.readouterr()
    assert stopped.value.code == 2 and "stages, about" not in told.out
    assert re.search(
        r"--max_seq_length: inputs of 4096 tokens are longer than the \d+ positions of --backbone", told.err
    )


def test_estimate_is_rows_times_the_time_of_a_row() -> None:
    """Passes count; what is done or only evaluates takes nothing; unknown data are counted as unknown."""
    here = Path("nowhere")
    work = [Work(100, 64), Work(50, 128, 2.0), None, Work(None, 8)]
    lines = plan([Stage(here, ["a.py"], part) for part in work], lambda length: length / 64)
    assert [line.split(": ", 1)[1] for line in lines[:8:2]] == [
        "about 100.0 seconds", "about 3.3 minutes", "an evaluation", "unknown: its data are not there"
    ]  # fmt: skip
    assert lines[8] == "4 stages, about 5.0 minutes on this machine, and 1 of unknown length"
    assert stages.rows_of({"batch-size": 8, "epochs": 2}, 17) == 48
    assert stages.rows_of({"batch-size": 8, "epochs": 2, "training-step": 5}, 17) == 40


def test_recipe_of_variator_is_that_of_the_launchers() -> None:
    """scripts/settings.sh and the grid say the same for every stage and dataset."""
    for stage in ("plugin", "finetune", "adapt"):
        for task in GRIDS["variator"].tasks:
            show = 'source scripts/settings.sh; stage_settings "$1" base "$2"; echo "$TOTAL_BATCH ${SETTINGS[*]}"'
            done = subprocess.run(["bash", "-c", show, "bash", stage, task], cwd=ROOT, capture_output=True, text=True)
            batch, *words = done.stdout.split()
            theirs = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}
            theirs = {"batch-size": batch, **theirs}
            theirs.pop("random-seed")
            ours = variator.recipe(stage, task)
            assert theirs.keys() == ours.keys(), (stage, task)
            for name, value in theirs.items():
                same = value == str(ours[name]) or float(value) == float(ours[name])
                assert same, (stage, task, name)


def test_calls_of_task_distill_are_understood(bert: TinyBert, tmp_path: Path) -> None:
    """The script parses every call of both grids, and counts the epochs that the estimate counts."""
    for paper in ("tucker", "minidisc"):
        given = request_of(parse([*words_of(paper, None, bert, tmp_path)]))  # type: ignore[arg-type]
        for stage in {"tucker": tucker, "minidisc": minidisc}[paper].stages(given):
            script, *words = stage.words
            if script == "task_distill.py":
                found, commands = parse_task_arguments([str(word) for word in words])
                assert found.evaluate and commands[0].run.random_seed == 1


def test_ranks_follow_the_backbone(tmp_path: Path) -> None:
    """BERT-base has the published ones."""
    made.write(
        tmp_path / "config.json",
        {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
    )
    assert list(tucker.ranks_of(str(tmp_path), "1/7").values()) == [72, 384, 384]
    assert list(tucker.ranks_of(str(tmp_path), "1/48").values()) == [36, 200, 200]


def grid(paper: str, output: Path, *more: str) -> Any:
    return request_of(parse([paper, "--data", "d", "--backbone", "b", "--output", str(output), *more]))


def test_claims_are_judged_by_what_was_measured(tmp_path: Path) -> None:
    """Ours stand beside the paper's; on either side of the bound; what was not measured is neither."""
    request = grid("variator", tmp_path, "--tasks", "sst2", "--seeds", "1", "2")
    assert tables("variator", request) == ["nothing of this grid is there yet"]
    for seed, four in ((1, 0.79), (2, 0.81)):
        rows = [
            {"ratio": 1, "accuracy": 0.8, "num_params": 1000, "encoder_macs": 100.0},
            {"ratio": 4, "accuracy": four, "num_params": 1009},
        ]
        folder = tmp_path / f"sst2-{seed}" / "valid"
        made.write(folder / "result.json", {"mode": "valid", "dataset": "sst2", "metric": "accuracy", "rows": rows})
    lines = tables("variator", request)
    assert "| sst2 | k=4 | accuracy | 0.800 ± 0.000 | 0.800 ± 0.014 | 100.0% | 2 |" in lines
    verdicts = {line.split(" | ")[0][2:]: line.split(" | ")[-2:] for line in lines if "announced" in line}
    assert [cells[1].strip(" |") for cells in verdicts.values()] == ["yes", "yes", "not measured"]
    drop = claims.CLAIMS["variator"][0]
    assert drop.is_reached(0.02) and not drop.is_reached(0.021)
    kept = claims.CLAIMS["tucker"][2]
    assert kept.is_reached(0.957) and not kept.is_reached(0.956)


def test_minidisc_is_compared_by_task_and_seed(tmp_path: Path) -> None:
    """A seed that lacks one of the two schedules is left out of the difference."""
    for seed, mini, maxi in ((1, 0.7, 0.75), (2, None, 0.9)):
        root = tmp_path / f"sst2-{seed}"
        for name, value in (("teacher", 0.9), ("90-MiniDisc", mini), ("90-MaxiDisc", maxi)):
            if value is not None:
                made.write(root / name / "evaluation.json", made.evaluation("sst2", "pruning", value, None, 1))
    request = grid("minidisc", tmp_path, "--tasks", "sst2", "--seeds", "1", "2")
    found = minidisc.measured(minidisc.reached(request))
    assert found == {"gap 90": [pytest.approx(-0.05)]}
    assert tables("minidisc", request)[-2].endswith("| -5 % (n = 1) | no |")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["variator", "--scales", "1", "--text", "t"], "--scales 1: expected ratios"),
        (["variator"], "--text is required"),
        (["tucker", "--scales", "1/9", "--text", "t"], "--scales 1/9: expected some of 1/7, 1/48"),
        (["tucker", "--text", "t"], "nowhere does not exist"),
        (["minidisc", "--scales", "55"], "--scales 55: expected sparsities"),
        (["minidisc", "--epochs", "0"], "--num_train_epochs must be at least 1, found 0"),
    ],
)
def test_mistakes_are_told(words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit code 2."""
    paper, *more = words
    with pytest.raises(SystemExit) as stopped:
        main([paper, "--data", "d", "--backbone", str(tmp_path / "nowhere"), *more, "--dry-run"])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paper", "stages_run", "row", "claim"),
    [
        ("variator", 4, "| sst2 | k=4 | accuracy |", "| metric lost at k = 4"),
        ("tucker", 5, "| sst2 | 1/48 | accuracy |", "| latency, dense over student, at 1/48 |"),
        ("minidisc", 5, "| sst2 | 90S MiniDisc | accuracy |", "| metric of MiniDisc less"),
    ],
)
def test_tiny_grid_is_run_and_then_skipped(
    paper: str,
    stages_run: int,
    row: str,
    claim: str,
    tiny: Tiny,
    bert: TinyBert,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A paper's grid with two steps per stage ends in both tables; a second call runs nothing and says the same."""
    words = [*words_of(paper, tiny, bert, tmp_path / "grid"), "--threads", "1"]
    words += ["--training-step", "2", "--batch-size", "4", "--length", "32", "--epochs", "1"]
    main(words)
    first = capfd.readouterr().out
    assert row in first and claim in first, first[-3000:]
    assert "not the paper's recipe: --epochs 1" in first
    main(words)
    again = capfd.readouterr().out
    assert again.count("skipped") == stages_run and "+ python" not in again
    assert again[again.index("| task | model") :] == first[first.index("| task | model") :]
