"""What `task_distill.py --do_eval` says that a classifier costs."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from metric.cost import count_macs
from model import DecompositionConfig, apply_edit
from tests.helpers_decomposition import tiny_bert
from utils.engine import Runtime
from utils.tucker.report import costs, encoder_params

pytestmark = pytest.mark.usefixtures("single_thread")


def test_macs_are_those_of_every_later_forward() -> None:
    """Forming the weights of a decomposed model, which happens once, is in no example's count."""
    model = tiny_bert().eval()
    apply_edit(model, DecompositionConfig(rank_layer=4, rank_condim=5, rank_dim=4))
    found = costs(model, [3, 5, 5], Runtime("fp32", "bert", 1))
    with torch.inference_mode():
        inputs = {n: torch.ones((1, n), dtype=torch.int64) for n in (3, 5)}
        later = {n: count_macs(partial(model, input_ids=ids)) for n, ids in inputs.items()}
    assert found["macs"] == pytest.approx((later[3] + 2 * later[5]) / 3)
    assert found["encoder_params"] == encoder_params(model) < found["num_params"]
