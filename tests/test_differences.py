"""Where this toolkit deliberately behaves otherwise than the original code; `docs/differences.md` has the list.

Differences that belong to one part (metrics, readers, launchers, …) are tested beside that part.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from dataset import TASKS, Batch
from model import PluginConfig, apply_edit, set_ratio
from model.heads import HeadOutput, VerbalizerHead, generate_answers
from model.losses import hidden_mse, token_accuracy, token_cross_entropy
from model.plugin.objective import PluginObjective
from model.plugin.published import match_original_numerics, original_logit_scale
from tests.tiny import Tiny
from utils.engine import RunDirectory, Runtime, Trainer, TrainerConfig
from utils.engine.optimisation import schedule_factor
from utils.loading import load_t5

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY, EOS = 30, 1
SENTINELS = tuple(range(29, 24, -1))


def tiny_t5(seed: int = 0, tied: bool = True) -> Any:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=4,
        num_heads=2,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=2,
        dropout_rate=0.0,
        feed_forward_proj="relu" if tied else "gated-gelu",
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    if not tied:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model


def batch_of(length: int = 6) -> dict[str, Tensor]:
    ids = torch.randint(3, 20, (3, length), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.tensor([0, 1, 1])}


# the model


@torch.no_grad()
@pytest.mark.parametrize("ratio", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_found_by_plain_greedy_search(seed: int, ratio: int) -> None:
    """Arg-max at every step, no end token first, no other sentinel ever, an end at the first end token; any length."""
    model, batch = tiny_t5(seed), batch_of(7)
    apply_edit(model, PluginConfig((4,), 8, 1.0))
    set_ratio(model, ratio)
    found = generate_answers(model, batch, SENTINELS, EOS, max_new_tokens=6)
    ends = {EOS, SENTINELS[1]}
    for row in range(3):
        chain, ids = torch.tensor([[0, SENTINELS[0]]]), batch["input_ids"][row : row + 1]
        for step in range(6):
            mask = batch["attention_mask"][row : row + 1]
            scores = model(input_ids=ids, attention_mask=mask, decoder_input_ids=chain).logits[0, -1]
            scores[[SENTINELS[0], *SENTINELS[2:], *(ends if step == 0 else ())]] = -math.inf
            chain = torch.cat([chain, scores.argmax().view(1, 1)], 1)
            if chain[0, -1].item() in ends:
                break
        answer = chain[0, 2:].tolist()
        assert found[row, : len(answer)].tolist() == answer
        assert not found[row, len(answer) :].any()


@torch.no_grad()
def test_the_decoder_starts_with_pad_unless_told_otherwise() -> None:
    """0 as in T5's own training; 2, which the original's classification used, on request. The two do differ."""
    model, batch = tiny_t5(), batch_of()
    scores = {}
    for start, head in ((0, VerbalizerHead((5, 9), 29)), (2, VerbalizerHead((5, 9), 29, decoder_start=2))):
        decoder = torch.tensor([[start, 29]]).expand(3, 2)
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        expected = model(**inputs, decoder_input_ids=decoder).logits[:, -1, [5, 9]]
        scores[start] = head(model, batch).scores
        torch.testing.assert_close(scores[start], expected)
    assert not torch.allclose(scores[0], scores[2])


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_hugging_faces_unless_the_originals_are_asked_for(tied: bool) -> None:
    """The original's factor is sqrt(d) / 100 on tied heads and 1 on others; it changes the loss, not the arg-max."""
    model, batch = tiny_t5(tied=tied), batch_of()
    scale = original_logit_scale(model.config)
    assert scale == (math.sqrt(16) / 100 if tied else 1.0)
    plain = VerbalizerHead((5, 9), 29)(model, batch).scores
    scaled = VerbalizerHead((5, 9), 29, logit_scale=scale)(model, batch).scores
    torch.testing.assert_close(scaled, plain * scale)
    assert torch.equal(scaled.argmax(-1), plain.argmax(-1))
    same_loss = torch.allclose(
        token_cross_entropy(scaled, batch["labels"]), token_cross_entropy(plain, batch["labels"])
    )
    assert same_loss is not tied


def test_layer_norms_keep_their_epsilon_unless_the_originals_is_asked_for() -> None:
    """1e-6 as every T5 has; 1e-2 is the original's on a residual stream of a hundredth."""
    model = tiny_t5()
    apply_edit(model, PluginConfig((4,)))

    def epsilons() -> set[float]:
        return {module.variance_epsilon for module in model.modules() if hasattr(module, "variance_epsilon")}

    assert epsilons() == {1e-6}
    match_original_numerics(model)
    assert epsilons() == {1e-2}


def test_a_loaded_t5_has_no_dropout(tiny: Tiny, tmp_path: Path) -> None:
    """The original trains without; a config that says 0.1 does not bring it back, in the student or the teacher."""
    source = shutil.copytree(tiny.model, tmp_path / "t5")
    described = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**described, "dropout_rate": 0.1}))
    model = load_t5(str(source), None).model
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.0}


# losses


def test_accuracy_counts_labelled_positions_only() -> None:
    """-100 is neither right nor wrong; without any label the accuracy is 0, not NaN."""
    logits = torch.eye(4)[torch.tensor([[0, 1, 2, 3]])]
    assert token_accuracy(logits, torch.tensor([[0, 1, -100, -100]])).item() == 1.0
    assert token_accuracy(logits, torch.tensor([[0, 2, -100, -100]])).item() == 0.5
    assert token_accuracy(logits, torch.full((1, 4), -100)).item() == 0.0


def test_padding_counts_in_the_mean_of_the_hidden_loss() -> None:
    """Kept from the original: masked positions add nothing to the sum but do to the number of elements."""
    teacher, student, mask = torch.zeros(1, 4, 2), torch.ones(1, 4, 2), torch.tensor([[1, 0, 0, 0]])
    assert hidden_mse(teacher, student, mask).item() == 0.25
    assert hidden_mse(teacher, student).item() == 1.0


def test_learning_from_the_task_alone_runs_no_teacher() -> None:
    """One forward per ratio, and one more only where hidden states are compared."""
    model = tiny_t5()
    apply_edit(model, PluginConfig((2, 4), 8))
    head, calls = VerbalizerHead((5, 9), 29), []

    def counted(edited: Any, batch: Any) -> HeadOutput:
        calls.append(1)
        return head(edited, batch)

    for distil, expected in (("task", 2), ("hidden", 3), ("task-hidden", 3)):
        calls.clear()
        PluginObjective(model, counted, distil, (2, 4))(batch_of())  # type: ignore[arg-type]
        assert len(calls) == expected, distil


def test_f1_is_reported_where_it_means_something() -> None:
    """Two-class paraphrase tasks and SQuAD; not three-class MNLI, not the corpus."""
    with_f1 = {name for name, task in TASKS.items() if "f1" in task.metrics and task.prompt}
    assert with_f1 == {"mrpc", "qqp", "squad"}
    assert "f1" not in TASKS["wiki"].metrics


# the loop


def test_the_constant_schedule_honours_the_warm_up() -> None:
    """Step n of 50 has n/50 of the rate, then all of it; the linear one falls to 0 behind its warm-up."""
    constant = schedule_factor("constant", 50, 1000)
    assert [constant(n) for n in (0, 1, 25, 50, 999)] == [0.0, 0.02, 0.5, 1.0, 1.0]
    assert schedule_factor("constant", 0, 1000)(0) == 1.0
    linear = schedule_factor("linear", 50, 1000)
    assert [linear(n) for n in (0, 25, 50, 525, 1000)] == [0.0, 0.5, 1.0, 0.5, 0.0]


class _Numbers:
    """Batches whose loss is their own number: 0, 1, 2, … in each epoch."""

    def __init__(self, count: int) -> None:
        self.batches_per_epoch = count

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for number in range(start, self.batches_per_epoch):
            yield {"value": torch.tensor(float(number)), "attention_mask": torch.ones(1, 1)}


class _Value(nn.Module):
    """A loss with gradient that equals the batch's number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = batch["value"] + self.weight - self.weight.detach()
        return loss, {"mse_loss": loss.detach()}


def fit(path: Path, count: int, config: TrainerConfig) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of metrics.jsonl and the steps at which validation ran."""
    validated: list[int] = []

    def evaluate() -> dict[str, float]:
        validated.append(trainer.progress.step)
        return {"accuracy": 0.5}

    directory = RunDirectory(path, {})
    save = lambda place: (place / "x").touch()  # noqa: E731 - a named thunk
    trainer = Trainer(Runtime(), _Value(), _Numbers(count), config, directory, evaluate, "accuracy", save)
    trainer.fit()
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == "train"], validated


def test_logged_values_are_of_the_whole_step(tmp_path: Path) -> None:
    """Every loss is the mean over the step's micro-batches, and the rate is the one that the step used."""
    config = TrainerConfig(epochs=1, lr=0.5, warmup_steps=4, accumulation=2, inspect_step=1)
    rows, _ = fit(tmp_path / "run", 6, config)
    assert [row["loss"] for row in rows] == [0.5, 2.5, 4.5]
    assert [row["mse_loss"] for row in rows] == [0.5, 2.5, 4.5]
    assert [row["lr"] for row in rows] == [0.0, 0.125, 0.25]


@pytest.mark.parametrize(
    ("count", "accumulation", "valid_step", "expected"),
    [(3, 1, -1, [3, 6]), (5, 2, -1, [3, 6]), (1, 1, -1, [1, 2]), (6, 2, 2, [2, 4, 6])],
)
def test_validation_comes_at_the_end_of_an_epoch_and_counts_optimizer_steps(
    tmp_path: Path, count: int, accumulation: int, valid_step: int, expected: list[int]
) -> None:
    """Not one step early, not after micro-batches, not twice at the end."""
    config = TrainerConfig(epochs=2, accumulation=accumulation, valid_step=valid_step)
    _, validated = fit(tmp_path / "run", count, config)
    assert validated == expected
