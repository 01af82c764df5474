"""What a user's mistake looks like: one sentence on standard error and exit code 2."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from dataset.errors import DataError
from metric.errors import MetricError
from notation.errors import NotationError
from utils.addresses import without_secrets
from utils.going_on import again
from utils.heartbeat import listen
from utils.memory import memory_ran_out, worker_that_ended
from utils.streams import lost_output, protect
from utils.telling import launched_rank
from utils.warning_lines import show_warnings

T = TypeVar("T")

#: Exit code of a mistake in flags, files or data (argparse uses the same).
USER_ERROR_CODE = 2
#: Of the end of a process that a run needs: another of its processes, or one that prepares batches.
LOST_PROCESS_CODE = 3

#: A launcher ends all processes within this time when the main one has ended with an error.
_OTHERS_WAIT_S = 10.0


#: Letters of what is told of an error, and of its beginning where that is more.
_LONGEST_TOLD, _BEGINNING = 2000, 1500


class UserError(ValueError):
    """A flag, a file or a combination of them is not what it must be; the text is one sentence."""


class WriteError(UserError):
    """A file or folder that could not be written.

    Args:
        what: its name, with a flag where that helps.
        reason: the operating system's words.
    """

    def __init__(self, what: object, reason: str) -> None:
        super().__init__(what, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"Could not write {self.args[0]}: {self.reason}."


class OutOfMemory(UserError):
    """Memory ran out in a training.

    Attributes:
        flags: with which the same command goes on in less, if there are any.
    """

    def __init__(self, message: str, flags: Sequence[str]) -> None:
        super().__init__(message)
        self.flags = flags


class Interrupted(Exception):
    """The run was asked to stop, has saved a checkpoint and can be resumed."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def user_errors() -> tuple[type[Exception], ...]:
    """The errors that are a user's mistake. `model` needs torch, and raises its own only where it has been imported."""
    errors = sys.modules.get("model.errors")
    return (UserError, DataError, MetricError, NotationError, *([] if errors is None else [errors.ModelError]))


#: What the operating system refuses because of a name, a permission or a full disk: the user's matter, not a bug.
_REFUSALS = frozenset(
    getattr(errno, name)
    for name in (
        *("ENAMETOOLONG", "ENOTDIR", "EISDIR", "ELOOP", "ENOENT", "EACCES", "EPERM"),
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE", "EMFILE"),
    )
)


_NAMES = (str, bytes, os.PathLike)
#: How libraries that are written in Rust, and `shutil`, pass on what the operating system said.
_SYSTEM_ERROR = re.compile(r"(?:\(os error |\[Errno )(\d+)[\])]")


def write_failure(error: BaseException) -> str | None:
    """The operating system's words for a disk that is full or not writable; None for any other error."""
    if isinstance(error, WriteError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if (found := _SYSTEM_ERROR.search(str(error))) is not None:
        return os.strerror(int(found[1]))
    if isinstance(error, OSError):
        return str(error)
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else None


def refusal_of(error: BaseException | None) -> str | None:
    """A sentence for a name, a permission or a disk that the operating system refuses; None for any other error.

    Libraries wrap such errors in their own, so that causes are looked at too.
    """
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in _REFUSALS:
                named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, _NAMES) else ""
                return f"{named}{error.strerror}."
        elif (reason := write_failure(error)) is not None:
            return f"A file could not be written: {reason}."
        error = error.__cause__
    return None


@contextmanager
def writing(what: object) -> Iterator[None]:
    """What the operating system refuses inside (a full disk, no permission) is told in one sentence.

    Args:
        what: the file or folder that is written.

    Raises:
        WriteError: it was refused.
    """
    try:
        yield
    except Exception as error:
        is_told = isinstance(error, user_errors()) and not isinstance(error, WriteError)
        if is_told or (reason := write_failure(error)) is None:
            raise
        raise WriteError(what, reason) from error


def run_as_script(main: Callable[[], T], debug: bool, waits: bool = False, goes_on: Sequence[str] | None = None) -> T:
    """Run `main`; a user's mistake or Ctrl-C ends the process with one sentence (with the traceback if `debug`).

    So does what the operating system refuses (a name that is too long, a full disk), and the loss of another process
    (`utils.engine.watch`), with exit code 3. Standard output may be closed or cut off (`| head -1`).

    Args:
        waits: for others to ask it something, so that its silence needs no explanation.
        goes_on: words with which the same command goes on where it was stopped, which is then proposed.
    """
    protect()
    heart = listen() if launched_rank() == "0" and not waits else None
    show_warnings(launched_rank() == "0")
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # a script may load its libraries so
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = main()
        _say_goodbye(wait=True)
        sys.stdout.flush()
        if (reason := lost_output()) is not None:
            raise UserError(f"Could not write standard output: {reason}.")
        return result
    except Interrupted as stop:
        _say_goodbye(wait=True)
        _tell_stop(str(stop), goes_on)
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:
        if debug:
            raise
        _tell_stop("interrupted, nothing more was saved.", goes_on)
        raise SystemExit(128 + signal.SIGINT) from None
    except SystemExit:
        _say_goodbye(wait=False)
        raise
    except Exception as error:
        if isinstance(error, user_errors()):
            more = error.flags if isinstance(error, OutOfMemory) else None
            _end_with(error, str(error), debug, more=[*goes_on, *more] if goes_on and more else None)
        if (lost := worker_that_ended(error)) is not None:
            _end_with(mark_own(error), lost, debug, LOST_PROCESS_CODE, goes_on)
        if (ran_out := memory_ran_out(error)) is not None:
            _end_with(mark_own(error), f"{ran_out}: smaller batches, shorter rows or a smaller model need less.", debug)
        if not debug and isinstance(error, RuntimeError) and (watch := _watch()) is not None:
            watch.end_if_lost(error)
        if (refusal := refusal_of(error)) is None:
            raise
        _end_with(error, refusal, debug)
    finally:
        if heart is not None:
            heart.stop()


def _end_with(
    error: Exception, sentence: str, debug: bool, code: int = USER_ERROR_CODE, more: Sequence[str] | None = None
) -> NoReturn:
    """Tell an error in one sentence, and the command that goes on with `more` words, and end the process."""
    _say_goodbye(wait=False)
    if debug:
        raise error
    _let_main_process_tell(error)
    _tell(f"error: {one_line(sentence)}")
    if more is not None:
        _tell_next(more)
    raise SystemExit(code) from None


def _tell(text: str) -> None:
    """One line on standard error, though a path in it may hold line ends; an excerpt, indented below it, stays."""
    print(_flat(without_secrets(text)), file=sys.stderr)


def one_line(text: str) -> str:
    """A sentence without its line ends, and without the middle of a value of a thousand letters that is shown in it."""
    text = _flat(text)
    return text if len(text) <= _LONGEST_TOLD else f"{text[:_BEGINNING]} … {text[_BEGINNING - _LONGEST_TOLD :]}"


def _flat(text: str) -> str:
    return re.sub(r"\n(?!  )", r"\\n", text)


def _tell_stop(text: str, goes_on: Sequence[str] | None) -> None:
    """That the process was asked to stop, and from the main one the command that goes on."""
    _tell(f"stopped: {text}")
    _tell_next(goes_on)


def _tell_next(goes_on: Sequence[str] | None) -> None:
    if launched_rank() == "0" and (line := again(goes_on)) is not None:
        _tell(f"next: {line}")


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
    if launched_rank() != "0" and not getattr(error, "_is_own", False):
        time.sleep(_OTHERS_WAIT_S)
