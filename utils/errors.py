"""What a user's mistake looks like: one sentence on standard error and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from dataset.errors import DataError
from metric.errors import MetricError
from model.errors import ModelError

T = TypeVar("T")

#: Exit code of a mistake in flags, files or data (argparse uses the same).
USER_ERROR_CODE = 2


#: Where launchers say which process this is.
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
#: A launcher ends all processes within this time when the main one has ended with an error.
_OTHERS_WAIT_S = 10.0


class UserError(ValueError):
    """A flag, a file or a combination of them is not what it must be; the text is one sentence."""


class Interrupted(Exception):
    """The run was asked to stop, has saved a checkpoint and can be resumed."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


USER_ERRORS: tuple[type[Exception], ...] = (UserError, DataError, ModelError, MetricError)


@contextmanager
def writing(what: object) -> Iterator[None]:
    """What the operating system refuses inside (a full disk, no permission) is told in one sentence.

    Args:
        what: the file or folder that is written.

    Raises:
        UserError: it was refused.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"Could not write {what}: {error.strerror or error}.") from error


def run_as_script(main: Callable[[], T], debug: bool) -> T:
    """Run `main`; a user's mistake or Ctrl-C ends the process with one sentence (with the traceback if `debug`).

    So does the loss of another process (`utils.engine.watch`), with exit code 3.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # a script may load its libraries so
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = main()
        _say_goodbye(wait=True)
        return result
    except Interrupted as stop:
        _say_goodbye(wait=True)
        print(f"stopped: {stop}", file=sys.stderr)
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:
        if debug:
            raise
        print("stopped: interrupted, nothing more was saved.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except SystemExit:
        _say_goodbye(wait=False)
        raise
    except USER_ERRORS as error:
        _say_goodbye(wait=False)
        if debug:
            raise
        _let_main_process_tell(error)
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR_CODE) from None
    except RuntimeError as error:
        if not debug and (watch := _watch()) is not None:
            watch.end_if_lost(error)
        raise


def _watch() -> Any:
    """`utils.engine.watch`, which imports this module, once it is in use."""
    return sys.modules.get("utils.engine.watch")


def _say_goodbye(wait: bool) -> None:
    if (watch := _watch()) is not None:
        watch.say_goodbye(wait)


def mark_own(error: Exception) -> Exception:
    """Note that no other process tells this error."""
    error._is_own = True  # type: ignore[attr-defined]
    return error


def _let_main_process_tell(error: Exception) -> None:
    """Wait, in another process than the main one: what all have found, that one tells, and the launcher ends us.

    What only this process has found is told at once, or when the wait is over.
    """
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    if rank != "0" and not getattr(error, "_is_own", False):
        time.sleep(_OTHERS_WAIT_S)
