"""T5's attention once its heads are in another order, or fewer.

The first block of a stack has a table of relative position biases, one column per head, which all blocks add to
their scores. The table keeps the original order and size: each block picks the columns of the heads that it has.

Shapes: B batch, L length, D width, H the original heads, h heads kept, d head size, K length of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.models.t5.modeling_t5 import T5Attention

from model.pruning.layers import zeros


class PrunedT5Attention(T5Attention):
    """T5's attention for the heads `head_ids` of the original ones; with none of them it gives 0.

    Of `head_ids` the first `n_heads` are in use.
    """

    head_ids: Tensor

    @classmethod
    def of(cls, block: T5Attention, head_ids: Sequence[int]) -> PrunedT5Attention:
        """Take over the modules of `block`, whose rows are in the order of `head_ids` (or will be)."""
        with torch.device("meta"):
            made = cls(block.config, block.has_relative_attention_bias, block.layer_idx, block.is_causal)
        for name, module in block.named_children():
            setattr(made, name, module)
        for name in ("dropout", "scaling", "gradient_checkpointing"):
            setattr(made, name, getattr(block, name))
        device = next(block.parameters()).device
        made.register_buffer("head_ids", torch.tensor(head_ids, dtype=torch.long, device=device))
        made.set_heads(len(head_ids))
        return made.train(block.training)

    def set_heads(self, count: int) -> None:
        """Use the first `count` heads."""
        self.n_heads = count
        self.inner_dim = count * self.key_value_proj_dim

    def cut_heads(self, count: int) -> None:
        """Forget all but the first `count` heads."""
        self.head_ids = self.head_ids[:count].clone()
        self.set_heads(count)

    def compute_bias(self, *args: Any, **kwargs: Any) -> Tensor:
        """The columns in use: (1, h, L, K)."""
        return self._pick(super().compute_bias(*args, **kwargs))

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As T5's, but the position bias that comes in and goes out is the whole table's, (1, H, L, K)."""
        start = 0 if past_key_values is None else past_key_values.get_seq_length(self.layer_idx)
        start = start.clone() if isinstance(start, Tensor) else start
        if key_value_states is not None:
            position_bias = None  # cross-attention adds zeros, of as many heads as the block has
        if self.n_heads:
            picked = None if position_bias is None else self._pick(position_bias)
            output, used, weights = super().forward(
                hidden_states, mask, key_value_states, picked, past_key_values, **kwargs
            )
            keys = used.shape[-1]
        else:
            output, weights = zeros(hidden_states, self.d_model), None
            keys = self._count_keys(hidden_states, past_key_values) if key_value_states is None else 0
        if position_bias is None and self.has_relative_attention_bias:
            position_bias = super().compute_bias(
                hidden_states.shape[1], keys, device=hidden_states.device, past_seen_tokens=start
            )
        return output, position_bias, weights

    def _pick(self, bias: Tensor) -> Tensor:
        return bias[:, self.head_ids[: self.n_heads]]

    def _count_keys(self, hidden_states: Tensor, past_key_values: Any) -> int:
        """The number of keys, noted in the cache although there is none to keep: the stack asks it for its length."""
        if past_key_values is None:
            return hidden_states.shape[1]
        cache = past_key_values
        if isinstance(cache, EncoderDecoderCache):
            cache = cache.self_attention_cache
        placeholder = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
        return int(cache.update(placeholder, placeholder, self.layer_idx)[0].shape[-2])


def as_pruned(block: nn.Module, head_ids: Sequence[int]) -> PrunedT5Attention:
    """`block` with the given heads, in their new order."""
    if isinstance(block, PrunedT5Attention):
        block.head_ids = torch.tensor(head_ids, dtype=torch.long, device=block.head_ids.device)
        return block
    assert isinstance(block, T5Attention)
    return PrunedT5Attention.of(block, head_ids)
