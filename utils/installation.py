"""Whether torch's own NCCL was overwritten, what `--engine bmtrain` lacks, and what to do about either.

    python -m utils.installation      says what is wrong with this Python environment, if anything is

The distributions nvidia-nccl-cu11, -cu12 and -cu13 all bring the same file, nvidia/nccl/lib/libnccl.so.2. Installing
another one than torch was built with leaves a torch that cannot be imported, so nothing here needs torch at import.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from utils.streams import protect

#: Nothing but BMTrain itself: one of its dependencies is nvidia-nccl-cu11.
INSTALL_BMTRAIN = "pip install --no-deps bmtrain==1.0.1"
_OTHERS = "use --engine ddp or fsdp"
_NCCL = re.compile(r"nvidia-nccl-cu\d+")
_REQUIRED_NCCL = re.compile(r"(nvidia-nccl-cu\d+)\s*\(?==\s*([\w.+]+)")


def installed() -> dict[str, str]:
    """Name (lower case, with hyphens) and version of every distribution of this environment."""
    found = ((d.metadata["Name"], d.version) for d in metadata.distributions())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found if name}


def torch_requirements() -> list[str]:
    """What the installed torch asks for, in the words of its metadata; nothing where there is none."""
    try:
        return metadata.requires("torch") or []
    except metadata.PackageNotFoundError:
        return []


def has_cuda() -> bool:
    """Whether torch finds an NVIDIA GPU."""
    import torch

    return torch.cuda.is_available() and torch.version.cuda is not None


def nccl_conflict(distributions: Mapping[str, str], requirements: Iterable[str]) -> str | None:
    """The sentence for a user whose torch shares its NCCL's file with another NCCL; None if it does not.

    Args:
        distributions: see `installed`.
        requirements: see `torch_requirements`; a torch for CPUs asks for no NCCL, and cannot be harmed.
    """
    needed = next((found for text in requirements if (found := _REQUIRED_NCCL.match(text))), None)
    if needed is None:
        return None
    foreign = sorted(name for name in distributions if _NCCL.fullmatch(name) and name != needed[1])
    if not foreign:
        return None
    named = " and ".join(f"{name} {distributions[name]}" for name in foreign)
    return (
        f"{named} is installed beside {needed[1]} {needed[2]}, which this torch needs, and both bring the file "
        f"nvidia/nccl/lib/libnccl.so.2: {_mend(needed[1], needed[2], foreign)}."
    )


def nccl_failure(message: str, distributions: Mapping[str, str], requirements: Iterable[str]) -> str | None:
    """The sentence for an ImportError of torch that is NCCL's fault; None for any other.

    Args:
        message: of the error, such as `libtorch_cuda.so: undefined symbol: ncclCommResume`.
        distributions, requirements: see `nccl_conflict`.
    """
    if "nccl" not in message.lower():
        return None
    requirements = list(requirements)
    reason = message.strip().splitlines()[0].rpartition("/")[2]
    if conflict := nccl_conflict(distributions, requirements):
        return f"torch cannot be imported ({reason}): {conflict}"
    needed = next((found for text in requirements if (found := _REQUIRED_NCCL.match(text))), None)
    if needed is None:
        return f"torch cannot be imported ({reason}): its NCCL is missing or another one than it was built with."
    return (
        f"torch cannot be imported ({reason}): the file nvidia/nccl/lib/libnccl.so.2 is missing or not that of "
        f"{needed[1]} {needed[2]}; {_mend(needed[1], needed[2], [])}."
    )


def _mend(name: str, version: str, foreign: list[str]) -> str:
    """Removing the other one takes the common file away, so that torch's own has to be written again."""
    remove = f"pip uninstall -y {' '.join(foreign)} && " if foreign else ""
    return f"mend it with `{remove}pip install --force-reinstall --no-deps {name}=={version}`"


def import_torch() -> None:
    """Import torch; where NCCL prevents that, end the process with one sentence and exit code 2."""
    try:
        importlib.import_module("torch")
    except (ImportError, OSError) as error:
        sentence = nccl_failure(str(error), installed(), torch_requirements())
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None


def load_bmtrain() -> Any:
    """The module `bmtrain`.

    Raises:
        UserError: something that it needs is missing or broken.
    """
    from utils.errors import UserError

    if conflict := nccl_conflict(installed(), torch_requirements()):
        raise UserError(f"--engine bmtrain: {conflict}")
    missing = [] if has_cuda() else ["an NVIDIA GPU, which torch does not find"]
    module, failure = None, None
    try:
        module = importlib.import_module("bmtrain")
    except ModuleNotFoundError as error:
        what = "BMTrain" if error.name == "bmtrain" else f"the module {error.name}, which BMTrain imports"
        missing.append(f"{what}, which is not installed (`{INSTALL_BMTRAIN}`, never with its dependencies)")
    except (ImportError, OSError, AttributeError) as error:
        failure = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if missing:
        raise UserError(f"--engine bmtrain needs {', and '.join(missing)}; {_OTHERS}.")
    if failure:
        raise UserError(
            f"--engine bmtrain: BMTrain is installed but cannot be imported ({failure}); docs/distributed.md says how "
            f"it is built for this torch, or {_OTHERS}."
        )
    return module


def main() -> None:
    """Command line."""
    from utils.arguments import ToolParser

    ToolParser(
        prog="python -m utils.installation", description="Says what is wrong with this environment."
    ).parse_args()
    import_torch()
    if conflict := nccl_conflict(installed(), torch_requirements()):
        print(f"error: {conflict}", file=sys.stderr)
        raise SystemExit(2)
    from utils.errors import UserError

    present = installed()
    print(f"torch {present.get('torch', '?')}: ok, with the NCCL that it was built with or none")
    try:
        load_bmtrain()
        print(f"bmtrain {present.get('bmtrain', '?')}: ok")
    except UserError as error:
        print(f"bmtrain: {error}")


if __name__ == "__main__":
    protect()
    main()
