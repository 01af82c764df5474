"""A T5 of a few thousand numbers, its data, and runs of `train_t5.py` on them in processes that something befalls."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

from utils.checksums import listed
from utils.embedded.tokenizer import train_tokenizer
from utils.engine.checkpoint import list_checkpoints
from utils.errors import run_as_script

Prepare = Callable[[], object]
_WORDS = "a good bad film and is it of each to in this question the plot dull was not very"
#: Of a run: 8 steps, saved every second one. On text the batches come from two processes.
_LOOP = (
    "--max_seq_length 32 --train_batch_size 4 --learning_rate 1e-3 --num_train_epochs 1 --inspect_step 1 --save_step 2 "
    "--precision fp32 --max_steps 8 --resume auto"
)
#: Longest wait for a run of a second or two.
_PATIENCE_S = 600.0


class Bench:
    """Model, data and undisturbed runs below a folder.

    Attributes:
        root: the folder, which is emptied first.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root, ignore_errors=True)
        rng, text = random.Random(0), root / "text"
        (root / "glue" / "SST-2").mkdir(parents=True)
        text.mkdir()
        for name, count in (("train", 40), ("valid", 8)):
            lines = [" ".join(rng.choices(_WORDS.split(), k=rng.randint(4, 20))) for _ in range(count)]
            (text / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, count in (("train", 32), ("dev", 8)):
            rows = [f"it is a {('bad', 'good')[i % 2]} film {i}\t{i % 2}" for i in range(count)]
            content = "\n".join(["sentence\tlabel", *rows]) + "\n"
            (root / "glue" / "SST-2" / f"{name}.tsv").write_text(content, encoding="utf-8")
        self._write_model(root / "t5", text / "train.txt")
        self._expected: dict[bool, tuple[dict[str, str], float]] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["train_t5", __name__])

    def arguments(self, output: Path, text: bool = False) -> list[str]:
        """A command line; `text`: of a run whose batches come from processes of their own."""
        data = ("wiki", "text") if text else ("sst2", "glue")
        given = ["--task_name", data[0], "--data_dir", str(self.root / data[1]), *(["--num_workers", "2"] * text)]
        return [*given, "--model_config", str(self.root / "t5"), "--output_dir", str(output), *_LOOP.split()]

    def start(self, *runs: Sequence[str], prepare: Prepare = int) -> Any:
        """A process that does these runs one after the other; `prepare` arranges what is to befall it."""
        folder = _output(runs[0]).parent
        folder.mkdir(parents=True, exist_ok=True)
        job = (runs, prepare, folder)
        process = self._context.Process(target=_child, args=job, daemon=False)
        process.start()
        return process

    def code(self, *runs: Sequence[str], prepare: Prepare = int) -> int:
        """The exit code of such a process."""
        return ended(self.start(*runs, prepare=prepare))

    def ends_as_undisturbed(self, *runs: Sequence[str]) -> str | None:
        """Give the commands once more, and compare weights, optimizer and random states; says what is wrong."""
        if (code := self.code(*runs)) != 0:
            return f"the same command ended with {code}: {told(runs[0])}"
        expected = self.expected("--num_workers" in runs[0])[0]
        wrong = [run for run in runs if hashes(_output(run)) != expected]
        return f"{_output(wrong[0])} has other weights" if wrong else None

    def expected(self, text: bool = False) -> tuple[dict[str, str], float]:
        """Checksums of an undisturbed run, and the seconds that its processor worked."""
        if text not in self._expected:
            run = self.arguments(self.root / f"undisturbed-{text:d}" / "run", text)
            if (code := self.code(run)) != 0:
                raise RuntimeError(f"the undisturbed run ended with {code}: {told(run)}")
            seconds = float((_output(run).parent / "seconds.txt").read_text(encoding="utf-8"))
            self._expected[text] = hashes(_output(run)), seconds
        return self._expected[text]

    def _write_model(self, folder: Path, text: Path) -> None:
        tokenizer = train_tokenizer([text], 400)
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            num_heads=4,
            d_ff=64,
            num_layers=1,
            num_decoder_layers=1,
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def ended(process: Any) -> int:
    """Wait for a process; gives its exit code."""
    process.join(_PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise RuntimeError("a run did not come to its end")
    return int(process.exitcode)


def told(run: Sequence[str]) -> str:
    """What the processes of a command have said on standard error."""
    file = _output(run).parent / "errors.txt"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def hashes(run: Path) -> dict[str, str]:
    """Checksums of a run's best model and of the tensors of its last checkpoint."""
    checkpoints = list_checkpoints(run)
    folders = [run / "best", *checkpoints[-1:]]
    found = {f"{folder.name}/{name}": value for folder in folders for name, value in (listed(folder) or {}).items()}
    return {name: value for name, value in found.items() if name.endswith(".safetensors")}


def until(condition: Callable[[], bool]) -> None:
    """Wait for what comes soon."""
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("what was waited for has not come")
        time.sleep(0.005)


def children_of(process: int) -> list[int]:
    """Processes that live and whose parent is `process`."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                state, parent, *_ = (place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(parent) == process and state != "Z":
                found.append(int(place.name))
    return found


def _output(run: Sequence[str]) -> Path:
    return Path(run[run.index("--output_dir") + 1])


def _child(runs: Sequence[Sequence[str]], prepare: Prepare, folder: Path) -> None:
    """A session and group of its own, as a job has, its words in files."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # that of a command line
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    sys.stderr = open(folder / "errors.txt", "a", encoding="utf-8")  # noqa: SIM115
    prepare()
    begun = time.process_time()
    run_as_script(lambda: _all(runs), debug=False)
    (folder / "seconds.txt").write_text(f"{time.process_time() - begun}\n", encoding="utf-8")


def _all(runs: Sequence[Sequence[str]]) -> None:
    import train_t5

    for number, run in enumerate(runs):
        (_output(run).parent / f"begun-{number}").touch()
        train_t5.main(list(run))
