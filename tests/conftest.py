"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import Tiny

ROOT = Path(__file__).resolve().parent.parent
_parity_cases: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=ROOT / "tests" / "golden",
        help="folder of golden cases (npz + json); default: the copy in tests/golden",
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # models of a few thousand parameters are fastest on one thread


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        directory: Path = metafunc.config.getoption("--goldens")
        names = sorted(path.stem for path in directory.glob("variator_*.json"))
        metafunc.parametrize("golden_case", names, ids=names)


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of golden cases."""
    return Path(request.config.getoption("--goldens")).resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; tests that need it skip where it is absent."""
    path = Path(os.environ.get("TOOLKIT_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"real data are not here: {path} (set TOOLKIT_SHARED)")
    return path


@pytest.fixture
def count_parity(golden_case: str) -> None:
    """Counts the parity cases that ran, for the summary."""
    _parity_cases.append(golden_case)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _parity_cases:
        directory = config.getoption("--goldens")
        terminalreporter.write_line(f"parity: {len(_parity_cases)} golden cases ran from {directory}")


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
