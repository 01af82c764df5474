"""Numbers that are not finite: never the best model, never a prediction, never in JSON."""

from __future__ import annotations

import ast
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from model import ModelError
from model.finite import NotFiniteError, check_outputs, check_weights
from tests.helpers_engine import Bench
from tests.tiny import Tiny, run
from tests.tiny_bert import TinyBert, run_task
from utils.checksums import CHECKSUMS_FILE
from utils.engine import RunLog, TrainerConfig
from utils.engine.checkpoint import list_checkpoints
from utils.errors import UserError
from utils.writing import to_json, write_json

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")


def strictly(text: str) -> Any:
    """JSON as any other reader takes it."""

    def refused(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refused)


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_json_has_null_for_what_is_not_finite(value: float, tmp_path: Path) -> None:
    """At any depth, in files and in metrics.jsonl; other values stay as they are."""
    nested = {"a": value, "b": [1.5, (value, {"c": value})], "d": "NaN", "e": None, "f": 7, "g": True}
    expected = {"a": None, "b": [1.5, [None, {"c": None}]], "d": "NaN", "e": None, "f": 7, "g": True}
    assert strictly(to_json(nested)) == expected
    write_json(tmp_path / "new" / "a.json", nested)
    assert strictly((tmp_path / "new" / "a.json").read_text()) == expected
    log = RunLog(tmp_path)
    log.metrics("train", 1, {"loss": value, "lr": 0.5})
    log.close()
    assert strictly((tmp_path / "metrics.jsonl").read_text()) == {"split": "train", "step": 1, "loss": None, "lr": 0.5}


def test_every_writer_of_json_refuses_not_a_number() -> None:
    """`json.dump` and `json.dumps` stand nowhere in the repository without `allow_nan=False`."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if {".venv", "tests"} & {*path.relative_to(ROOT).parts}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in ("json.dump", "json.dumps"):
                continue
            if "allow_nan=False" not in ast.unparse(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_an_evaluation_that_is_not_finite_ends_the_run(bad: float, tmp_path: Path) -> None:
    """The best and the checkpoint of before stay; one sentence says what became what, and where to go on."""
    bench = Bench(tmp_path / "run")
    trainer = bench.trainer(TrainerConfig(epochs=3, lr=0.1, valid_step=4), scores=(0.5, bad, 0.9))
    told = rf"^The evaluation's accuracy became {bad}, at step 8: resume with a lower --learning_rate; the newest "
    with pytest.raises(UserError, match=told + r"checkpoint is .*step-00000004\.$"):
        trainer.fit()
    assert bench.saved == [4] and (tmp_path / "run" / "best" / "config.json").read_text() == "4"
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000004"]


def test_any_number_of_an_evaluation_counts(tmp_path: Path) -> None:
    """A loss that is not a number beside a fine accuracy is the end as well, and so is an evaluation that refuses."""
    for number, evaluate in enumerate((lambda: {"accuracy": 1.0, "loss": math.nan}, _refuses)):
        bench = Bench(tmp_path / str(number))
        trainer = bench.trainer(TrainerConfig(epochs=1))
        trainer.evaluate = evaluate
        lower = r"nan.*: resume with a lower --learning_rate; there is no checkpoint yet\.$"
        with pytest.raises(UserError, match=lower):
            trainer.fit()
        assert not bench.saved and not (bench.path / "best").exists()


def _refuses() -> dict[str, float]:
    check_outputs(torch.tensor(math.nan), nn.Linear(2, 2))
    return {}


# --- models ----------------------------------------------------------------------------------------------------------


def test_the_tensor_is_named() -> None:
    """Parameters and buffers; where all are finite, the precision is to blame."""
    linear, norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
    module = nn.Sequential(linear, norm)
    check_outputs(torch.ones(3), module)
    check_weights(module)
    with pytest.raises(NotFiniteError, match=r"^The model gives inf, .*: all its weights are finite.* try fp32\.$"):
        check_outputs(torch.tensor([1.0, math.inf]), module)
    assert norm.running_mean is not None
    norm.running_mean[1] = -math.inf
    with pytest.raises(NotFiniteError, match=r"^runs/a gives nan, .*: its tensor 1\.running_mean holds -inf\.$"):
        check_outputs(torch.tensor([[math.nan]]), module, "runs/a")
    with torch.no_grad():
        linear.weight[1, 0] = math.nan
    with pytest.raises(NotFiniteError, match=r"its tensor 0\.weight holds nan\.$"):
        check_weights(module)


def spoiled(folder: Path, target: Path, part: str, value: float) -> str:
    """A copy of a saved model, with one number of the first tensor whose name holds `part` replaced; gives its name."""
    shutil.copytree(folder, target)
    (target / CHECKSUMS_FILE).unlink(missing_ok=True)
    state = load_file(target / "model.safetensors")
    name = next(name for name in state if part in name)
    state[name].view(-1)[0] = value
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return name


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """The tiny BERT and its data."""
    return TinyBert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def classifiers(tiny: Tiny, tiny_bert: TinyBert, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A BERT and a T5 that have been trained for two steps."""
    root = tmp_path_factory.mktemp("classifiers")
    run_task(tiny_bert.task(root / "bert", "--mode", "finetune", "--teacher_model", tiny_bert.model, "--max_steps", 2))
    run(tiny.sst2(root / "t5", "--training-step", 2))
    return {"bert": root / "bert" / "best", "t5": root / "t5" / "best"}


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("doing", ["--do_eval", "--do_predict"])
def test_a_bert_that_gives_no_numbers_is_refused(
    doing: str, value: float, classifiers: dict[str, Path], tiny_bert: TinyBert, tmp_path: Path
) -> None:
    """Evaluation and prediction name the tensor, and write nothing."""
    name = spoiled(classifiers["bert"], tmp_path / "m", "query.weight", value)
    with pytest.raises(ModelError, match=name.removeprefix("bert.")):
        run_task(tiny_bert.task(tmp_path / "out", doing, "--student_model", tmp_path / "m", "--no_costs"))
    assert not list((tmp_path / "out").rglob("*.json")) and not list((tmp_path / "out").rglob("*.tsv"))


def test_a_t5_that_gives_no_numbers_is_refused(classifiers: dict[str, Path], tiny: Tiny, tmp_path: Path) -> None:
    """In validation, on classes and on questions."""
    name = spoiled(classifiers["t5"], tmp_path / "m", "encoder.block.0", math.nan)
    for task in (tiny.sst2, tiny.qa):
        arguments = task(tmp_path / "out", "--mode", "valid", "--no-costs", "--checkpoint", tmp_path / "m")
        with pytest.raises(ModelError, match=name):
            run([*arguments, "--overwrite"])
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_rate_that_blows_up_the_model_leaves_no_best(tiny_bert: TinyBert, tmp_path: Path) -> None:
    """The last step's weights are only seen by the evaluation: no best model, and the sentence of bad steps."""
    more = ("--mode", "finetune", "--teacher_model", tiny_bert.model, "--max_steps", 2, "--learning_rate", "1e30")
    with pytest.raises(UserError, match=r"resume with a lower --learning_rate.*; there is no checkpoint yet\.$"):
        run_task(tiny_bert.task(tmp_path / "run", *more))
    assert not (tmp_path / "run" / "best").exists() and not (tmp_path / "run" / "checkpoints").exists()
    for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        strictly(row)
