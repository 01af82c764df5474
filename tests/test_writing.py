"""Whatever is written is whole or not there, on a disk that refuses, beside others, and after a kill."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers_writers import ALIKE, SLOW_WRITERS, WRITERS, Writer
from utils.errors import UserError, WriteError, run_as_script
from utils.writing import atomic_directory, atomic_file, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")
each_writer = pytest.mark.parametrize(
    "writer",
    [
        *(pytest.param(writer, id=name) for name, writer in WRITERS.items()),
        *(pytest.param(writer, id=name, marks=pytest.mark.slow) for name, writer in SLOW_WRITERS.items()),
    ],
)


# --- a disk that refuses ---------------------------------------------------------------------------------------------


def state(folder: Path, writer: Writer) -> dict[str, tuple[int, bytes]]:
    """What lies in a folder, but for a half to go on with: names, which file it is, and what is in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not name.startswith(writer.keeps or "/"):
            found[name] = (path.stat().st_ino, path.read_bytes()) if path.is_file() else (0, b"")
    return found


def attempt(writer: Writer, folder: Path) -> str:
    """Write as a program does; gives what it says on standard error, and "" where it is done."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_as_script(lambda: writer.write(folder), debug=False)
        except SystemExit as end:
            assert end.code == 2
            lines = said.getvalue().splitlines()
            return "".join(f"{line}\n" for line in lines if line and "%|" not in line)  # without libraries' bars
    return ""


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: the portable way to a disk that refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@each_writer
def test_a_disk_that_refuses(writer: Writer, tmp_path: Path) -> None:
    """At 20 places: one sentence with the target, exit code 2, the old files as they were, nothing beside them; the
    same call works when there is room, and its files have the umask's permissions."""
    folder = tmp_path / "place"
    folder.mkdir()
    with umask(0o027):
        writer.write(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {oct(0o640)}
    largest = max(path.stat().st_size for path in files)
    if not writer.replaces:
        folder = tmp_path / "new"
        folder.mkdir()
    before = state(folder, writer)
    told = rf"error: Could not write {re.escape(str(folder / writer.named))}: File too large\.\n"
    for point in range(writer.points):
        with largest_file(largest * point // writer.points):
            assert re.fullmatch(told, attempt(writer, folder))
        assert state(folder, writer) == before
    assert attempt(writer, folder) == ""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert not [
        name for name in names if ".partial" in name or ".old" in name or name.endswith((".lock", ".state.json"))
    ]
    assert {path.name for path in files} == {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("writer", [pytest.param(writer, id=name) for name, writer in WRITERS.items()])
def test_a_disk_that_is_full(writer: Writer, small_disk: Callable[[int], Path]) -> None:
    """The same where all files together take more than there is room for."""
    disk = small_disk(8_000)
    folder = disk / "place"
    folder.mkdir()
    free = _free(disk)
    writer.write(folder)
    needed = free - _free(disk)
    if not writer.replaces:
        folder = disk / "new"
        folder.mkdir()
    refused = 0
    for point in range(writer.points):
        before = state(folder, writer)
        with open(disk / "ballast", "wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, max(1, _free(disk) - needed * point // writer.points))
        said = attempt(writer, folder)
        (disk / "ballast").unlink()
        if said:
            refused += 1
            assert re.fullmatch(
                rf"error: Could not write \S*{re.escape(writer.named)}: No space left on device\.\n", said
            )
            assert state(folder, writer) == before
    assert refused
    assert attempt(writer, folder) == ""


def _free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


# --- everything that writes is in the list ---------------------------------------------------------------------------

#: What writes to a name, by the call's own name.
_WRITING = {
    *("write_text", "write_bytes", "touch", "save_pretrained", "save_to_disk", "savefig", "tofile", "rename", "dump"),
    *("save_file", "copyfile", "copy2", "copytree", "move", "link", "truncate"),
}
_WRITING_WHOLE = {
    "os.replace",
    "torch.save",
    "torch.export.save",
    "program.save",
    "numpy.save",
    "np.save",
    "shutil.copy",
}
_ATOMIC = {"atomic_file", "atomic_directory", "patient_stream"}
_IN_A_BLOCK = "fills a folder or file that its caller has from utils/writing.py"
#: Who writes without the helper, and why that may be.
MAY_WRITE = {
    "benchmarks/serve_peers.py::install": "packages of other servers, for the time of a measurement",
    "dataset/conll.py::write_conll": _IN_A_BLOCK,
    "dataset/submission.py::write_predictions": _IN_A_BLOCK,
    "dataset/submission.py::write_zip": _IN_A_BLOCK,
    "dataset/pregenerated_arrays.py::_locked": "the lock of a cache; dataset/ does not import utils/",
    "dataset/pregenerated_arrays.py::_write": "a cache, under a lock of its own",
    "dataset/pregenerated_arrays.py::flush": "a cache, under a lock of its own",
    "metric/cost.py::_reset_peak_resident_set": "no file, but a switch of the kernel",
    "model/delta.py::save_delta": _IN_A_BLOCK,
    "model/plugin/published.py::save_published_plugin": "for use in a notebook; model/ does not import utils/",
    "train_t5.py::save_best": _IN_A_BLOCK,
    "utils/archives.py::_write": _IN_A_BLOCK,
    "utils/augmentation/output.py::_open": "goes on where it stopped, under a lock; published when it is complete",
    "utils/checksums.py::recording": _IN_A_BLOCK,
    "utils/convert_t5.py::_copy_tokenizer": _IN_A_BLOCK,
    "utils/doctor/tiny.py::make_tiny": "a temporary folder",
    "utils/fetching.py::_keep_what_is_there": "gives a file that is there another name",
    "utils/fetching.py::_receive": "goes on where it stopped, under a lock; published when it is complete",
    "utils/embedded/backbone.py::write_backbone": _IN_A_BLOCK,
    "utils/embedded/bert.py::write_bert": _IN_A_BLOCK,
    "utils/embedded/corpus.py::write_corpus": _IN_A_BLOCK,
    "utils/embedded/tasks.py::write_glue": _IN_A_BLOCK,
    "utils/embedded/tasks.py::write_squad": _IN_A_BLOCK,
    "utils/engine/logs.py::__init__": "logs are appended to",
    "utils/engine/resume.py::_set_aside": "gives a damaged checkpoint another name",
    "utils/engine/run_directory.py::copy_arguments": _IN_A_BLOCK,
    "utils/export/onnx.py::write": _IN_A_BLOCK,
    "utils/export/probe.py::main": "a temporary folder",
    "utils/export/standalone.py::run": "a temporary folder",
    "utils/export/standalone.py::write": _IN_A_BLOCK,
    "utils/loading.py::copy_task_file": _IN_A_BLOCK,
    "utils/minidisc/job.py::save": _IN_A_BLOCK,
    "utils/opening/tokenizers.py::carry_tokenizer": _IN_A_BLOCK,
    "utils/plan/measure.py::_delta": "a temporary folder",
    "utils/opening/errors.py::silent_panics": "no file, but the null device",
    "utils/pregenerate/corpus.py::_flush": "the index of a corpus, which is removed at the end",
    "utils/streams.py::fill_closed": "no file, but a closed stream",
    **{
        f"utils/studies/faults/{place}": "a temporary folder, in which files are damaged"
        for place in (
            *("bench.py::__init__", "bench.py::_all", "bench.py::_child", "bench.py::_write_model"),
            *("damage.py::_neighbour", "damage.py::_older", "damage.py::damage", "rows.py::damaged_checkpoints"),
            *("rows.py::damaged_models", "rows.py::files_of_others", "rows.py::foreign_within"),
        )
    },
    "utils/studies/runner.py::run": "logs are appended to",
    "utils/tucker/training.py::save": _IN_A_BLOCK,
}


def _is_writing(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name in _WRITING_WHOLE or (last in _WRITING and (isinstance(call.func, ast.Attribute) or last == "save_file")):
        return True
    if last == "replace" and isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords:
        return re.search(r"(slots?(\[\w+\])?|block)$", ast.unparse(call.func.value)) is None  # of a model's modules
    if last not in ("open", "ZipFile"):
        return False
    place = 0 if isinstance(call.func, ast.Attribute) and last == "open" else 1
    modes = [*call.args[place : place + 1], *(word.value for word in call.keywords if word.arg == "mode")]
    texts = (node.value for mode in modes for node in ast.walk(mode) if isinstance(node, ast.Constant))
    return any(isinstance(text, str) and re.fullmatch(r"[rwaxbt+]*[wax+][rwaxbt+]*", text) for text in texts)


class _Walk(ast.NodeVisitor):
    """Which functions of a file write by themselves, and which have blocks of the helper."""

    def __init__(self, file: str) -> None:
        self.raw: set[str] = set()
        self.blocks: set[str] = set()
        self._file, self._function, self._inside = file, "", False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = self._function, self._inside
        self._function, self._inside = node.name, False
        self.generic_visit(node)
        self._function, self._inside = before

    def visit_With(self, node: ast.With) -> None:
        before = self._inside
        self.generic_visit_items(node)
        self._inside = before

    def generic_visit_items(self, node: ast.With) -> None:
        """The managers, then the body as their block."""
        for item in node.items:
            self.visit(item.context_expr)
            names = {name.id for name in ast.walk(item.context_expr) if isinstance(name, ast.Name)}
            if names & {*_ATOMIC, "atomic"}:
                self._inside = True
                self.blocks.add(f"{self._file}::{self._function}")
        for statement in node.body:
            self.visit(statement)

    def visit_Call(self, node: ast.Call) -> None:
        if _is_writing(node) and not self._inside:
            self.raw.add(f"{self._file}::{self._function}")
        if ast.unparse(node.func) == "publish":
            self.blocks.add(f"{self._file}::{self._function}")
        self.generic_visit(node)


def _walked(source: str, file: str) -> _Walk:
    walk = _Walk(file)
    walk.visit(ast.parse(source))
    return walk


@pytest.fixture(scope="module")
def sources() -> list[_Walk]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = listed.split() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    ours = [file for file in files if not file.startswith(("tests/", "docs/")) and not (ROOT / file).is_symlink()]
    return [_walked((ROOT / file).read_text(encoding="utf-8"), file) for file in ours]


def test_nobody_writes_past_the_helper(sources: list[_Walk]) -> None:
    """Every call that writes to a name stands in a block of `utils.writing`, or has a reason in the list above."""
    found = {place for walk in sources for place in walk.raw if not place.startswith("utils/writing.py")}
    assert found == {*MAY_WRITE}


def test_every_block_is_tried_on_a_full_disk(sources: list[_Walk]) -> None:
    """A new use of the helper needs a writer in `tests/helpers_writers.py`, or one that does the same."""
    found = {place for walk in sources for place in walk.blocks if not place.startswith("utils/writing.py")}
    tried = {place for writer in (*WRITERS.values(), *SLOW_WRITERS.values()) for place in writer.runs}
    assert found == tried | {*ALIKE}
    assert {*ALIKE.values()} <= {*WRITERS}


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')", "open(path, mode='xb')", "path.open('a')", "path.open('ab' if more else 'wb')",
        "path.write_text(text)", "os.replace(a, b)", "a.replace(b)", "shutil.move(a, b)", "save_file(t, path)",
        "torch.save(t, path)", "model.save_pretrained(folder)", "ZipFile(path, 'w')", "open(path, 'r+b')",
    ],
)  # fmt: skip
def test_the_walk_sees(source: str) -> None:
    """Each way to write is found outside of a block, and none inside; reading is no writing."""
    assert _walked(f"def f():\n    {source}", "a.py").raw == {"a.py::f"}
    assert not _walked(f"def f():\n    with atomic_file(path) as file:\n        {source}", "a.py").raw
    assert not _walked("open(path); path.open('rb'); text.replace('a', 'b'); slot.replace(new)", "a.py").raw


# --- kills, links, names, neighbours ---------------------------------------------------------------------------------

_HALF = """
import os, sys, time
from pathlib import Path
from utils.writing import atomic_directory
with atomic_directory(Path(sys.argv[1])) as new:
    (new / "half").write_text("half")
    print(new.parent.name, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    """The next writer of the same name sees which is which."""
    target = tmp_path / "best"
    processes = [
        subprocess.Popen([sys.executable, "-c", _HALF, str(target)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        dead, living = [process.stdout.readline().strip() for process in processes if process.stdout is not None]
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        with atomic_directory(target) as new:
            (new / "whole").write_text("whole")
        assert {path.name for path in tmp_path.iterdir()} == {"best", living} and dead != living
        assert (tmp_path / living / "best" / "half").read_text() == "half"
    finally:
        for process in processes:
            process.kill()
            process.wait()


_OFTEN = """
import sys
from pathlib import Path
from utils.writing import write_json
for _ in range(10):
    write_json(Path(sys.argv[1]), [int(sys.argv[2])] * 2000)
"""


def test_many_write_one_file(tmp_path: Path) -> None:
    """Whoever reads it meanwhile finds one of the values, whole, and nothing is left at the end."""
    target = tmp_path / "a.json"
    write_json(target, [0] * 2000)
    processes = [subprocess.Popen([sys.executable, "-c", _OFTEN, str(target), value], cwd=ROOT) for value in "12"]
    while any(process.poll() is None for process in processes):
        values = json.loads(target.read_text())
        assert len(values) == 2000 and len(set(values)) == 1
        time.sleep(0.01)
    assert [process.returncode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What it leads to is replaced, a file, a folder, or what is not there yet."""
    (tmp_path / "disk").mkdir()
    write_text(tmp_path / "disk" / "page.md", "old")
    for name in ("page.md", "new.md", "best"):
        (tmp_path / name).symlink_to(Path("disk") / name)
    write_text(tmp_path / "page.md", "new")
    write_text(tmp_path / "new.md", "new")
    for text in ("one", "two"):
        with atomic_directory(tmp_path / "best") as new:
            (new / "config.json").write_text(text)
    assert all((tmp_path / name).is_symlink() for name in ("page.md", "new.md", "best"))
    assert (tmp_path / "disk" / "page.md").read_text() == (tmp_path / "disk" / "new.md").read_text() == "new"
    assert (tmp_path / "disk" / "best" / "config.json").read_text() == "two"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a b", ".hidden", "[a]*", "x.partial"])
def test_any_name_that_the_file_system_takes(name: str, tmp_path: Path) -> None:
    """A temporary name is never too long, nor taken for a pattern."""
    for text in ("one", "two"):
        write_text(tmp_path / name, text)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "two"


def test_what_a_library_writes_beside_a_file_comes_along(tmp_path: Path) -> None:
    """As ONNX does with large weights: all of it, or nothing."""
    target = tmp_path / "m.onnx"

    def write(text: str, fails: bool) -> None:
        with atomic_file(target) as file:
            file.write_text(text)
            file.with_name("m.onnx.data").write_text(text)
            if fails:
                raise OSError(28, os.strerror(28))

    write("one", fails=False)
    with pytest.raises(WriteError, match=r"m\.onnx: No space left"):
        write("two", fails=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"m.onnx": "one", "m.onnx.data": "one"}


@pytest.mark.parametrize("target", ["file/below", "folder"])
def test_a_place_that_cannot_be_written(target: str, tmp_path: Path) -> None:
    """Below a file, or over a folder: one sentence, and the folders made on the way are gone."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in (target, f"new/../{target}"):
        with pytest.raises(
            UserError, match=rf"^Could not write \S*{target}: (Not a directory|File exists|Is a direct\w+)\.$"
        ):
            write_text(tmp_path / place, "text")
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


def test_other_errors_are_nobodys_full_disk(tmp_path: Path) -> None:
    """A bug keeps its type, and leaves nothing: not the folders on the way either."""
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "deep" / "er" / "a"):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "deep" / "best"):
        raise KeyboardInterrupt
    assert not [*tmp_path.iterdir()]
