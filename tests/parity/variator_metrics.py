"""Parity of the metrics with the original Variator release: SQuAD's EM and F1, and the binary F1."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from metric import glue, squad

TOLERANCE = 1e-5


def check(case_dir: Path, name: str) -> None:
    """Compares every value of the golden case `case_dir/name.{json,npz}` with ours.

    Two differences are on purpose, and checked as such: an F1 of 0/0 is 0.0 here and NaN (null in the case)
    there; an answer that normalises to nothing on both sides scores 0 there, here only with `original=True`.
    """
    case = json.loads((case_dir / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(case_dir / f"{name}.npz", allow_pickle=False) as arrays:
        _check_binary_f1(case["binary_f1"], dict(arrays))
    _check_squad(case["squad"])


def _check_binary_f1(expected: dict[str, float | None], arrays: dict[str, np.ndarray]) -> None:
    assert expected, "the case holds no binary F1"
    for key, value in expected.items():
        predicted, labels = arrays[f"f1/{key}/pred"], arrays[f"f1/{key}/true"]
        # The original counts only pairs of 0 and 1; ours refuses other classes.
        counted = np.isin(predicted, (0, 1)) & np.isin(labels, (0, 1))
        found = glue.f1(predicted[counted], labels[counted]) if counted.any() else 0.0
        assert abs(found - (value or 0.0)) <= TOLERANCE, f"binary F1 {key}: {found}, expected {value}"


def _check_squad(expected: dict[str, Any]) -> None:
    examples = expected["per_example"]
    for number, example in enumerate(examples):
        prediction, answers, where = example["prediction"], example["answers"], f"SQuAD example {number}"
        assert squad.normalize_answer(prediction) == example["normalized_prediction"], where
        forms = {squad.normalize_answer(answer) for answer in answers}
        assert forms == set(example["normalized_answers"]), where
        assert squad.exact_match(prediction, answers) == example["em"], where
        found = squad.f1(prediction, answers, original=True)
        assert abs(found - example["f1"]) <= TOLERANCE, f"{where}: F1 {found}, expected {example['f1']}"
        if example["normalized_prediction"]:
            assert squad.f1(prediction, answers) == found, f"{where}: differs from the original without a reason"
    scores = squad.squad_scores(
        {str(number): example["prediction"] for number, example in enumerate(examples)},
        {str(number): example["answers"] for number, example in enumerate(examples)},
        original=True,
    )
    assert abs(scores["exact_match"] - expected["em"]) <= TOLERANCE, scores
    assert abs(scores["f1"] - expected["f1"]) <= TOLERANCE, scores
