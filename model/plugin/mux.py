"""The compression plugin's mathematics: k hidden vectors in, one through the FFN, k out again.

Source: Variator (Xiao et al., Findings of EMNLP 2023), section 3; facts of the original code's behaviour.

Shapes: B batch, L length (a multiple of K), G = L / K groups, D width, K ratio, H bottleneck (64).
`scale` is S, the quotient of this backbone's residual stream and the one that the plugin's parameters
were made for: 100 for published plugins on a Hugging Face T5, 1 for parameters in the backbone's own units.

This file knows no backbone: it can be tested with three tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import ModelError


def mux(x_BLD: Tensor, weight: Tensor, bias: Tensor, mask_BL: Tensor | None = None) -> Tensor:
    """Squeeze every group of K consecutive vectors into their weighted sum.

    The K weights of a group are the softmax of one linear map (K·D -> K) of the group's concatenated vectors.

    Args:
        x_BLD: input of the FFN, after its layer norm.
        weight: (K, K·D).
        bias: (K,).
        mask_BL: 1 for real positions. Padded ones then weigh nothing and their vectors are not looked at, so
            the result does not depend on what stands in them. None keeps the original's grouping, which mixes
            them in.

    Returns:
        (B, G, D).

    Raises:
        ModelError: L is not a multiple of K.
    """
    ratio = weight.shape[0]
    batch, length, width = x_BLD.shape
    if length % ratio:
        raise ModelError(f"A sequence of {length} positions cannot be cut into groups of {ratio}: pad it first.")
    groups = length // ratio
    if mask_BL is not None:
        x_BLD = x_BLD * mask_BL.unsqueeze(-1).to(x_BLD.dtype)
    scores_BGK = F.linear(x_BLD.reshape(batch, groups, ratio * width), weight, bias)
    scores_BGK = scores_BGK.to(torch.promote_types(scores_BGK.dtype, torch.float32))
    if mask_BL is not None:
        padded_BGK = mask_BL.view(batch, groups, ratio) == 0
        # A group of padding alone has zeros to weigh: any finite weights will do.
        lowest = torch.finfo(scores_BGK.dtype).min
        scores_BGK = scores_BGK.masked_fill(padded_BGK, lowest)
    weights_BGK = scores_BGK.softmax(-1)
    grouped_BGKD = x_BLD.reshape(batch, groups, ratio, width)
    return (weights_BGK.to(x_BLD.dtype).unsqueeze(2) @ grouped_BGKD).squeeze(2)


def demux(
    y_BGD: Tensor,
    x_BLD: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """Spread each compressed output over its K positions and correct it by an adapter.

    out = rep(y) + S · (W_out · tanh(W_in · [rep(y)/S ; x] + b_in) + b_out)

    The half of W_in that reads y sees the same vector K times, so it is computed once per group.

    Args:
        y_BGD: FFN output of the compressed vectors, in the backbone's units.
        x_BLD: the FFN's uncompressed input, after its layer norm.
        w_in: (H, 2·D), columns for y first.
        b_in: (H,).
        w_out: (D, H).
        b_out: (D,).
        scale: S.

    Returns:
        (B, L, D), without the residual connection.
    """
    batch, groups, width = y_BGD.shape
    ratio = x_BLD.shape[1] // groups
    from_y_BGH = F.linear(y_BGD, w_in[:, :width] if scale == 1.0 else w_in[:, :width] / scale, b_in)
    from_x_BGKH = F.linear(x_BLD, w_in[:, width:]).view(batch, groups, ratio, -1)
    hidden_BGKH = torch.tanh(from_x_BGKH + from_y_BGH.unsqueeze(2))
    if scale != 1.0:
        w_out, b_out = w_out * scale, b_out * scale
    correction_BGKD = F.linear(hidden_BGKH, w_out, b_out)
    # In place: the backward pass of a linear map does not need its own output.
    return correction_BGKD.add_(y_BGD.unsqueeze(2)).view(batch, groups * ratio, width)


class DemuxAdapter(nn.Module):
    """Parameters of the adapter in `demux`: W_in (H, 2·D), W_out (D, H) and their biases."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.w_in = nn.Linear(2 * width, bottleneck)
        self.w_out = nn.Linear(bottleneck, width)


class MuxLayer(nn.Module):
    """One plugin: the parameters of `mux` and `demux` for one layer and one ratio, in published key names.

    Args:
        width: D.
        ratio: K, at least 2.
        bottleneck: H.
        scale: S, see the top of this file.
    """

    def __init__(self, width: int, ratio: int, bottleneck: int = 64, scale: float = 1.0) -> None:
        super().__init__()
        self.ratio = ratio
        self.scale = scale
        self.mux_layer = nn.Linear(ratio * width, ratio)
        self.demux_adapter = DemuxAdapter(width, bottleneck)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The original's initialisation: mux N(0, 2/(D·K)), adapter N(0, 0.01²), biases 0."""
        nn.init.normal_(self.mux_layer.weight, std=math.sqrt(2.0 / self.mux_layer.in_features))
        nn.init.zeros_(self.mux_layer.bias)
        for linear in (self.demux_adapter.w_in, self.demux_adapter.w_out):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x_BLD: Tensor, ffn: Callable[[Tensor], Tensor], mask_BL: Tensor | None = None) -> Tensor:
        """Run `ffn` on L/K vectors instead of L. The FFN comes as an argument so that FSDP sees this call."""
        w_in, w_out = self.demux_adapter.w_in, self.demux_adapter.w_out
        y_BGD = ffn(mux(x_BLD, self.mux_layer.weight, self.mux_layer.bias, mask_BL))
        return demux(y_BGD, x_BLD, w_in.weight, w_in.bias, w_out.weight, w_out.bias, self.scale)

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"ratio={self.ratio}, scale={self.scale:g}"
