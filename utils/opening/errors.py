"""What goes wrong inside Transformers, tokenizers and safetensors when they read a folder, as one sentence."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging

from model.errors import is_refusal, reason_of
from utils.errors import UserError, user_errors


@contextmanager
def loading_errors(source: str, what: str = "model") -> Iterator[None]:
    """Inside, whatever a library raises at a damaged folder becomes one sentence; their readers raise any type.

    Raises:
        UserError: one did.
    """
    try:
        yield
    except user_errors():
        raise
    except SafetensorError as error:
        sizes = ", ".join(f"{p.name} ({p.stat().st_size} bytes)" for p in sorted(Path(source).glob("*.safetensors")))
        raise UserError(f"{source}: {sizes or 'the weight file'} is not a whole safetensors file: {error}.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"No {what} could be loaded from {source}: its pytorch_model.bin is damaged or holds more than plain "
            "tensors; nothing in it was executed."
        ) from error
    except BaseException as error:
        if not is_refusal(error):
            raise
        reason = reason_of(error)
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own (auto_map), which is never run."
        elif "ignore_mismatched_sizes" in str(error):
            reason = "its weights have other shapes than its config.json says."
        elif not isinstance(error, OSError | ValueError | MemoryError | RecursionError | RuntimeError):
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(f"No {what} could be loaded from {source}: {reason}") from error


@contextmanager
def silent_panics() -> Iterator[None]:
    """Inside, what a library written in Rust says of its panic, beside the error that it raises, is not shown."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def without_report() -> Iterator[None]:
    """Without Transformers' table of missing and superfluous tensors: what matters of it is checked by the caller."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
