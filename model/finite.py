"""Outputs that are not finite numbers, and the tensor of the model that is to blame."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from model.errors import ModelError


class NotFiniteError(ModelError):
    """A model computes what is not a finite number."""


def first_not_finite(module: nn.Module) -> str | None:
    """The first parameter or buffer that holds what is not finite, and what: `layer.weight holds nan`."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"{name} holds {tensor[~tensor.isfinite()].flatten()[0].item()}"
    return None


def check_outputs(values: Tensor, module: nn.Module, what: str = "The model") -> None:
    """Refuse outputs, losses or scores of `module` that are not finite.

    Args:
        values: of any shape.
        what: the beginning of the sentence: the model's name or folder.

    Raises:
        NotFiniteError: with the tensor of the module that holds such a number itself.
    """
    if not bool(values.isfinite().all()):
        found = values[~values.isfinite()].flatten()[0].item()
        blamed = first_not_finite(module)
        reason = f"its tensor {blamed}" if blamed else "all its weights are finite, so a product overflows: try fp32"
        raise NotFiniteError(f"{what} gives {found}, which is no prediction: {reason}.")


def check_rows(are_finite: Iterable[bool], module: nn.Module) -> None:
    """`check_outputs` of rows of which it is known already whether all their numbers are finite."""
    check_outputs(torch.tensor([0.0 if row else torch.nan for row in are_finite]), module)


def check_weights(module: nn.Module) -> None:
    """Refuse a module of which a parameter or buffer holds what is not finite.

    Raises:
        NotFiniteError: with its name.
    """
    if blamed := first_not_finite(module):
        raise NotFiniteError(f"The model cannot predict: its tensor {blamed}.")
