"""A run that is resumed: paths are the places that they lead to, contents count, and a table says what may differ."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import Tiny, assert_same_tensors, run, tensors_under
from tests.tiny_bert import TinyBert, run_task
from utils.arguments import EvaluationArguments, OptimisationArguments, RunArguments
from utils.arguments.spellings import flag_named
from utils.engine import RunDirectory
from utils.engine.same_run import _NAMES, RULES
from utils.errors import UserError
from utils.lock import release_all
from utils.minidisc.arguments import ScheduleArguments
from utils.tucker.adaptation import AdaptationArguments
from utils.tucker.arguments import BertArguments, DecompositionArguments
from utils.tucker.general_arguments import GeneralArguments
from utils.tucker.task_arguments import TaskArguments as BertTaskArguments
from utils.variator.arguments import PluginArguments, TaskArguments

pytestmark = pytest.mark.usefixtures("one_thread")
GROUPS = (
    *(RunArguments, OptimisationArguments, EvaluationArguments, BertTaskArguments, BertArguments),
    *(DecompositionArguments, ScheduleArguments, AdaptationArguments, GeneralArguments, TaskArguments, PluginArguments),
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """The tiny BERT and its data."""
    return TinyBert(tmp_path_factory.mktemp("bert"))


def claim(
    folder: Path, arguments: dict[str, Any], resume: bool = True, allow_changed_data: bool = False
) -> RunDirectory:
    """A run begins or goes on there."""
    try:
        return RunDirectory(folder, arguments, resume=resume, allow_changed_data=allow_changed_data)
    finally:
        release_all()


def a_model(folder: Path, text: str = "weights") -> Path:
    """Files as a model has them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(text)
    return folder


def test_the_table_decides_on_every_flag() -> None:
    """Once: a new flag needs a rule, a name has one rule, and no rule is for a flag that is gone."""
    fields = {field.name for group in GROUPS for field in dataclasses.fields(group)}
    assert fields <= set(RULES)
    assert sum(map(len, _NAMES.values())) == len(RULES)
    assert set(RULES) - fields <= {"teacher", "start"}


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule == "model"])
def test_spellings_of_a_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slash, `..`, link, `~`, relative, the run's folder and its best/, a copy elsewhere: the same, without a word."""
    model = a_model(tmp_path / "home" / "run" / "best")
    above = model.parent
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    claim(tmp_path / "out", {name: str(model)}, resume=False)
    (tmp_path / "link").symlink_to(model)
    shutil.copytree(above, tmp_path / "moved")
    relative = os.path.relpath(model)
    spellings = (f"{model}/", f"{model}/../best", tmp_path / "link", "~/run/best", relative, above, tmp_path / "moved")
    for spelling in spellings:
        assert claim(tmp_path / "out", {name: str(spelling)}).remarks == []
    shutil.rmtree(above)
    assert claim(tmp_path / "out", {name: str(tmp_path / "moved")}).remarks == []


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule == "model"])
def test_another_model_is_refused(name: str, tmp_path: Path) -> None:
    """Other weights, in another place or in the same; --allow-changed-data goes on, and says so."""
    model, other = a_model(tmp_path / "a"), a_model(tmp_path / "b", "others")
    claim(tmp_path / "out", {name: str(model)}, resume=False)
    flag = flag_named(name)
    with pytest.raises(UserError, match=rf"{flag} '.*/b' \(was '.*/a'\)"):
        claim(tmp_path / "out", {name: str(other)})
    (model / "model.safetensors").write_text("changed")
    with pytest.raises(UserError, match=rf"{flag} '.*/a', which holds other weights now \(--allow_changed_data"):
        claim(tmp_path / "out", {name: str(model)})
    assert claim(tmp_path / "out", {name: str(model)}, allow_changed_data=True).remarks
    assert claim(tmp_path / "out", {name: str(model)}).remarks == []


@pytest.mark.parametrize("value", ["org/bert", "hub", None])
def test_a_model_of_the_hub_is_compared_by_its_name(value: str | None, tmp_path: Path) -> None:
    """There is nothing to look into."""
    claim(tmp_path / "out", {"teacher_model": value}, resume=False)
    claim(tmp_path / "out", {"teacher_model": value})
    with pytest.raises(UserError, match="--teacher_model 'org/other'"):
        claim(tmp_path / "out", {"teacher_model": "org/other"})


@pytest.mark.parametrize("name", ["task_name", "dataset"])
def test_spellings_of_a_task(name: str, tmp_path: Path) -> None:
    """`SST-2`, `sst_2` and `sst2` are one task; another one is refused."""
    claim(tmp_path / "out", {name: "SST-2"}, resume=False)
    for spelling in ("sst2", "SST_2", "sst-2"):
        claim(tmp_path / "out", {name: spelling})
    with pytest.raises(UserError, match="'mrpc'"):
        claim(tmp_path / "out", {name: "mrpc"})


@pytest.mark.parametrize("rule", ["free", "told"])
def test_what_does_not_decide_the_training_may_differ(rule: str, tmp_path: Path) -> None:
    """Told where the numbers may come out otherwise."""
    names = [name for name, found in RULES.items() if found == rule and name != "precision"]  # auto stands for another
    claim(tmp_path / "out", dict.fromkeys(names, 1), resume=False)
    remarks = claim(tmp_path / "out", dict.fromkeys(names, 2)).remarks
    assert len(remarks) == (len(names) if rule == "told" else 0)


def test_a_run_goes_on_after_everything_has_moved(bert: TinyBert, tmp_path: Path) -> None:
    """Model, data and output, with another evaluation batch and a slash more: the same end as without."""
    for place in ("old", "whole"):
        shutil.copytree(bert.model, tmp_path / place / "bert")
        shutil.copytree(bert.glue, tmp_path / place / "glue")

    def call(place: str, *more: object) -> None:
        folder = tmp_path / place
        arguments = bert.task(folder / "out", "--mode", "finetune", "--teacher_model", folder / "bert", *more)
        arguments[arguments.index("--data_dir") + 1] = f"{folder}/glue/"
        run_task(arguments)

    call("whole", "--eval_step", 1, "--max_steps", 3)
    call("old", "--eval_step", 1, "--max_steps", 1)
    (tmp_path / "old").rename(tmp_path / "new")
    call("new", "--eval_step", 1, "--max_steps", 3, "--resume", "--eval_batch_size", 3)
    assert_same_tensors(tensors_under(tmp_path / "new" / "out"), tensors_under(tmp_path / "whole" / "out"))


def test_a_t5_goes_on_in_another_spelling(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the folder above, through a link."""
    shutil.copytree(tiny.model, tmp_path / "t5")
    (tmp_path / "glue").symlink_to(tiny.glue)
    call: Callable[..., None] = lambda *more: run(tiny.sst2(tmp_path / "out", "--training-step", 2, *more))  # noqa: E731
    call("--model-config", f"{tmp_path}/t5/", "--data-path", f"{tmp_path}/glue")
    monkeypatch.chdir(tmp_path)
    call("--model-config", "./t5", "--data-path", "glue", "--resume", "--training-step", 3)
    (tmp_path / "glue").unlink()
    shutil.copytree(tiny.glue, tmp_path / "glue")
    dev = tmp_path / "glue" / "SST-2" / "dev.tsv"
    dev.write_text(dev.read_text().replace("film", "plot", 1))
    with pytest.raises(UserError, match="the data are not those that the run began with"):
        call("--model-config", "t5", "--data-path", "glue", "--resume", "--training-step", 4)
