"""The cost report: parameters, bytes, multiply-accumulates, time, memory."""

import contextlib
import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from metric import MetricError, cost
from metric.formulas import t5_decoder_macs, t5_encoder_macs

BASE: dict[str, Any] = {"d_model": 768, "inner": 768, "d_ff": 3072, "num_layers": 12}
LARGE: dict[str, Any] = {"d_model": 1024, "inner": 1024, "d_ff": 4096, "num_layers": 24}
VOCABULARY = 32128


def small_t5(gated: bool, attention: str = "sdpa", **sizes: int) -> T5ForConditionalGeneration:
    config = T5Config(
        **{
            "vocab_size": 80,
            "d_model": 24,
            "d_kv": 5,
            "num_heads": 3,
            "d_ff": 40,
            "num_layers": 3,
            "num_decoder_layers": 2,
            **sizes,
        },
        feed_forward_proj="gated-gelu" if gated else "relu",
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    return T5ForConditionalGeneration(config).eval()


def sizes_of(config: T5Config, layers: str = "num_layers") -> dict:
    return {
        "d_model": config.d_model,
        "inner": config.num_heads * config.d_kv,
        "d_ff": config.d_ff,
        "num_layers": getattr(config, layers),
        "gated": config.is_gated_act,
    }


@pytest.mark.parametrize("gated", [False, True], ids=["relu", "gated"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("masked", [False, True], ids=["bare", "masked"])
def test_the_counter_equals_the_formula_on_a_t5_encoder(gated, attention, context, masked):
    """Whichever attention runs, with or without gradients and a mask: the count is the formula's."""
    model, length = small_t5(gated, attention), 11
    assert model.config._attn_implementation == attention
    ids = torch.ones(1, length, dtype=torch.long)
    mask = torch.ones_like(ids) if masked else None
    with context():
        found = cost.count_macs(lambda: model.encoder(input_ids=ids, attention_mask=mask))
    assert found == t5_encoder_macs(**sizes_of(model.config), length=length)


@pytest.mark.parametrize("gated", [False, True], ids=["relu", "gated"])
def test_the_counter_equals_the_formulas_on_a_whole_t5(gated):
    """Encoder, decoder with cross-attention, and head add up to the count of one full pass."""
    model = small_t5(gated)
    source, target = torch.ones(1, 9, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)
    expected = t5_encoder_macs(**sizes_of(model.config), length=9) + t5_decoder_macs(
        **sizes_of(model.config, "num_decoder_layers"), length=4, source_length=9, vocab_size=80
    )
    assert cost.count_macs(lambda: model(input_ids=source, decoder_input_ids=target)) == expected


@pytest.mark.parametrize(("sizes", "heads"), [(BASE, 12), (LARGE, 16)], ids=["base", "large"])
def test_the_counter_equals_the_formula_at_real_sizes_on_the_meta_device(sizes, heads):
    """T5-base and T5-large are counted exactly without computing or storing anything."""
    with torch.device("meta"):
        model = small_t5(
            False,
            vocab_size=VOCABULARY,
            d_model=sizes["d_model"],
            d_kv=64,
            num_heads=heads,
            d_ff=sizes["d_ff"],
            num_layers=sizes["num_layers"],
            num_decoder_layers=1,
        )
        for length in (1, 128, 512):
            ids = torch.ones(1, length, dtype=torch.long)
            found = cost.count_macs(partial(model.encoder, input_ids=ids))
            assert found == t5_encoder_macs(**sizes, length=length)


class Plugin(nn.Module):
    """The matrix products of a plugin around a feed-forward network: its costs, not the method itself."""

    def __init__(self, width: int, feed_forward: int, ratio: int, bottleneck: int, per_group: bool) -> None:
        super().__init__()
        self.ratio, self.per_group = ratio, per_group
        self.network = nn.Sequential(nn.Linear(width, feed_forward), nn.ReLU(), nn.Linear(feed_forward, width))
        self.score = nn.Linear(ratio * width, ratio)
        self.shared, self.own = nn.Linear(width, bottleneck), nn.Linear(width, bottleneck)
        self.out = nn.Linear(bottleneck, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        x = functional.pad(x, (0, 0, 0, -length % self.ratio))
        groups = x.view(batch, -1, self.ratio, width)
        weights = self.score(groups.flatten(2)).softmax(-1)
        y = self.network((weights.unsqueeze(2) @ groups).squeeze(2))
        if self.per_group:
            shared = self.shared(y).repeat_interleave(self.ratio, dim=1)
        else:
            shared = self.shared(y.repeat_interleave(self.ratio, dim=1))
        return self.out(torch.tanh(shared + self.own(x)))[:, :length]


@pytest.mark.parametrize(("length", "ratio"), [(12, 4), (13, 4), (3, 8), (7, 2)])
@pytest.mark.parametrize("per_group", [False, True])
def test_the_formula_with_plugins_equals_the_counter(length, ratio, per_group):
    """Groups, adapter and padding up to whole groups cost what the formula says."""
    width, feed_forward, inner, bottleneck = 16, 48, 20, 6
    plugin = Plugin(width, feed_forward, ratio, bottleneck, per_group)
    attention = 4 * width * inner * length + 2 * length**2 * inner
    formula = t5_encoder_macs(
        d_model=width,
        inner=inner,
        d_ff=feed_forward,
        num_layers=1,
        length=length,
        ratio=ratio,
        bottleneck=bottleneck,
        adapter_per_group=per_group,
    )
    assert cost.count_macs(lambda: plugin(torch.zeros(1, length, width))) == formula - attention


# Sizes, tokens, and in percent: the feed-forward share of the encoder, the encoder's saving at k=4, the same
# without the plugin's own cost, and the saving of encoder + decoder with 2 and with 32 target tokens.
SAVINGS = [
    (BASE, 96, 65.3, 46.89, 48.98, 39.29, 28.45),
    (BASE, 128, 64.9, 46.57, 48.65, 39.31, 30.54),
    (BASE, 224, 63.6, 45.64, 47.68, 38.95, 33.44),
    (BASE, 256, 63.2, 45.34, 47.37, 38.79, 33.89),
    (BASE, 512, 60.0, 43.08, 45.00, 37.28, 34.78),
    (LARGE, 128, 65.3, 47.41, 48.98, 40.07, 31.99),
    (LARGE, 224, 64.3, 46.69, 48.24, 39.84, 34.79),
    (LARGE, 512, 61.5, 44.67, 46.15, 38.55, 36.25),
]


@pytest.mark.parametrize(
    ("sizes", "length", "share", "saved", "plugin_free", "saved_2", "saved_32"),
    SAVINGS,
    ids=[f"{'base' if row[0] is BASE else 'large'}-{row[1]}" for row in SAVINGS],
)
def test_the_formulas_give_the_known_savings_at_ratio_four(sizes, length, share, saved, plugin_free, saved_2, saved_32):
    """The percentages counted for t5-base and t5-large before this code was written."""
    dense = t5_encoder_macs(**sizes, length=length)
    plugged = t5_encoder_macs(**sizes, length=length, ratio=4)
    network = sizes["num_layers"] * 2 * sizes["d_model"] * sizes["d_ff"] * length
    assert 100 * network / dense == pytest.approx(share, abs=0.051)
    assert 100 * (1 - plugged / dense) == pytest.approx(saved, abs=0.0051)
    assert 100 * 0.75 * network / dense == pytest.approx(plugin_free, abs=0.0051)
    for target, expected in ((2, saved_2), (32, saved_32)):
        decoder = t5_decoder_macs(**sizes, length=target, source_length=length, vocab_size=VOCABULARY)
        assert 100 * (dense - plugged) / (dense + decoder) == pytest.approx(expected, abs=0.0051)


def test_ratio_one_is_the_dense_encoder():
    """At the identity setting there is no plugin, so nothing is added."""
    assert t5_encoder_macs(**BASE, length=100, ratio=1) == t5_encoder_macs(**BASE, length=100)


def test_a_size_below_one_is_refused():
    """Impossible sizes are named."""
    with pytest.raises(MetricError, match="ratio is 0"):
        t5_encoder_macs(**BASE, length=8, ratio=0)
    with pytest.raises(MetricError, match="vocab_size is -1"):
        t5_decoder_macs(**BASE, length=8, source_length=8, vocab_size=-1)


def test_macs_at_lengths_weights_each_distinct_length_by_its_examples():
    """Every distinct length runs once; the mean is over examples, without padding."""
    linear, seen = nn.Linear(3, 5), []

    def forward(length: int) -> torch.Tensor:
        seen.append(length)
        return linear(torch.zeros(length, 3))

    assert cost.macs_at_lengths(forward, [2, 7, 2, 2]) == pytest.approx(15 * (2 + 7 + 2 + 2) / 4)
    assert sorted(seen) == [2, 7]


@pytest.mark.parametrize(("lengths", "message"), [([], "no lengths"), ([3, 0], "length 0")])
def test_macs_at_no_length_are_refused(lengths, message):
    """There is no mean over nothing, and no example without tokens."""
    with pytest.raises(MetricError, match=message):
        cost.macs_at_lengths(lambda length: None, lengths)


def test_parameters_count_once_and_frozen_ones_are_not_trainable():
    """A tied matrix is one parameter; freezing moves it out of the trainable ones only."""
    model = nn.ModuleDict({"embedding": nn.Embedding(10, 4), "head": nn.Linear(4, 10)})
    model["head"].weight = model["embedding"].weight
    model["embedding"].weight.requires_grad_(False)
    counts = cost.parameter_counts(model)
    assert (counts.total, counts.trainable) == (50, 10)
    assert counts.trainable_share == pytest.approx(0.2)
    assert cost.parameter_counts(nn.ReLU()).trainable_share == 0.0


def test_delta_bytes_of_a_file_and_of_a_folder(tmp_path):
    """The bytes of all files below a folder; nothing there is an error, not 0."""
    (tmp_path / "plugin" / "deep").mkdir(parents=True)
    (tmp_path / "plugin" / "plugin.safetensors").write_bytes(bytes(100))
    (tmp_path / "plugin" / "deep" / "plugin.json").write_bytes(bytes(7))
    assert cost.delta_bytes(tmp_path / "plugin") == 107
    assert cost.delta_bytes(str(tmp_path / "plugin" / "plugin.safetensors")) == 100
    with pytest.raises(MetricError, match="does not exist"):
        cost.delta_bytes(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MetricError, match="holds no files"):
        cost.delta_bytes(tmp_path / "empty")


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when the code under test says so: `clock(milliseconds)`."""
    now = [0.0]
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])

    def advance(milliseconds: float) -> None:
        now[0] += milliseconds / 1e3

    return advance


def test_latency_leaves_the_warm_up_out(clock):
    """Percentiles are of the timed calls alone: slow first calls do not show."""
    durations = iter([500.0, 400.0, *range(1, 101)])
    result = cost.latency_ms(lambda: clock(next(durations)), warmup=2, repeats=100)
    assert result.p50_ms == pytest.approx(np.percentile(np.arange(1, 101), 50))
    assert result.p95_ms == pytest.approx(np.percentile(np.arange(1, 101), 95))
    assert result.repeats == 100
    assert next(durations, None) is None


def test_the_interleaved_ratio_survives_a_drifting_machine(clock):
    """Calls alternate, and a machine that slows down tenfold meanwhile does not move the ratio of 2."""
    order, calls = [], itertools.count()

    def run(name: str, milliseconds: float) -> None:
        order.append(name)
        clock(milliseconds * (1 + 9 * (next(calls) // 2) / 20))

    result = cost.interleaved_ratio(lambda: run("a", 10.0), lambda: run("b", 5.0), warmup=1, repeats=20)
    assert order == ["a", "b"] * 21
    assert result.ratio == pytest.approx(2.0)
    assert (result.ratio_p25, result.ratio_p75, result.pairs) == (pytest.approx(2.0), pytest.approx(2.0), 20)
    assert result.first_ms / result.second_ms == pytest.approx(2.0)


@pytest.mark.parametrize("measure", [cost.latency_ms, lambda f, **k: cost.interleaved_ratio(f, f, **k)])
@pytest.mark.parametrize("counts", [{"repeats": 0}, {"warmup": -1}])
def test_timing_nothing_is_refused(measure, counts):
    """Percentiles of no calls do not exist."""
    with pytest.raises(MetricError, match="expected at least"):
        measure(lambda: None, **counts)


def test_peak_memory_sees_what_was_freed_again():
    """200 MB that a call takes and gives back are in its peak, and not in the next call's."""

    def take() -> None:
        torch.ones(50 * 2**20, dtype=torch.float32)

    before = cost.peak_memory_bytes(lambda: None)
    peak = cost.peak_memory_bytes(take)
    assert peak - before > 150 * 2**20
    if cost._reset_peak_resident_set():
        assert cost.peak_memory_bytes(lambda: None) < peak - 150 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_costs_on_a_gpu():
    """The count is the CPU's; a latency includes the queued work; the peak is the GPU's own memory."""
    model = small_t5(False, d_kv=8).to("cuda")
    ids = torch.ones(1, 16, dtype=torch.long, device="cuda")
    found = cost.count_macs(lambda: model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)))
    assert found == t5_encoder_macs(**sizes_of(model.config), length=16)
    matrix = torch.zeros(8192, 8192, device="cuda")

    def multiply(times: int) -> None:
        for _ in range(times):
            matrix @ matrix

    small, large = (cost.latency_ms(partial(multiply, n), repeats=10, device="cuda") for n in (1, 8))
    assert large.p50_ms > 4 * small.p50_ms
    assert cost.peak_memory_bytes(lambda: matrix @ matrix, device="cuda") >= 2 * matrix.nbytes
