"""About how long the stages of a grid take on this machine: a step of the backbone is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from metric.cost import latency_ms
from model.pretrained import new_model
from utils.engine.precision import choose_precision
from utils.loading import load_t5
from utils.opening.files import open_config
from utils.opening.places import model_directory

#: The loss of a model on token ids.
Loss = Callable[[Any, torch.Tensor], torch.Tensor]
#: Rows of the timed step.
_TIMED_ROWS = 2
#: Steps that are run untimed, and those whose median counts: a single one can be several times too slow.
_WARMUP, _REPEATS = 2, 5
#: How the estimate comes about, for whoever reads it.
METHOD = (
    f"Estimate: a forward and backward pass of the backbone on {_TIMED_ROWS} rows of full length, the median of "
    f"{_REPEATS} timed here (on a CPU as if nothing else ran), times the rows of a stage; a teacher's forward pass "
    "counts a third of that, each sparsity of a sandwich once. Compressed models count as dense and "
    "short rows as long ones, so that it is rather too much; loading and evaluation are left out. With several GPUs, "
    "divide by their number."
)


def timer(paper: str, backbone: str, threads: int) -> Callable[[int], float]:
    """Seconds per row and length of training the backbone of a paper's grid.

    Random weights take as long as others, so that of a BERT the config is enough.

    Raises:
        UserError, ModelError: the backbone is not there, or cannot be used.
    """
    if paper == "variator":
        return time_training(load_t5(backbone, None).model, _loss_of_t5, threads)
    config = open_config(model_directory(backbone))
    return time_training(new_model(AutoModelForSequenceClassification, config), _loss_of_bert, threads)


def _loss_of_t5(model: Any, ids: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(input_ids=ids, labels=ids[:, :2].contiguous()).loss
    return loss


def _loss_of_bert(model: Any, ids: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(input_ids=ids).logits.float().square().mean()
    return loss


def time_training(model: Any, step: Loss, threads: int) -> Callable[[int], float]:
    """Seconds that a row of some length takes forward and backward on this machine, each length timed once.

    In the precision that `--precision auto` stands for.

    Args:
        step: the loss of a model on ids (rows, length).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    known: dict[int, float] = {}
    in_bf16 = choose_precision("auto", device).precision == "bf16"

    def timed(length: int) -> float:
        if length not in known:
            ids = torch.ones((_TIMED_ROWS, length), dtype=torch.int64, device=device)

            def once() -> None:
                with torch.autocast(device, torch.bfloat16, enabled=in_bf16):
                    loss = step(model, ids)
                loss.backward()
                model.zero_grad()

            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                known[length] = _seconds(once, device, threads) / _TIMED_ROWS
            finally:
                torch.set_num_threads(before)
        return known[length]

    return timed


def _seconds(once: Callable[[], None], device: str, threads: int) -> float:
    """Median of several calls after untimed ones; on a CPU by processor time, which other programs lengthen little."""
    if device != "cpu":
        return latency_ms(once, warmup=_WARMUP, repeats=_REPEATS, device=device).p50_ms / 1e3
    times = []
    for _ in range(_WARMUP + _REPEATS):
        start = time.process_time()
        once()
        times.append(time.process_time() - start)
    return statistics.median(times[_WARMUP:]) / threads
