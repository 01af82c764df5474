"""What goes wrong inside Transformers, tokenizers and safetensors when they read a folder, as one sentence."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging

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
    except Exception as error:
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own (auto_map), which is never run."
        elif "ignore_mismatched_sizes" in str(error):
            reason = "its weights have other shapes than its config.json says."
        elif not isinstance(error, OSError | ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(f"No {what} could be loaded from {source}: {reason}") from error


@contextmanager
def without_report() -> Iterator[None]:
    """Without Transformers' table of missing and superfluous tensors: what matters of it is checked by the caller."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def first_line(error: Exception) -> str:
    """Of what an error says the first line, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
