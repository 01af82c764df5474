"""A T5 and a BERT of two layers with random weights, and a few rows of text and of a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from utils.embedded.backbone import write_backbone
from utils.embedded.bert import BertSize, write_bert
from utils.embedded.corpus import write_corpus
from utils.embedded.sizes import BackboneSize
from utils.embedded.tasks import TASK_FILES, write_glue
from utils.embedded.tokenizer import train_tokenizer

_WIDTH, _VOCABULARY, _BYTES, _ROWS = 16, 300, 20_000, 16


def make_tiny(folder: Path, seed: int = 1) -> None:
    """Write `t5/`, `bert/`, `corpus/`, `glue/` and `documents.txt` (the corpus, a document per line) into `folder`."""
    write_corpus(folder / "corpus", seed, library_bytes=0, grammar_bytes=_BYTES)
    task = TASK_FILES["sst2"]
    write_glue(replace(task, splits=tuple((split, _ROWS) for split, _ in task.splits)), folder / "glue", seed)
    texts = [folder / "corpus" / "train.txt"]
    lines = texts[0].read_text(encoding="utf-8").splitlines()
    (folder / "documents.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    size = BackboneSize(
        d_model=_WIDTH, d_ff=2 * _WIDTH, num_heads=2, d_kv=8, num_layers=2, num_decoder_layers=2, vocab_size=_VOCABULARY
    )
    write_backbone(folder / "t5", size, train_tokenizer(texts, _VOCABULARY), seed)
    write_bert(folder / "bert", BertSize(_WIDTH, 2, 2, _VOCABULARY), folder / "corpus", seed, lambda _: None)
