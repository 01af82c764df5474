"""Golden case X9: the text filters, the truncation of pairs and the masking of the original's data generator."""

from __future__ import annotations

import json
import random
from pathlib import Path

from dataset.text_cleanup import is_valid, post_cleanup, pre_cleanup
from tests.parity.cases import optional
from utils.pregenerate.instances import mask_tokens, truncate_seq_pair


def check(goldens: Path, name: str) -> None:
    """Rules and, with Python's own generator, the draws too."""
    golden = json.loads((goldens / f"{name}.json").read_text(encoding="utf-8"))
    for case in optional(golden, "cleanup"):
        line = case["line"]
        assert is_valid(line) == case["is_valid"], line
        assert pre_cleanup(line) == case["pre_cleanup"]
        assert post_cleanup(line) == case["post_cleanup"]
    for case in optional(golden, "truncate_seq_pair"):
        first = [f"a{i}" for i in range(case["len_a"])]
        second = [f"b{i}" for i in range(case["len_b"])]
        truncate_seq_pair(first, second, case["max"], random.Random(case["python_random_seed"]))
        assert (first, second) == (case["a"], case["b"])
    for case in optional(golden, "masked_lm"):
        found = mask_tokens(
            case["tokens"],
            case["masked_lm_prob"],
            case["max_predictions_per_seq"],
            case["whole_word_mask"],
            golden["vocab"],
            random.Random(case["python_random_seed"]),
        )
        assert found == (case["out_tokens"], case["positions"], case["labels"])
