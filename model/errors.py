"""The one error that `model/` raises for a mistake of its user, and what libraries raise at files that others made."""

from __future__ import annotations

#: What libraries write into the errors of their own types where memory is not given to them.
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "out of memory")


class ModelError(ValueError):
    """A model, an edit or a weight file is not what was asked for; the text is one sentence for the user."""


def is_refusal(error: BaseException) -> bool:
    """Whether an error may be what a library says of a file that it cannot read: its readers raise any type.

    A panic of those written in Rust is no `Exception`; what stops a process (Ctrl-C, an exit) is none of theirs.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason_of(error: BaseException) -> str:
    """What such an error says, in one line; its type, where it says nothing."""
    text = str(error).strip()
    if isinstance(error, MemoryError) or any(part in text for part in _NO_MEMORY):
        return "this machine has not the memory that it asks for"
    if isinstance(error, RecursionError):
        return "its parts lie in each other too deeply, or name themselves"
    return (text.splitlines() or [type(error).__name__])[0]
