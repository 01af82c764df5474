"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers_server import Server
from tests.tiny import Tiny

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TOOLKIT_SHARED", ROOT.parent / "shared"))
GOLDENS = ROOT / "tests" / "golden"
#: Golden cases that have checks; X0 only records how the original's scripts behave.
_CASE = re.compile(r"variator_|X[1-9]|M[0-9]")
#: Cases too large for tests/golden: read from the shared folder where it is there, skipped visibly elsewhere.
_LARGE_CASES = (
    *("X1_stack_order", "X2_forward_ffn", "X2_forward_san", "X3_tucker_quality", "X4_general_distill_loss_model"),
    *("X4_general_distill_loss_synthetic", "X5_tucker_plus_rect", "X5_tucker_plus_square", "X6_ket_embeddings"),
    *("X7_soft_cross_entropy_table", "X7_task_distill_classification", "X7_task_distill_regression"),
    *("X8_bertadam", "X9_corpus_cleanup", "X10_task_processors"),
    *("M1_sparsebert/a_mrpc", "M1_sparsebert/b_mrpc_rounding", "M1_sparsebert/c_stsb_regression"),
    *("M1_sparsebert/d_head12", "M1_sparsebert/e_conll_ner"),
    "M3_sandwich",
)
_parity_cases: list[str] = []
#: What was killed at random moments -> kills tried, runs lost; for the summary.
kills: dict[str, tuple[int, int]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=GOLDENS,
        help="folder of golden cases (npz + json); default: the copy in tests/golden",
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # models of a few thousand parameters are fastest on one thread
    # A shell's background jobs have SIGINT ignored, and what `nohup` starts SIGHUP; children inherit that.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        directory: Path = metafunc.config.getoption("--goldens")
        found = _cases_in(directory)
        if directory == GOLDENS:
            found |= _cases_in(SHARED / "goldens") | set(_LARGE_CASES)
        names = sorted(found)
        metafunc.parametrize("golden_case", names, ids=names)


def _cases_in(directory: Path) -> set[str]:
    """Names of the golden cases in a folder and in its folders: `X8_bertadam`, `M1_sparsebert/a_mrpc`."""
    paths = (path for pattern in ("*.json", "*/*.json") for path in directory.glob(pattern))
    names = {path.relative_to(directory).with_suffix("").as_posix() for path in paths}
    return {name for name in names if _CASE.match(name)}


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of golden cases."""
    return Path(request.config.getoption("--goldens")).resolve()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of the given number of KiB; skips where that is not allowed."""
    path = tmp_path / "disk"

    def mount(size: int) -> Path:
        path.mkdir()
        if shutil.which("mount") is None or os.geteuid() != 0:
            pytest.skip("mounting a tmpfs needs root")
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(path)]
        if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        return path

    yield mount
    if os.path.ismount(path):
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def server() -> Iterator[Server]:
    """A file server on this machine."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def case_directory(golden_case: str, goldens: Path) -> Path:
    """The folder that holds a golden case: `goldens`, or the shared one for a case too large to be copied."""
    for directory in (goldens, SHARED / "goldens"):
        if (directory / f"{golden_case}.json").is_file():
            return directory
    pytest.skip(f"golden case {golden_case} is not here: it is larger than what tests/golden holds (TOOLKIT_SHARED)")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; tests that need it skip where it is absent."""
    path = SHARED
    if not path.is_dir():
        pytest.skip(f"real data are not here: {path} (set TOOLKIT_SHARED)")
    return path


@pytest.fixture
def count_parity(golden_case: str, case_directory: Path) -> None:
    """Counts the parity cases that ran, for the summary."""
    _parity_cases.append(golden_case)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if kills:
        lines = ", ".join(f"{name} {tried}/{lost}" for name, (tried, lost) in kills.items())
        tried, lost = (sum(column) for column in zip(*kills.values(), strict=True))
        terminalreporter.write_line(f"kills at random moments: {tried} tried, {lost} runs lost ({lines})")
    if _parity_cases:
        directory = config.getoption("--goldens")
        terminalreporter.write_line(f"parity: {len(_parity_cases)} golden cases ran from {directory}")


@pytest.fixture(scope="session")
def kill_counts() -> dict[str, tuple[int, int]]:
    """What was killed -> kills tried, runs lost; told in the summary."""
    return kills


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A two-layer T5 with its tokenizer, and a few rows of SST-2, SQuAD and a corpus."""
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for models too small to share among several; a busy machine makes two of them wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def single_thread() -> Iterator[None]:
    """`one_thread` for a whole module, its fixtures included."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
