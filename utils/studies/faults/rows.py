"""The faults: each yields, per try, None where what the page says held, or what happened instead."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from transformers import AutoModelForSeq2SeqLM

from dataset.workers import STOPPING
from utils.checksums import CHECKSUMS_FILE, listed
from utils.engine import RunDirectory
from utils.engine.checkpoint import list_checkpoints
from utils.engine.resume import prepare_resume
from utils.engine.run_files import RUN_FILES
from utils.errors import LOST_PROCESS_CODE, USER_ERROR_CODE, UserError
from utils.lock import release_all
from utils.opening.weights import load_weights
from utils.studies.faults.bench import Bench, children_of, ended, told, until
from utils.studies.faults.damage import DAMAGES
from utils.studies.faults.moments import PLACES, before_each_step, signal_after, signal_at

Tries = Iterator[str | None]


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        outcome: what has to come of each try.
        tries: gets a folder of its own.
    """

    fault: str
    outcome: str
    tries: Callable[[Bench, Path], Tries]


def damaged_checkpoints(bench: Bench, folder: Path) -> Tries:
    """Every kind of damage to every file."""
    whole = folder / "whole" / "run"
    bench.code(bench.arguments(whole))
    for name in sorted(listed(list_checkpoints(whole)[-1]) or ()):
        for kind, damage in DAMAGES.items():
            copy = folder / "copy"
            shutil.copytree(whole / "checkpoints", copy / "checkpoints")
            damage(list_checkpoints(copy)[-1] / name)
            if _differs(*(list_checkpoints(run)[-1] / name for run in (copy, whole))):
                yield _passes_over(copy, f"{kind}, {name}")
            shutil.rmtree(copy)


def _differs(one: Path, other: Path) -> bool:
    """Whether a damage has changed anything: some files are alike in two checkpoints."""
    return not one.is_file() or one.read_bytes() != other.read_bytes()


def _passes_over(run: Path, what: str) -> str | None:
    older, newest = list_checkpoints(run)[-2:]
    try:
        prepare_resume(run, True)
        return f"{what}: --resume went on"
    except UserError as error:
        if str(older) not in str(error):
            return f"{what}: {error}"
    prepare_resume(run, "auto")
    return None if list_checkpoints(run)[-1] == older and not newest.exists() else f"{what}: auto chose another"


def damaged_and_resumed(bench: Bench, folder: Path) -> Tries:
    """The whole way, for each file with another kind."""
    kinds = list(DAMAGES)
    for number, name in enumerate(("model.safetensors", "optimizer.safetensors", "random.safetensors", "trainer.json")):
        run = bench.arguments(folder / str(number) / "run")
        bench.code(run, prepare=partial(signal_at, "last_step", True, signal.SIGKILL))
        DAMAGES[kinds[(7 * number + 1) % len(kinds)]](list_checkpoints(folder / str(number) / "run")[-1] / name)
        yield bench.ends_as_undisturbed(run)


def damaged_models(bench: Bench, folder: Path) -> Tries:
    """Every kind to the weights of best/."""
    bench.code(bench.arguments(folder / "run"))
    for kind, damage in DAMAGES.items():
        copy = shutil.copytree(folder / "run" / "best", folder / "copy")
        if kind != "of an older checkpoint":
            damage(copy / "model.safetensors")
        else:
            shutil.copyfile(list_checkpoints(folder / "run")[0] / "model.safetensors", copy / "model.safetensors")
        yield _is_refused(copy, kind)
        shutil.rmtree(copy)


def _is_refused(model: Path, kind: str) -> str | None:
    from model.errors import ModelError

    try:
        load_weights(AutoModelForSeq2SeqLM, str(model))
    except (UserError, ModelError):
        return None
    return f"{kind}: the model was loaded"


def signals_at_the_end(bench: Bench, folder: Path) -> Tries:
    """Behind each place, each signal in turn."""
    for number, place in enumerate(PLACES):
        sent = STOPPING[number % len(STOPPING)]
        place_of = folder / str(number)
        runs = [bench.arguments(place_of / name) for name in ("first", "second")]
        code = bench.code(*runs, prepare=partial(signal_at, place, True, sent))
        if code not in (128 + sent, -sent) or (place_of / "begun-1").exists():
            yield f"{sent.name} at {place}: code {code}, second stage begun: {(place_of / 'begun-1').exists()}"
        else:
            yield bench.ends_as_undisturbed(*runs)


def signals_at_random(bench: Bench, folder: Path) -> Tries:
    """At a random moment of the work."""
    yield from _at_random(bench, folder, STOPPING, 8)


def kills_at_random(bench: Bench, folder: Path) -> Tries:
    """SIGKILL at a random moment."""
    yield from _at_random(bench, folder, (signal.SIGKILL,), 8)


def _at_random(bench: Bench, folder: Path, signals: tuple[signal.Signals, ...], count: int) -> Tries:
    rng, made, seconds = random.Random(0), 0, bench.expected()[1]
    for number in range(4 * count):
        run, sent = bench.arguments(folder / str(number) / "run"), signals[made % len(signals)]
        code = bench.code(run, prepare=partial(signal_after, rng.uniform(0, seconds), sent))
        if code == 0:  # it was over by then
            continue
        made += 1
        yield bench.ends_as_undisturbed(run) if code in (128 + sent, -sent) else f"{sent.name}: code {code}"
        if made == count:
            return


def group_signals(bench: Bench, folder: Path) -> Tries:
    """To a run and the processes that prepare its batches."""
    for number in range(4):
        run, sent = bench.arguments(folder / str(number) / "run", text=True), STOPPING[number % 4]
        process = bench.start(run, prepare=_slowly)
        workers = _workers(process.pid, folder / str(number) / "run")
        os.killpg(process.pid, sent)
        if (code := ended(process)) != 128 + sent:
            yield f"{sent.name}: code {code}: {told(run)}"
            continue
        until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))  # noqa: B023 (called at once)
        yield bench.ends_as_undisturbed(run)


def killed_workers(bench: Bench, folder: Path) -> Tries:
    """SIGKILL to one of the processes that prepare batches."""
    for number in range(4):
        run = bench.arguments(folder / str(number) / "run", text=True)
        process = bench.start(run, prepare=_slowly)
        os.kill(_workers(process.pid, folder / str(number) / "run")[number % 2], signal.SIGKILL)
        yield _told_once(ended(process), LOST_PROCESS_CODE, told(run)) or bench.ends_as_undisturbed(run)


def memory(bench: Bench, folder: Path) -> Tries:
    """As torch and Python tell it, at a step."""
    for number, step in enumerate((0, 3, 7, 2, 5, 6)):
        run = bench.arguments(folder / str(number) / "run")
        code = bench.code(run, prepare=partial(_runs_out, step, number % 3))
        yield _told_once(code, USER_ERROR_CODE, told(run)) or bench.ends_as_undisturbed(run)


def full_disks(bench: Bench, folder: Path) -> Tries:
    """The system writes no file longer than a limit."""
    largest = max(path.stat().st_size for path in (bench.root / "t5").iterdir())
    for number in range(6):
        run = bench.arguments(folder / str(number) / "run")
        code = bench.code(run, prepare=partial(_limit_files, 4000 + number * (largest - 4000) // 6))
        yield _told_once(code, USER_ERROR_CODE, told(run)) or bench.ends_as_undisturbed(run)


def two_at_once(bench: Bench, folder: Path) -> Tries:
    """A second call of the same command."""
    for number in range(3):
        run = bench.arguments(folder / str(number) / "run")
        first = bench.start(run, prepare=_slowly)
        until((folder / str(number) / "run" / "metrics.jsonl").exists)
        second = _told_once(bench.code(run), USER_ERROR_CODE, told(run))
        code = ended(first)
        yield second or (f"the first ended with {code}" if code else bench.ends_as_undisturbed(run))


def files_of_others(bench: Bench, folder: Path) -> Tries:
    """Names that runs write, in a folder that is none."""
    names = [*RUN_FILES, "best/model.safetensors", "checkpoints/step-00000001/trainer.json", "predictions/RTE.tsv"]
    for number, name in enumerate(names):
        file = folder / str(number) / name
        file.parent.mkdir(parents=True)
        file.write_text('{"mine": true}', encoding="utf-8")
        try:
            RunDirectory(folder / str(number), {}, overwrite=True)
            yield f"{name}: a run began"
        except UserError:
            is_there = file.read_text(encoding="utf-8") == '{"mine": true}'
            yield None if is_there else f"{name} is lost"
        finally:
            release_all()


def foreign_within(bench: Bench, folder: Path) -> Tries:
    """Names that models have, within a run's best/ and checkpoints/."""
    whole = folder / "whole" / "run"
    bench.code(bench.arguments(whole))
    for name in ("model-mine.safetensors", "plugin-notes.json", "tokenizer_old.json", "vocab.txt", "figures/a.png"):
        for part in ("best", f"checkpoints/{list_checkpoints(whole)[-1].name}"):
            file = shutil.copytree(whole, folder / "copy") / part / name
            file.parent.mkdir(exist_ok=True)
            file.write_text("mine", encoding="utf-8")
            try:
                RunDirectory(folder / "copy", {}, overwrite=True)
                yield f"{part}/{name}: the run was deleted"
            except UserError:
                is_there = file.is_file() and (folder / "copy" / "best" / CHECKSUMS_FILE).is_file()
                yield None if is_there else f"{part}/{name} is lost"
            finally:
                release_all()
            shutil.rmtree(folder / "copy")


def _workers(process: int, run: Path) -> list[int]:
    """The processes that prepare batches, once a checkpoint is there."""
    until(lambda: bool(list_checkpoints(run)) and len(children_of(process)) >= 2)
    return children_of(process)


def _told_once(code: int, expected: int, said: str) -> str | None:
    return None if code == expected and "\n" not in said and said else f"code {code}: {said}"


def _slowly() -> None:
    before_each_step(lambda step: time.sleep(0.1))


def _runs_out(at: int, kind: int) -> None:
    errors = (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError())
    said = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    def fail(step: int) -> None:
        if step == at:
            _raise((*errors, said)[kind])

    before_each_step(fail)


def _raise(error: Exception) -> NoReturn:
    raise error


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


_AS = "the same command ends as undisturbed"
ROWS = (
    Row(
        "a damaged file of the newest checkpoint (flipped bits, zeros, cut, padded, missing, of another step, …)",
        "`--resume` refuses and names the older one, `--resume auto` goes on there",
        damaged_checkpoints,
    ),
    Row("the same, resumed to the end", _AS, damaged_and_resumed),
    Row("damaged weights in `best/`", "refused when they are loaded", damaged_models),
    Row(
        "a signal at the end of a stage, behind each of its parts",
        f"its code; the next stage does not begin; {_AS}",
        signals_at_the_end,
    ),
    Row("a signal at a random moment", f"its code; {_AS}", signals_at_random),
    Row(
        "a signal to all processes of a run with `--num_workers 2`",
        f"a checkpoint, its code, no process left; {_AS}",
        group_signals,
    ),
    Row("SIGKILL at a random moment", _AS, kills_at_random),
    Row("SIGKILL to a process that prepares batches", f"one sentence, code 3; {_AS}", killed_workers),
    Row("memory runs out in a step", f"one sentence, code 2; {_AS}", memory),
    Row("a disk that takes no more", f"one sentence, code 2; {_AS} when it does", full_disks),
    Row("a second run in the same folder", "one sentence, code 2; the first ends as undisturbed", two_at_once),
    Row("`--overwrite` of a folder of others that has names of a run", "refused; every file stays", files_of_others),
    Row("`--overwrite` of a run with files of others among its models", "refused; every file stays", foreign_within),
)
