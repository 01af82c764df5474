"""Everything that writes files, in small: what `tests/test_writing.py` runs on a disk that refuses."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers_export import saved
from tests.helpers_server import Server
from tests.tiny import backbone
from utils import archives, convert_t5, make_corpus, quantize, quickstart_report, save_data, submission
from utils.augmentation.output import GrowingFile
from utils.embedded.bert import BertSize, write_bert
from utils.embedded.build import make_once
from utils.embedded.tasks import write_tagged
from utils.engine.bad_steps import save_batches
from utils.engine.checkpoint import Progress, save_checkpoint
from utils.errors import WriteError
from utils.export import __main__ as export
from utils.export import onnx, torch_export
from utils.export.card import card
from utils.export.trace import trace
from utils.fetching import fetch
from utils.lock import locked
from utils.minidisc import record
from utils.plan.commit import commit
from utils.pregenerate.generate import Part, write_epoch
from utils.writing import atomic_directory, write_json, write_text


@dataclass(frozen=True)
class Writer:
    """One way in which the project writes.

    Attributes:
        write: writes into a folder that is there.
        named: the name that an error tells, relative to that folder.
        runs: `file::function` of the blocks of `utils.writing` that it goes through.
        replaces: whether it writes once more over what it has written; otherwise that is used again, or refused.
        keeps: beginnings of the names under which a half is kept, to go on with.
        points: at how many places the disk is full.
    """

    write: Callable[[Path], object]
    named: str
    runs: tuple[str, ...] = ()
    replaces: bool = True
    keeps: tuple[str, ...] = ()
    points: int = 20


@functools.cache
def _scratch() -> Path:
    """A folder for what is read, as long as the tests run."""
    return _SCRATCH


def _remove_scratch(owner: int) -> None:
    """At the end of the process that made it, not of those that were forked from it."""
    if os.getpid() == owner:
        shutil.rmtree(_SCRATCH, ignore_errors=True)


_SCRATCH = Path(tempfile.mkdtemp(prefix="writers-"))
atexit.register(_remove_scratch, os.getpid())
_LINES = "".join(f"{number} some words that are written to a disk\n" for number in range(400))


@functools.cache
def _t5() -> Path:
    return backbone(_scratch() / "t5")


@functools.cache
def _bert() -> Path:
    return saved("dense", _scratch())


@functools.cache
def _archive() -> Path:
    folder = _scratch() / "corpus"
    folder.mkdir()
    for name in ("train.txt", "valid.txt"):
        (folder / name).write_text(_LINES)
    with tarfile.open(_scratch() / "corpus.tar", "w") as archive:
        archive.add(folder, "corpus")
    return _scratch() / "corpus.tar"


def _checkpoint(folder: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(30, 30)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2, 30)).sum().backward()
    optimizer.step()
    save_checkpoint(folder, Progress(step=2), module, optimizer, keep=2)


def _bad_batches(folder: Path) -> None:
    """Here a failure is told beside another error."""
    if (reason := save_batches(folder / "step", 0, [{"input_ids": torch.ones(40, 40)}], {"step": 2})) is not None:
        raise WriteError(folder / "step", reason)


def _commit(folder: Path) -> None:
    source = SimpleNamespace(directory=_bert())
    opened: Any = SimpleNamespace(point=SimpleNamespace(source=source, is_saved=True))
    commit(opened, folder / "chosen", {"budget": "macs<=50%"})


def _convert(to: str, folder: Path) -> None:
    if to == "hf":
        convert_t5.to_hugging_face(_t5(), folder / "made")
    else:
        convert_t5.to_model_center(_t5(), folder / "made")


def _embedded(folder: Path) -> None:
    def write(made: Path) -> dict[str, Any]:
        (made / "corpus").mkdir()
        (made / "corpus" / "train.txt").write_text(_LINES)
        write_bert(made / "bert", BertSize(16, 2, 2, 120), made / "corpus", 1, lambda _: None)
        return {"conll": write_tagged(made / "conll", 1, (("test", 9), ("dev", 9), ("train", 20)))}

    make_once(folder / "mini", {"seed": 1}, write, "data", lambda _: None)


class _Dataset:
    def save_to_disk(self, path: str) -> None:
        Path(path, "dataset.arrow").write_text(_LINES)


def _grow(folder: Path) -> None:
    target = folder / "train_aug.tsv"
    with locked(target):
        file = GrowingFile(target, {"seed": 1})
        try:
            for number in range(file.counts["rows"], 12):
                file.append(f"{number}" + "x" * 500 + "\n", rows=1)
            file.finish()
        finally:
            file.close()


def _fetch(folder: Path) -> None:
    with Server() as server:
        server.content = server.content[:20_000]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            fetch(f"{server.url}/corpus", folder / "corpus.bin", say=lambda _: None)
        finally:
            server.shutdown()


def _packed(folder: Path) -> None:
    """The archive of a submission, without the 400,000 rows of one."""

    def write_zip(_: Path, target: Path) -> None:
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("RTE.tsv", _LINES)

    with _patched(submission, write_zip=write_zip):
        submission.main([str(_scratch()), "--output", str(folder / "all.zip")])


def _plot(folder: Path) -> None:
    measured: Any = SimpleNamespace(macs=1e6, metric=0.5)
    quickstart_report.draw("accuracy", [quickstart_report.Row("a", "b", "c", 1.0, 0.0, measured)], folder / "plot.png")


def _schedule_plot(folder: Path) -> None:
    choice: Any = SimpleNamespace(table={0.1: (0.5, 0.1), 0.2: (0.4, 0.2)}, scale=0.1)
    kind: Any = SimpleNamespace(number=float, text=str, unit=SimpleNamespace(label="sparsity"))
    record.draw(choice, "accuracy", kind, folder / "schedule.png")


def _export(form: str, folder: Path) -> None:
    """The command, with the graph traced once."""
    with (
        _patched(torch_export, trace=_traced),
        _patched(onnx, trace=_traced),
        _patched(torch.onnx, export=_program),
    ):
        words = [
            "--model",
            str(_bert()),
            "--format",
            form,
            "--output",
            str(folder / ("made.pt2" if form == "torch" else "made")),
            "--repeats",
            "0",
        ]
        export.main([*words, *(["--overwrite"] if form != "standalone" else [])])


_kept: dict[str, Any] = {}
_export_program = torch.onnx.export


def _traced(source: Any) -> Any:
    if "traced" not in _kept:
        _kept["traced"] = trace(source)
    return _kept["traced"]


def _program(*given: Any, **more: Any) -> Any:
    if "program" not in _kept:
        _kept["program"] = _export_program(*given, **more)
    return _kept["program"]


@contextmanager
def _patched(module: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def _card(folder: Path) -> None:
    write_text(folder / "README.md", card(export.load_source(str(_bert()), None, "", None, False), False, None))


def _folder(folder: Path) -> None:
    with atomic_directory(folder / "best") as new:
        for number in range(3):
            save_file({"a": torch.ones(40, 40)}, new / f"model-{number}.safetensors")


def _epoch(folder: Path) -> None:
    parts = [Part(_LINES.encode(), 400, 1), Part(_LINES.encode(), 400, 1)]
    write_epoch(folder, 0, iter(parts), 128, lambda _: None)


@functools.cache
def _text() -> Path:
    (_scratch() / "text.txt").write_text(_LINES)
    return _scratch() / "text.txt"


def _corpus(folder: Path) -> None:
    make_corpus.make_corpus([_text()], folder / "train.txt")


def _quantized(folder: Path) -> None:
    quantize.main(["--model", str(_bert()), "--output_dir", str(folder / "int8")])


WRITERS = {
    "json": Writer(lambda folder: write_json(folder / "a.json", list(range(3000))), "a.json"),
    "text": Writer(lambda folder: write_text(folder / "deep/er/page.html", _LINES), "deep/er/page.html"),
    "folder": Writer(_folder, "best"),
    "checkpoint": Writer(
        _checkpoint, "checkpoints/step-00000002", ("utils/engine/checkpoint.py::save_checkpoint",)
    ),
    "bad batches": Writer(_bad_batches, "step", ("utils/engine/bad_steps.py::save_batches",)),
    "epoch": Writer(_epoch, "epoch_0.json", ("utils/pregenerate/generate.py::write_epoch",)),
    "corpus": Writer(_corpus, "train.txt", ("utils/make_corpus.py::make_corpus",)),
    "plan": Writer(_commit, "chosen", ("utils/plan/commit.py::commit",)),
    "to hf": Writer(lambda f: _convert("hf", f), "made", ("utils/convert_t5.py::to_hugging_face",)),
    "to modelcenter": Writer(
        lambda f: _convert("modelcenter", f), "made", ("utils/convert_t5.py::to_model_center",)
    ),
    "quantize": Writer(_quantized, "int8", ("utils/quantize.py::main",), replaces=False),
    "embedded": Writer(_embedded, "mini", ("utils/embedded/build.py::_make",), replaces=False),
    "data of the hub": Writer(
        lambda folder: save_data.save(["rte"], folder, lambda *_: _Dataset(), lambda _: None, lambda *_: None),
        "glue/rte", ("utils/save_data.py::_save_one",), replaces=False,
    ),
    "archive": Writer(
        lambda folder: archives.unpack(_archive(), folder / "corpus", say=lambda _: None),
        "corpus", ("utils/archives.py::unpack",),
    ),
    "augmentation": Writer(
        _grow, "train_aug.tsv", ("utils/augmentation/output.py::finish",), keeps=(".train_aug.tsv.",)
    ),
    "download": Writer(
        _fetch, "corpus.bin", ("utils/fetching.py::_fetch",), replaces=False, keeps=("corpus.bin.partial",)
    ),
    "submission": Writer(_packed, "all.zip", ("utils/submission.py::pack",)),
    "plot": Writer(_plot, "plot.png", ("utils/quickstart_report.py::draw",), points=3),
    "schedule": Writer(_schedule_plot, "schedule.png", ("utils/minidisc/record.py::draw",), points=3),
    "card": Writer(_card, "README.md"),
}  # fmt: skip
#: The same, where it takes seconds to make what is written.
SLOW_WRITERS = {
    "standalone": Writer(
        lambda f: _export("standalone", f), "made", ("utils/export/__main__.py::main",), replaces=False
    ),
    "onnx": Writer(lambda f: _export("onnx", f), "made", ("utils/export/__main__.py::main",)),
    "torch": Writer(lambda f: _export("torch", f), "made.pt2", ("utils/export/torch_export.py::write",)),
}
#: Blocks that do what one of the writers does, behind hours of work.
ALIKE = {
    "utils/engine/trainer.py::save": "folder",
    "utils/minidisc/job.py::write": "plan",
    "utils/tucker/prediction.py::write_predictions": "corpus",
    "utils/tucker/prediction.py::_write_tags": "corpus",
    "utils/tucker/prediction.py::_submission": "submission",
    "utils/studies/composition.py::draw": "plot",
    "benchmarks/engines.py::draw": "plot",
    "benchmarks/serve_report.py::write_plot": "plot",
}
