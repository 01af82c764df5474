"""A BERT of two to four layers, rows of GLUE tasks, pre-generated text, and ways to run the real scripts on them."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForPreTraining, BertTokenizerFast

from utils.lock import release_all

WIDTH = 32
WORDS = ("a", "good", "bad", "film", "and", "is", "it", "of", "each", "to", "in", "this", "not", "the", "plot", "dull")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MNLI = "index\tpromptID\tpairID\tgenre\tp1\tp2\tp3\tp4\tsentence1\tsentence2"


class TinyBert:
    """Paths of the tiny teacher, its data and a student's directory, made once per test session."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = save_bert(root / "bert", layers=4)
        self.glue = root / "glue"
        write_glue(self.glue)
        self.text = write_epochs(root / "pregenerated", epochs=2)

    def general(self, output: Path, *more: object) -> list[str]:
        """Arguments of a general distillation in two epochs of five steps."""
        fixed = f"--pregenerated_data {self.text} --teacher_model {self.model} --output_dir {output}"
        loop = "--max_seq_length 32 --train_batch_size 4 --eval_batch_size 4 --num_train_epochs 2 --learning_rate 1e-3"
        shown = ["--inspect_step", "1", *([] if "--fp16" in more else ["--precision", "fp32"])]
        return [*fixed.split(), *loop.split(), *shown, *map(str, more)]

    def task(self, output: Path, *more: object, task: str = "sst2") -> list[str]:
        """Arguments of a run on a task."""
        fixed = f"--task_name {task} --data_dir {self.glue} --output_dir {output} --max_seq_length 32"
        loop = "--train_batch_size 8 --learning_rate 1e-3 --inspect_step 1 --precision fp32"
        epochs = [] if "--num_train_epochs" in map(str, more) else ["--num_train_epochs", "2"]
        return [*fixed.split(), *loop.split(), *epochs, *map(str, more)]


def tiny_word_pieces() -> BertTokenizerFast:
    """Whole words, and single characters for the rest."""
    letters = string.ascii_lowercase + string.digits
    pieces = [*_SPECIAL, *WORDS, *letters[1:], *(f"##{letter}" for letter in letters), *string.punctuation]
    return BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=True)


def bert_config(layers: int = 2, **more: Any) -> BertConfig:
    """Sizes of a tiny BERT for the tokenizer above."""
    sizes: dict[str, Any] = {
        "vocab_size": len(tiny_word_pieces()),
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * WIDTH,
        "max_position_embeddings": 48,
    }
    return BertConfig(**{**sizes, **more})


def save_bert(path: Path, layers: int = 2, seed: int = 0, **more: Any) -> Path:
    """A random BERT with its tokenizer, as a pre-trained one is published: with the heads of its pre-training."""
    torch.manual_seed(seed)
    model = BertForPreTraining(bert_config(layers, initializer_range=0.2, **more))
    model.save_pretrained(path)
    tiny_word_pieces().save_pretrained(path)
    return path


def edit_config(path: Path, **values: Any) -> Path:
    """Change a saved model's config.json, as the original's README asks for."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **values}))
    return path


def write_glue(glue: Path) -> None:
    """A few rows of SST-2 (can be learnt), MRPC, STS-B, RTE and MNLI in GLUE's TSV format, test sets included."""
    good, bad = "it is a good film", "it is a bad film"
    _write(glue / "SST-2", "sentence\tlabel", [f"{(bad, good)[i % 2]} {i}\t{i % 2}" for i in range(24)], 9)
    _write_test(glue / "SST-2", "index\tsentence", [f"{i}\t{(bad, good)[i % 2]} {i}" for i in range(5)])
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    _write(glue / "MRPC", header, [f"{i % 2}\t1\t2\t{good}\t{(bad, good)[i % 2]}" for i in range(16)], 7)
    _write_test(
        glue / "MRPC", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", [f"{i}\t1\t2\t{good}\t{bad}" for i in range(5)]
    )
    _write(
        glue / "STS-B",
        "index\tsentence1\tsentence2\tscore",
        [f"{i}\t{good}\t{bad} {i}\t{i % 5}.5" for i in range(16)],
        7,
    )
    _write_test(glue / "STS-B", "index\tsentence1\tsentence2", [f"{i}\t{good}\t{bad}" for i in range(5)])
    names = ("entailment", "neutral", "contradiction")
    rows = [f"{i}\t0\t0\tg\t-\t-\t-\t-\t{good}\t{bad} {i}\tx\t{names[i % 3]}" for i in range(18)]
    folder = _write(glue / "MNLI", f"{_MNLI}\tlabel1\tgold_label", rows, 7)
    (folder / "dev.tsv").rename(folder / "dev_matched.tsv")
    (folder / "dev_mismatched.tsv").write_text("\n".join([f"{_MNLI}\tlabel1\tgold_label", *rows[:5]]) + "\n")
    for name, count in (("matched", 5), ("mismatched", 6)):
        lines = [_MNLI, *(f"{i}\t0\t0\tg\t-\t-\t-\t-\t{good}\t{bad}" for i in range(count))]
        (folder / f"test_{name}.tsv").write_text("\n".join(lines) + "\n")


def _write(folder: Path, header: str, rows: list[str], valid: int) -> Path:
    folder.mkdir(parents=True)
    for name, part in (("train", rows), ("dev", rows[:valid])):
        (folder / f"{name}.tsv").write_text("\n".join([header, *part]) + "\n")
    return folder


def _write_test(folder: Path, header: str, rows: list[str]) -> None:
    (folder / "test.tsv").write_text("\n".join([header, *rows]) + "\n")


def write_epochs(folder: Path, epochs: int, rows: int = 20, longest: int = 24) -> Path:
    """Epoch files of pre-training data."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for epoch in range(epochs):
        lines = []
        for _ in range(rows):
            first, second = (rng.choices(WORDS, k=rng.randint(2, longest // 2 - 2)) for _ in range(2))
            tokens = ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
            record = {
                "tokens": tokens,
                "segment_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
                "is_random_next": False,
                "masked_lm_positions": [1],
                "masked_lm_labels": [first[0]],
            }
            lines.append(json.dumps(record))
        (folder / f"epoch_{epoch}.json").write_text("\n".join(lines) + "\n")
        metrics = {"num_training_examples": rows, "max_seq_len": longest}
        (folder / f"epoch_{epoch}_metrics.json").write_text(json.dumps(metrics))
    return folder


def run_general(arguments: Sequence[str]) -> None:
    """general_distill.py, in this process."""
    import general_distill

    _fresh()
    try:
        general_distill.main(list(arguments))
    finally:
        release_all()  # as the end of the process does


def run_task(arguments: Sequence[str]) -> None:
    """task_distill.py, in this process."""
    import task_distill

    _fresh()
    try:
        task_distill.main(list(arguments))
    finally:
        release_all()


def _fresh() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # a process is made for one run: it would refuse another precision
