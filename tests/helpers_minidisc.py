"""Fine-tuned tiny teachers of both kinds of tasks, and what the schedules' tests read of a run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from tests.tiny_bert import TinyBert, run_task

#: Sparsities of the tests, in percent; 5 and 10 tell numbers from strings.
GRID = "5,10,50,90"


class Teachers:
    """A tiny BERT fine-tuned on SST-2 and on named entities, each made at its first use; one of them sorted too."""

    def __init__(self, root: Path) -> None:
        self.root, self.tiny = root, TinyBert(root / "data")
        self.conll = write_entities(root / "entities")

    def teacher(self, task: str = "sst2") -> Path:
        """The run that fine-tuned a teacher for `task`."""
        return self._made(f"teacher-{task}", "--mode", "finetune", "--teacher_model", self.tiny.model, task=task)

    def sorted(self, task: str = "sst2") -> Path:
        """The run of --mode sparsify behind it."""
        return self._made(f"sorted-{task}", "--mode", "sparsify", "--teacher_model", self.teacher(task), task=task)

    def command(self, output: Path, *more: object, task: str = "sst2", teacher: Path | None = None) -> list[str]:
        """Arguments of a schedule over `GRID` in two epochs; the teacher is the sorted one unless it is named."""
        source = [] if "--teacher_model" in map(str, more) else ["--teacher_model", teacher or self.sorted(task)]
        grid = [] if "--grid" in map(str, more) else ["--grid", GRID]
        words = self.tiny.task(output, *source, *grid, *more, task=task)
        return [*words, "--data_dir", str(self.conll)] if task == "conll" else words

    def run(self, output: Path, *more: object, task: str = "sst2", teacher: Path | None = None) -> dict[str, Any]:
        """A schedule in this process; gives its result.json."""
        run_task(self.command(output, *more, task=task, teacher=teacher))
        return read(output / "result.json")

    def _made(self, name: str, *more: object, task: str) -> Path:
        output = self.root / name
        if not (output / "result.json").is_file():
            self.run(output, *more, "--num_train_epochs", 4, task=task)
        return output


def write_entities(folder: Path, count: int = 24) -> Path:
    """Sentences whose films are people and whose plots are places."""
    rng, tags = random.Random(0), {"film": "B-PER", "plot": "B-LOC"}
    folder.mkdir(parents=True)
    for split, number in (("train", count), ("dev", count // 2), ("test", 5)):
        lines: list[str] = []
        for _ in range(number):
            words = ["film", *rng.choices(["a", "film", "it", "plot", "is", "dull"], k=rng.randint(1, 5))]
            lines += [*(f"{word} {tags.get(word, 'O')}" for word in words), ""]
        (folder / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def logits_of(model: Any) -> torch.Tensor:
    """Class scores of two rows, the second one padded."""
    ids = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 3, 0, 0]])
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=ids, attention_mask=(ids > 0).long()).logits
    return logits
