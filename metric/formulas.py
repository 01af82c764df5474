"""Multiply-accumulates of a T5 in closed form, with and without compression plugins.

Legend: d model width, i inner width of attention (heads x head width), f feed-forward width, n source tokens,
m target tokens, k ratio (tokens per group), w width of the plugin's adapter, g matrices of the feed-forward
network (2 plain, 3 gated). One multiply-accumulate is one multiplication with its addition; softmax, norms,
biases and activations are left out, as in torch's counter.
"""

from metric.errors import MetricError


def t5_encoder_macs(
    *,
    d_model: int,
    inner: int,
    d_ff: int,
    num_layers: int,
    length: int,
    gated: bool = False,
    ratio: int = 1,
    bottleneck: int = 64,
    adapter_per_group: bool = False,
) -> int:
    """Multiply-accumulates of one sequence through the encoder.

    A dense layer costs 4·d·i·n + 2·n²·i + g·d·f·n. With plugins the feed-forward network sees one vector per
    group, g·d·f·n/k, and the plugin adds [(k+1)·d + 3·w·d]·n: the group scores k·d, the weighted sum d, and
    the adapter 2·d·w + w·d. Source: the plugins of Variator (Xiao et al., 2023), counted.

    Args:
        d_model, inner, d_ff, num_layers: the encoder's sizes (d, i, f and its number of layers).
        length: tokens, n. The plugins and the feed-forward network run on n rounded up to a multiple of k,
            attention on n. Where the encoder's whole input is filled up, pass the rounded length.
        gated: whether the feed-forward network has a gate (T5 v1.1).
        ratio: k; 1 means dense, without plugins.
        bottleneck: w, the width of the plugin's adapter.
        adapter_per_group: whether the half of the adapter's input that all tokens of a group share (w·d) is
            computed once per group instead of once per token; the adapter's result is the same.

    Raises:
        MetricError: a size below 1.
    """
    _check_positive(
        d_model=d_model,
        inner=inner,
        d_ff=d_ff,
        num_layers=num_layers,
        length=length,
        ratio=ratio,
        bottleneck=bottleneck,
    )
    matrices = 3 if gated else 2
    attention = 4 * d_model * inner * length + 2 * length**2 * inner
    if ratio == 1:
        return num_layers * (attention + matrices * d_model * d_ff * length)
    groups = -(-length // ratio)
    tokens = groups * ratio
    feed_forward = matrices * d_model * d_ff * groups
    mux = (ratio + 1) * d_model * tokens
    shared_half = d_model * bottleneck * (groups if adapter_per_group else tokens)
    adapter = shared_half + 2 * d_model * bottleneck * tokens
    return num_layers * (attention + feed_forward + mux + adapter)


def t5_decoder_macs(
    *,
    d_model: int,
    inner: int,
    d_ff: int,
    num_layers: int,
    length: int,
    source_length: int,
    vocab_size: int,
    gated: bool = False,
) -> int:
    """Multiply-accumulates of one target sequence through the decoder and the head, all tokens in one pass.

    A layer costs 4·d·i·m + 2·m²·i (self-attention), 2·d·i·(m+n) + 2·m·n·i (cross-attention) and g·d·f·m; the
    head costs m·d·vocab_size. Plugins never change the decoder.

    Args:
        d_model, inner, d_ff, num_layers: the decoder's sizes (d, i, f and its number of layers).
        length: target tokens, m.
        source_length: encoder tokens, n.
        vocab_size: columns of the head.
        gated: whether the feed-forward network has a gate (T5 v1.1).

    Raises:
        MetricError: a size below 1.
    """
    _check_positive(
        d_model=d_model,
        inner=inner,
        d_ff=d_ff,
        num_layers=num_layers,
        length=length,
        source_length=source_length,
        vocab_size=vocab_size,
    )
    self_attention = 4 * d_model * inner * length + 2 * length**2 * inner
    cross_attention = 2 * d_model * inner * (length + source_length) + 2 * length * source_length * inner
    feed_forward = (3 if gated else 2) * d_model * d_ff * length
    return num_layers * (self_attention + cross_attention + feed_forward) + length * d_model * vocab_size


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise MetricError(f"{name} is {size}, expected at least 1")
