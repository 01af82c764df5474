"""What is said of an environment that lacks something for `--engine bmtrain`, or whose NCCL was overwritten."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import general_distill
import task_distill
from tests.tiny import Tiny, run
from utils import installation
from utils.errors import UserError
from utils.installation import nccl_conflict, nccl_failure

CUDA13 = ["numpy>=1; extra == 'x'", 'nvidia-nccl-cu13==2.28.9; platform_system == "Linux"', "sympy>=1.13"]
CPU = ["sympy>=1.13", "filelock"]
SYMBOL = "/venv/lib/python3.11/site-packages/torch/lib/libtorch_cuda.so: undefined symbol: ncclCommResume"
MEND = "`pip uninstall -y nvidia-nccl-cu11 && pip install --force-reinstall --no-deps nvidia-nccl-cu13==2.28.9`"


@pytest.mark.parametrize(
    ("distributions", "requirements"),
    [
        ({"torch": "2.13.0", "nvidia-nccl-cu13": "2.28.9"}, CUDA13),
        ({"torch": "2.13.0", "nvidia-nccl-cu11": "2.21.5"}, CPU),
        ({"torch": "2.13.0", "nvidia-nccl-cu13-tools": "1", "nvidia-nccl-cu13": "2.28.9"}, CUDA13),
        ({}, []),
    ],
)
def test_no_conflict(distributions: dict[str, str], requirements: list[str]) -> None:
    """Torch's own NCCL, or any beside a torch for CPUs, which has none."""
    assert nccl_conflict(distributions, requirements) is None


@pytest.mark.parametrize("foreign", ["nvidia-nccl-cu11", "nvidia-nccl-cu12"])
def test_conflict(foreign: str) -> None:
    """Another major version beside torch's: one sentence, with the commands that mend it."""
    found = nccl_conflict({"torch": "2.13.0", "nvidia-nccl-cu13": "2.28.9", foreign: "2.21.5"}, CUDA13)
    assert found == (
        f"{foreign} 2.21.5 is installed beside nvidia-nccl-cu13 2.28.9, which this torch needs, and both bring the "
        f"file nvidia/nccl/lib/libnccl.so.2: mend it with {MEND.replace('nvidia-nccl-cu11', foreign)}."
    )


def test_torch_that_cannot_be_imported() -> None:
    """The other one is named where it is still there; it may be gone with the file, or be no distribution."""
    both = {"nvidia-nccl-cu11": "2.21.5", "nvidia-nccl-cu13": "2.28.9"}
    found = nccl_failure(SYMBOL, both, CUDA13)
    assert found is not None and MEND in found
    assert found.startswith("torch cannot be imported (libtorch_cuda.so: undefined symbol: ncclCommResume): nvidia-ncc")
    missing = "libnccl.so.2: cannot open shared object file: No such file or directory"
    found = nccl_failure(missing, {"nvidia-nccl-cu13": "2.28.9"}, CUDA13)
    assert found is not None and "`pip install --force-reinstall --no-deps nvidia-nccl-cu13==2.28.9`" in found
    assert nccl_failure("libcublas.so.13: cannot open shared object file", both, CUDA13) is None
    assert nccl_failure(SYMBOL, {}, []) is not None


@pytest.mark.parametrize("script", ["train_t5.py", "general_distill.py", "task_distill.py"])
def test_scripts_say_that_torch_is_broken(script: str, tmp_path: Path) -> None:
    """Instead of a traceback: exit code 2 and one sentence, from the real script with a torch that cannot load."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"raise ImportError({SYMBOL!r})\n")
    words = _WORDS[script].format(at=tmp_path).split()
    ended = subprocess.run(
        [sys.executable, "-c", _START.format(path=str(tmp_path), script=script, words=words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: torch cannot be imported (libtorch_cuda.so: undefined symbol: ncclComm")
    assert ended.stderr.count("\n") == 1


#: As `python SCRIPT --help`, with a folder before all others on the path.
#: What each script takes: broken libraries are told once the flags are understood.
_WORDS = {
    "train_t5.py": "--task_name sst2 --data_dir {at} --model_config {at} --output_dir o",
    "general_distill.py": "--pregenerated_data {at} --teacher_model {at} --student_model {at} --output_dir o",
    "task_distill.py": "--task_name sst2 --data_dir {at} --teacher_model {at} --student_model {at} --output_dir o",
}
_START = """
import runpy, sys
sys.path[:0] = [{path!r}, "."]
sys.argv = ["x", *{words!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_engine_bmtrain_here(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU and BMTrain: one sentence with the safe command, before anything is made."""
    monkeypatch.setattr(installation, "has_cuda", lambda: False)
    monkeypatch.setitem(sys.modules, "bmtrain", None)
    with pytest.raises(UserError) as caught:
        run(tiny.sst2(tmp_path / "run", "--engine", "bmtrain"))
    assert str(caught.value) == (
        "--engine bmtrain needs an NVIDIA GPU, which torch does not find, and BMTrain, which is not installed "
        "(`pip install --no-deps bmtrain==1.0.1`, never with its dependencies); use --engine ddp or fsdp."
    )
    assert not (tmp_path / "run").exists()


def test_bmtrain_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built for another torch, say: the reason; and a missing module of its own by name."""
    monkeypatch.setattr(installation, "has_cuda", lambda: True)
    errors: list[Exception] = [
        ImportError("bmtrain/C.so: undefined symbol: _ZN2at"),
        ModuleNotFoundError("No module named 'cpm'", name="cpm"),
    ]

    def failing(name: str) -> ModuleType:
        raise errors.pop(0)

    monkeypatch.setattr(importlib, "import_module", failing)
    with pytest.raises(UserError, match=r"^--engine bmtrain: BMTrain is installed but cannot be imported \(bmtrain/C"):
        installation.load_bmtrain()
    with pytest.raises(UserError, match=r"^--engine bmtrain needs the module cpm, which BMTrain imports"):
        installation.load_bmtrain()


def test_overwritten_nccl_is_told_at_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even while torch still loads."""
    monkeypatch.setattr(installation, "installed", lambda: {"nvidia-nccl-cu11": "2.21.5"})
    monkeypatch.setattr(installation, "torch_requirements", lambda: CUDA13)
    with pytest.raises(UserError, match=r"^--engine bmtrain: nvidia-nccl-cu11 2\.21\.5 is installed beside"):
        installation.load_bmtrain()


def test_the_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m utils.installation`: what is well; exit code 2 where NCCL is not."""
    monkeypatch.setitem(sys.modules, "bmtrain", None)
    monkeypatch.setattr(installation, "has_cuda", lambda: False)
    monkeypatch.setattr(sys, "argv", ["installation"])
    installation.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("torch 2.") and lines[1].startswith("bmtrain: --engine bmtrain needs an NVIDIA GPU")
    monkeypatch.setattr(installation, "installed", lambda: {"nvidia-nccl-cu11": "2.21.5"})
    monkeypatch.setattr(installation, "torch_requirements", lambda: CUDA13)
    with pytest.raises(SystemExit) as ended:
        installation.main()
    assert ended.value.code == 2 and MEND in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (general_distill.main, "--pregenerated_data x --teacher_model x --student_model x --output_dir {out}"),
        (task_distill.main, "--task_name sst-2 --data_dir x --teacher_model x --student_model x --output_dir {out}"),
    ],
)
def test_other_scripts_refuse_it(script: object, words: str, tmp_path: Path) -> None:
    """They train BERTs, of which nothing was tried."""
    with pytest.raises(UserError, match=r"^--engine bmtrain trains T5 alone, with train_t5\.py; use --engine ddp or f"):
        script([*words.format(out=tmp_path / "out").split(), "--engine", "bmtrain"])  # type: ignore[operator]
