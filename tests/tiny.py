"""A T5 of two layers, a few rows of every kind of data, and ways to run (and to kill) the real script on them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from tests.helpers_tokenizer import tiny_tokenizer
from utils.lock import release_all

WIDTH = 32
_GOOD, _BAD = ("a good film", "it is a good film", "good"), ("a bad film", "it is bad", "bad and bad film")


class Tiny:
    """Paths of the tiny model and its data, made once per test session."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = backbone(root / "t5")
        self.glue = root / "glue"
        write_sst2(self.glue, train=24, valid=11)
        self.corpus = root / "corpus"
        write_corpus(self.corpus)
        self.squad = root / "squad"
        write_squad(self.squad)

    def sst2(self, output: Path, *more: object) -> list[str]:
        """Arguments of a fine-tuning run on SST-2 rows."""
        return self._arguments("sst2", self.glue, output, more)

    def wiki(self, output: Path, *more: object) -> list[str]:
        """Arguments of a run on the text corpus."""
        return self._arguments("wiki", self.corpus, output, more)

    def qa(self, output: Path, *more: object) -> list[str]:
        """Arguments of a run on SQuAD questions."""
        return self._arguments("squad", self.squad, output, more)

    def _arguments(self, dataset: str, data: Path, output: Path, more: Sequence[object]) -> list[str]:
        fixed = f"--dataset {dataset} --model-config {self.model} --data-path {data} --output-path {output}"
        loop = "--max-input-length 64 --batch-size 4 --lr 1e-3 --inspect-step 1 --precision fp32"
        given = {str(value) for value in more}
        epochs = [] if "--epochs" in given else ["--epochs", "1"]
        return [*fixed.split(), *loop.split(), *epochs, *map(str, more)]


def backbone(path: Path, width: int = WIDTH, layers: int = 2, seed: int = 0) -> Path:
    """A random T5 v1.0 with the tiny tokenizer, saved to `path`."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        num_heads=4,
        d_ff=64,
        num_layers=layers,
        num_decoder_layers=2,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    T5ForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def write_sst2(glue: Path, train: int, valid: int) -> None:
    """SST-2 in GLUE's TSV format with the given numbers of rows."""
    folder = glue / "SST-2"
    folder.mkdir(parents=True)
    for name, rows in (("train", train), ("dev", valid)):
        lines = ["sentence\tlabel"]
        for i in range(rows):
            texts = _GOOD if i % 2 else _BAD
            lines.append(f"{texts[i % 3]} {i}\t{i % 2}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_corpus(folder: Path, train: int = 40, valid: int = 9) -> None:
    """One passage per line."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    words = ["a", "good", "bad", "film", "and", "is", "it", "of", "each", "to", "in", "this", "question"]
    for name, rows in (("train", train), ("valid", valid)):
        lines = [" ".join(rng.choices(words, k=rng.randint(4, 20))) for _ in range(rows)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_squad(folder: Path, train: int = 8, valid: int = 5) -> None:
    """SQuAD v1.1 JSON."""
    folder.mkdir(parents=True)
    for name, rows in (("train", train), ("dev", valid)):
        questions = [
            {"id": f"{name}-{i}", "question": f"is it {i}", "answers": [{"text": "a film", "answer_start": 6}]}
            for i in range(rows)
        ]
        article = {"title": "t", "paragraphs": [{"context": "it is a film and it is good", "qas": questions}]}
        content = {"version": "1.1", "data": [article]}
        (folder / f"{name}-v1.1.json").write_text(json.dumps(content), encoding="utf-8")


def run(arguments: Sequence[str]) -> None:
    """The entry script, in this process."""
    from accelerate.state import AcceleratorState

    import train_t5

    AcceleratorState._reset_state()  # a process is made for one run: it would refuse another precision
    try:
        train_t5.main(list(arguments))
    finally:
        release_all()  # as the end of the process does


def valid(tiny: Tiny, output: Path, *more: object) -> list[dict[str, Any]]:
    """The rows of `--mode valid` on SST-2, without costs unless asked for."""
    run(tiny.sst2(output, "--mode", "valid", *more, *(() if "--costs" in more else ("--no-costs",))))
    rows: list[dict[str, Any]] = result_of(output)["rows"]
    return rows


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


def result_of(directory: Path) -> dict[str, Any]:
    """result.json."""
    value: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return value


def tensors_under(directory: Path) -> dict[str, Tensor]:
    """All tensors of all safetensors files under `directory`, by file and name."""
    return {
        f"{path.relative_to(directory)}:{name}": tensor
        for path in sorted(directory.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Bit-identical, by name."""
    assert found.keys() == expected.keys() and expected
    differing = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert not differing, f"{len(differing)} of {len(expected)} tensors differ: {differing[:3]}"


def assert_same_run(found: Path, expected: Path) -> None:
    """Two run directories hold the same weights, optimizer and random states, metrics and position."""
    assert_same_tensors(tensors_under(found), tensors_under(expected))
    assert rows_of(found) == rows_of(expected)
    newest = sorted((expected / "checkpoints").iterdir())[-1].name
    states = [
        json.loads((run_directory / "checkpoints" / newest / "trainer.json").read_text(encoding="utf-8"))
        for run_directory in (found, expected)
    ]
    for state in states:
        state["progress"].pop("seconds")
    assert states[0] == states[1]


# --- killing: processes of a fork server that has imported the script, so that each starts at once ------------


def killed_run(
    arguments: Sequence[str], prepare: Callable[[int], None], at: int, script: Callable[[Sequence[str]], None] = run
) -> None:
    """Run the script in a process of its own that gets SIGKILL where `prepare(at)` has arranged it."""
    process = start_run(arguments, prepare, at, script)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"the run was to be killed, but ended with {process.exitcode}"


def start_run(
    arguments: Sequence[str],
    prepare: Callable[[int], None] | None = None,
    at: int = 0,
    script: Callable[[Sequence[str]], None] = run,
    daemon: bool = True,
) -> Any:
    """Start the script in a process of its own; one that is no daemon may have processes that prepare its batches."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_t5", "tests.tiny"])
    job = (list(arguments), prepare, at, torch.get_num_threads(), os.getcwd(), script)
    process = context.Process(target=_child, args=job, daemon=daemon)
    process.start()
    return process


def _child(
    arguments: list[str],
    prepare: Callable[[int], None] | None,
    at: int,
    threads: int,
    directory: str,
    script: Callable[[Sequence[str]], None],
) -> None:
    os.chdir(directory)
    torch.set_num_threads(threads)
    if prepare is not None:
        prepare(at)
    script(arguments)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_step(step: int) -> None:
    """SIGKILL when the given optimizer step is about to begin."""
    from utils.engine import Trainer

    original = Trainer._step

    def fatal(self: Any, group: Any) -> None:
        if self.progress.step == step:
            _die()
        original(self, group)

    Trainer._step = fatal  # type: ignore[method-assign]


def die_inside_save(number: int) -> None:
    """SIGKILL in the middle of writing the weights of the given checkpoint (counted from 1)."""
    from utils.engine import checkpoint

    original = checkpoint.save_file
    seen = 0

    def fatal(tensors: dict[str, Tensor], path: Path) -> None:
        nonlocal seen
        original(tensors, path)
        if path.name == "optimizer.safetensors":
            seen += 1
            if seen == number:
                os.truncate(path, path.stat().st_size // 2)
                _die()

    checkpoint.save_file = fatal  # type: ignore[assignment]


def die_after_save(number: int) -> None:
    """SIGKILL right after the given checkpoint (counted from 1) is complete."""
    from utils.engine import trainer

    original = trainer.save_checkpoint
    seen = 0

    def fatal(*args: Any) -> Path:
        nonlocal seen
        path = original(*args)
        seen += 1
        if seen == number:
            _die()
        return path

    trainer.save_checkpoint = fatal  # type: ignore[assignment]


# --- a checkpoint in the original's format ---------------------------------------------------------------------


def original_checkpoint(model: T5ForConditionalGeneration, path: Path) -> Path:
    """Write a T5 v1.0 as the original's `best_model.pt`: ModelCenter's names and units."""
    from model.modelcenter import _hugging_face_name

    attention = [f"self_attention.{name}.weight" for name in ("project_q", "project_k", "project_v", "attention_out")]
    inner = {
        "self_att": ["layernorm_before_attention.weight", *attention],
        "cross_att": ["layernorm_before_attention.weight", *attention],
        "ffn": ["layernorm_before_ffn.weight", "ffn.w_in.w.weight", "ffn.w_out.weight"],
    }
    keys = ["input_embedding.weight"]
    depths = {"encoder": model.config.num_layers, "decoder": model.config.num_decoder_layers}
    for stack, depth in depths.items():
        keys += [f"{stack}.output_layernorm.weight", f"position_bias_{stack[:3]}.relative_attention_bias"]
        parts = [part for part in inner if stack == "decoder" or part != "cross_att"]
        keys += [f"{stack}.layers.{i}.{part}.{rest}" for i in range(depth) for part in parts for rest in inner[part]]
    weights = model.state_dict()
    state = {}
    for key in keys:
        name, factor = _hugging_face_name(key, "the tiny model")
        state[f"t5.{key}"] = (weights[name].double() / factor).float()
    torch.save(state, path)
    return path
