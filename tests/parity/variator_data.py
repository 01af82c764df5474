"""Golden cases of Variator's data formatting: spans, SQuAD layout, templates, verbalizers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dataset.collate import Batch, Collator
from dataset.features import Feature, squad_decoder
from dataset.glue import GlueExample
from dataset.prompts import render
from dataset.span_corruption import corrupt, span_counts
from dataset.squad import SquadExample
from dataset.tasks import get_task
from tests.parity.cases import optional


def check(case_dir: Path, name: str) -> None:
    """Everything in ``case_dir/name.json`` (and its npz) that needs no real T5 vocabulary.

    Raises:
        AssertionError: something differs from the original.
    """
    golden = json.loads((case_dir / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(case_dir / f"{name}.npz") as arrays:
        _check_span_counts(arrays["span_counts"].tolist() if "span_counts" in arrays else [])
    _check_span_corruption(golden)
    _check_squad(golden)
    _check_templates(golden)


def _check_span_counts(rows: list[list[int]]) -> None:
    for length, num_noise, num_spans in rows:
        assert span_counts(length) == (num_noise, num_spans), f"span counts of {length} tokens"


def _check_span_corruption(golden: dict[str, Any]) -> None:
    for case in optional(golden, "span_corruption"):
        # The ids of the tokens are those of the case itself, as examples of a real vocabulary may be left out.
        sentinels = [case["labels"][0] - i for i in range(100)]
        eos_id = case["input_ids"][sum(case["attention_mask"]) - 1]
        doc_ids = case["doc_ids"][: golden["max_input_length"] - 1]
        assert len(doc_ids) == case["used_ids"]
        spans = [(start, end) for start, end in case["spans"]]
        made = corrupt(doc_ids, spans, sentinels, eos_id, golden["decoder_length"])
        feature = Feature(0, made["input_ids"], decoder_input_ids=made["decoder_input_ids"], labels=made["labels"])
        keys = ("input_ids", "attention_mask", "labels", "decoder_input_ids", "decoder_attention_mask")
        _compare(_padded(feature, golden), case, keys)


def _check_squad(golden: dict[str, Any]) -> None:
    example = SquadExample("0", "What?", "some context", ("answer",))
    for case in optional(golden, "squad"):
        first = case["decoder_input_ids"][1]
        decoder, labels = squad_decoder(case["target_ids"], (first, first - 1), golden["decoder_length"])
        feature = Feature(0, [1], decoder_input_ids=decoder, labels=labels)
        _compare(_padded(feature, golden), case, ("labels", "decoder_input_ids", "decoder_attention_mask"))
        assert render(get_task("squad"), example) == case["input_text"]


def _check_templates(golden: dict[str, Any]) -> None:
    for name, expected in optional(golden, "templates").items():
        task = get_task(name)
        texts = [golden["template_item"][column] for column in task.columns]
        assert render(task, GlueExample(0, *texts)) == expected, f"template of {name}"
    for name, words in optional(golden, "verbalizer_words").items():
        assert list(get_task(name).verbalizer) == words, f"verbalizer of {name}"


def _padded(feature: Feature, golden: dict[str, Any]) -> Batch:
    """The feature as the original shows it: padded to fixed lengths."""
    longest = [0] * golden["max_input_length"]
    decoder = [0] * golden["decoder_length"]
    full = Feature(-1, longest, decoder_input_ids=decoder, labels=decoder)
    return Collator(pad_id=0)([feature], [full])


def _compare(batch: Batch, case: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        assert batch[key][0].tolist() == case[key], key
