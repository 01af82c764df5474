"""Putting a matrix bank into a Hugging Face model in place of the encoder's dense projections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.models.bert.modeling_bert import BertIntermediate

from model.backbone import BERT, LayerSlots, Slot, describe_stacks, spec_for
from model.decomposition.bank import ExpandedBank, MatrixBank, PairBank, TuckerBank
from model.decomposition.expansion import fit_expansion
from model.decomposition.layers import DecomposedLinear, FusedIntermediate, MatrixGroup
from model.decomposition.plans import Shape
from model.decomposition.report import BlockErrors
from model.decomposition.stacking import FFN, GROUPS, Role, StackOrder, stack
from model.decomposition.tucker import Ranks, Tucker, shared_factors, truncated_svd, tucker
from model.errors import ModelError

if TYPE_CHECKING:
    from model.decomposition.config import DecompositionConfig

#: Name of the bank in the encoder's stack; the factors' keys in a checkpoint start with it.
BANK = "matrix_bank"
#: Attribute of the bank under which `apply` leaves the errors of the decomposition.
_ERRORS = "block_errors"


def apply_decomposition(model: Any, edit: DecompositionConfig) -> None:
    """Replace the dense projections by factors computed from them. Biases stay the same parameters.

    Raises:
        ModelError: nothing to decompose, a rank above its dimension, an FFN width that is no multiple of D.
    """
    order, layers = _prepared(model, edit)
    weights = [{role: slot.module.get_parameter("weight").detach() for role, slot in roles.items()} for roles in layers]
    tensor = stack(order, weights)
    bank = _empty_bank(edit, tensor.shape[0], order.width, {"device": tensor.device, "dtype": tensor.dtype})
    with torch.no_grad():
        errors = _fill(bank, edit, tensor)
    _attach(model, bank, order, layers)
    count = sum(parameter.numel() for parameter in bank.parameters())
    setattr(bank, _ERRORS, BlockErrors.of(order, errors, tensor, count))


def build_decomposition(model: Any, edit: DecompositionConfig) -> None:
    """The structure of `apply_decomposition` with drawn factors; `rank_layer` may then be above the number of blocks.

    Raises:
        ModelError: as `apply_decomposition`.
    """
    order, layers = _prepared(model, edit)
    dense = next(iter(layers[0].values())).module.get_parameter("weight")
    blocks = len(layers) * order.blocks
    bank = _empty_bank(edit, blocks, order.width, {"device": dense.device, "dtype": dense.dtype})
    bank.reset_parameters(float(getattr(model.config, "initializer_range", 0.02)))
    _attach(model, bank, order, layers)


def matrix_bank(model: Any) -> MatrixBank:
    """The bank of a decomposed model.

    Raises:
        ModelError: the model is not decomposed.
    """
    bank = getattr(spec_for(model).encoder(model), BANK, None)
    if not isinstance(bank, MatrixBank):
        raise ModelError(f"The model is not decomposed: {type(model).__name__} has no {BANK}.")
    return bank


def relative_errors(model: Any) -> BlockErrors:
    """How far the blocks were from the dense ones when the model was decomposed (unknown for a loaded model).

    Raises:
        ModelError: the model is not decomposed, or was not decomposed in this process.
    """
    errors = getattr(matrix_bank(model), _ERRORS, None)
    if errors is None:
        raise ModelError("The errors are known only where the model was decomposed, not where it was loaded or drawn.")
    assert isinstance(errors, BlockErrors)
    return errors


def forget_errors(model: Any) -> None:
    """Drop what `relative_errors` knows, as the bank is another one now."""
    matrix_bank(model).__dict__.pop(_ERRORS, None)


def matrix_groups(model: Any) -> list[MatrixGroup]:
    """The groups of projections of a decomposed model, first layer first."""
    layers = (module for module in spec_for(model).encoder(model).modules() if isinstance(module, DecomposedLinear))
    return list(dict.fromkeys(layer.group for layer in layers))


def own_modules(model: Any) -> dict[str, nn.Module]:
    """The bank and the decomposed layers (for their biases), by the names that a delta file gives them."""
    found: dict[str, nn.Module] = {BANK: matrix_bank(model)}
    for i, layer in enumerate(spec_for(model).encoder_layers(model)):
        for role, slot in role_slots(layer).items():
            if isinstance(slot.module, DecomposedLinear):
                found[f"layer.{i}.{role}"] = slot.module
    return found


def role_slots(layer: LayerSlots) -> dict[Role, Slot]:
    """The matrices of a layer by the names that the stacking order uses."""
    attention = layer.attention
    return {
        "query": attention.query,
        "key": attention.key,
        "value": attention.value,
        "output": attention.output,
        "ffn_in": layer.ffn_in[0],
        "ffn_out": layer.ffn_out,
    }


def _prepared(model: Any, edit: DecompositionConfig) -> tuple[StackOrder, list[dict[Role, Slot]]]:
    """The stacking order and every layer's slots that take part, all of them checked."""
    spec = spec_for(model)
    if spec.family != BERT.family:
        raise ModelError(f"The decomposition knows encoders of family {BERT.family!r}, found {spec.family!r}.")
    sizes = spec.sizes(model.config)
    order = StackOrder.of(edit.ops, sizes.width, sizes.ffn)
    layers = [
        {role: slot for role, slot in role_slots(layer).items() if role in order.roles}
        for layer in spec.encoder_layers(model)
    ]
    if not layers:
        raise ModelError(f"No encoder layer to decompose was found: {describe_stacks(model)}.")
    for i, roles in enumerate(layers):
        for role, slot in roles.items():
            if not isinstance(slot.module, nn.Linear):
                raise ModelError(f"Layer {i} has no dense {role} to decompose, found {type(slot.module).__name__}.")
            if (found := tuple(slot.module.weight.shape)) != (wanted := order.shape(role)):
                raise ModelError(
                    f"Layer {i}'s {role} has shape {found}, not {wanted}: a bank is made of blocks that are all as "
                    "wide as the model, so layers that lost heads or neurons cannot be decomposed."
                )
    for name in ("rank_condim", "rank_dim"):
        if (rank := getattr(edit, name)) is not None and rank > order.width:
            raise ModelError(f"{name} {rank} is above the model's width, {order.width}.")
    blocks = len(layers) * order.blocks
    if edit.is_expand and edit.rank_layer != blocks:
        raise ModelError(f"With is_expand each block has its core: rank_layer must be {blocks}, not {edit.rank_layer}.")
    return order, layers


def _empty_bank(edit: DecompositionConfig, blocks: int, width: int, kind: dict[str, Any]) -> MatrixBank:
    left, right = edit.rank_condim, edit.rank_dim
    assert right is not None
    if edit.protocol == "II":
        return PairBank(blocks, width, right, **kind)
    assert left is not None
    if edit.is_expand:
        assert edit.rank_left_expdim is not None and edit.rank_right_expdim is not None
        return ExpandedBank(blocks, width, (left, right), (edit.rank_left_expdim, edit.rank_right_expdim), **kind)
    return TuckerBank(blocks, width, (edit.rank_layer, left, right), **kind)


def _fill(bank: MatrixBank, edit: DecompositionConfig, tensor: Tensor) -> Tensor:
    """Set the bank's parameters from the stacked blocks; gives the relative error of each block."""
    if isinstance(bank, PairBank):
        low = truncated_svd(tensor, bank.inner.p)
        bank.left.copy_(low.left)
        bank.right.copy_(low.right)
        return low.block_errors
    assert isinstance(bank, TuckerBank)
    rank_left, rank_right, _ = bank.inner if not isinstance(bank, ExpandedBank) else (*bank.core.shape[1:], None)
    if bank.factor_layer is None:
        made: Tucker = shared_factors(tensor, rank_left, rank_right)
    else:
        made = tucker(tensor, Ranks(bank.core.shape[0], rank_left, rank_right))
        bank.factor_layer.copy_(made.layer)
    bank.core.copy_(made.core)
    bank.factor_left.copy_(made.left)
    bank.factor_right.copy_(made.right.T)
    return fit_expansion(bank, tensor) if isinstance(bank, ExpandedBank) else made.block_errors


def _attach(model: Any, bank: MatrixBank, order: StackOrder, layers: list[dict[Role, Slot]]) -> None:
    """Hang the bank into the encoder, and a layer that reads it into every slot."""
    encoder = spec_for(model).encoder(model)
    bank.train(encoder.training)
    encoder.add_module(BANK, bank)
    for i, roles in enumerate(layers):
        for members in GROUPS:
            if members[0] in order.roles:
                _replace_group(bank, order, i, members, roles)
    for layer in spec_for(model).encoder_layers(model):
        _fuse_activation(layer)


def _fuse_activation(layer: LayerSlots) -> None:
    """Let an FFN's GELU be a part of the product before it, in evaluation."""
    slot, activation = layer.ffn_in[0], layer.activation
    if activation is None or not isinstance(slot.module, DecomposedLinear):
        return
    if type(slot.parent) is BertIntermediate and isinstance(activation.module, GELUActivation):
        slot.parent.__class__ = FusedIntermediate


def _replace_group(
    bank: MatrixBank, order: StackOrder, layer: int, members: tuple[Role, ...], slots: dict[Role, Slot]
) -> None:
    rows = slice(order.rows(layer, members[0]).start, order.rows(layer, members[-1]).stop)
    count = rows.stop - rows.start
    shape = Shape(count, 1, order.width) if members == FFN[1:] else Shape(1, count, order.width)
    group = MatrixGroup(bank, members, rows, shape)
    for role in members:
        dense = slots[role].module
        assert isinstance(dense, nn.Linear)
        made = DecomposedLinear(
            group, role, order.rows(layer, role), (dense.in_features, dense.out_features), dense.bias
        )
        slots[role].replace(made.train(dense.training))
