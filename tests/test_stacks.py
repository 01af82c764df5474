"""Legal stacks of edits: built, saved, loaded in a fresh process with the same logits; and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model import DecompositionConfig, ModelError, apply_edit, available_ratios, committed, edits_of, set_ratio
from model.compression import STACKING_ORDER
from model.pruning import sparsify
from tests.helpers_close import same_logits
from tests.helpers_decomposition import tiny_bert
from tests.helpers_enct5 import tiny_enct5, tiny_logits
from tests.helpers_pruning import random_importance, sorted_bert
from tests.helpers_stacks import STACKS, build, edit_of, inputs_of, outputs, save_inputs

pytestmark = pytest.mark.usefixtures("single_thread")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Of every stack: its logits here, and in one process that loaded them all."""
    root = tmp_path_factory.mktemp("stacks")
    save_inputs(root)
    here = {}
    for stack in STACKS:
        model = build(stack)
        here[stack] = outputs(model, inputs_of(stack.partition("-")[0]))
        model.save_pretrained(root / stack)
    command = [sys.executable, "-m", "tests.helpers_stacks", str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "torchao" not in done.stderr and "_pytree" not in done.stderr  # what a user would see of other libraries
    return {stack: (found, load_file(root / stack / "found.safetensors")) for stack, found in here.items()}


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_gives_the_same_logits_in_a_fresh_process(
    table: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]], stack: str
) -> None:
    """Saved as plain safetensors, loaded by `AutoModel…`: equal at every ratio; and no two ratios are alike."""
    here, there = table[stack]
    assert here.keys() == there.keys() and len(here) == (3 if "plugin" in stack else 1)
    assert all(same_logits(here[ratio], there[ratio]) for ratio in here)
    assert all(torch.isfinite(logits).all() for logits in here.values())
    assert len({tuple(logits.flatten().tolist()) for logits in here.values()}) == len(here)


@pytest.mark.parametrize("stack", STACKS)
def test_the_table_holds_stacks_of_the_legal_order(stack: str) -> None:
    """Nothing in it is there twice, or by another order than the one that errors name."""
    kinds = [edit_of(*stack.split("+")[0].split("-")).kind]
    kinds += [edit_of(stack.partition("-")[0], name).kind for name in stack.partition("-")[2].split("+")[1:]]
    assert kinds == sorted(set(kinds), key=STACKING_ORDER.index)


@pytest.mark.parametrize(
    ("stack", "late", "legal"),
    [
        ("bert-plugin", "decomposition", r"decomposition \+ plugin"),
        ("bert-plugin", "lora", r"lora \+ plugin"),
        ("bert-plugin", "pruning", r"pruning \+ plugin"),
        ("bert-decomposition", "layer_drop", r"layer_drop \+ decomposition"),
        ("bert-decomposition+plugin", "embedding", r"decomposition \+ embedding \+ plugin"),
        ("bert-int8", "plugin", r"plugin \+ quantization"),
        ("bert-int8", "int8_activations", "quantization"),
        ("t5-lora+int8", "plugin", r"lora \+ plugin \+ quantization"),
        ("enct5-plugin", "layer_drop", r"layer_drop \+ plugin"),
        ("bert-decomposition", "pruning", r"pruning \+ decomposition, where pruning has taken nothing away"),
    ],
)
def test_an_illegal_stack_is_refused_with_the_legal_order_and_nothing_changes(
    stack: str, late: str, legal: str
) -> None:
    model = build(stack)
    family = stack.partition("-")[0]
    before, edits = outputs(model, inputs_of(family)), edits_of(model)
    with pytest.raises(ModelError, match=f"legal is: {legal}\\."):
        apply_edit(model, edit_of(family, late))
    assert edits_of(model) == edits
    assert all(torch.equal(found, before[ratio]) for ratio, found in outputs(model, inputs_of(family)).items())


def test_what_is_in_order_but_does_not_go_together_is_refused_with_the_reason() -> None:
    """LoRA wants whole matrices, and so does quantisation."""
    with pytest.raises(ModelError, match=r"linear projection at project_q_lora\.0, found DecomposedLinear"):
        apply_edit(build("bert-san"), edit_of("bert", "lora"))
    with pytest.raises(ModelError, match=r"No linear layer to quantise was found.* factors"):
        apply_edit(build("bert-decomposition"), edit_of("bert", "int8"))


@pytest.mark.parametrize("sparsity", [0.5, 0.999])
@pytest.mark.parametrize("family", ["enct5", "bert"])
def test_plugins_attach_to_what_importance_left_of_a_model(family: str, sparsity: float) -> None:
    """Also where whole FFNs are gone: at ratio 1 nothing changes, and other ratios run."""
    model = tiny_enct5("sequence", d_kv=8, num_heads=4, d_ff=32) if family == "enct5" else tiny_bert()
    sparsify(model, random_importance(model))
    pruned = committed(model, sparsity).eval()
    dense = tiny_logits(pruned)
    apply_edit(pruned, edit_of(family, "plugin"))
    assert available_ratios(pruned) == (1, 2, 3)
    assert torch.equal(tiny_logits(pruned), dense)
    set_ratio(pruned, 2)
    changed = tiny_logits(pruned)
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, dense) or sparsity > 0.9  # nothing looks at the encoder any more


def test_uneven_layers_are_no_bank_and_the_first_of_them_is_named() -> None:
    """A bank is made of square blocks of the model's width; a layer that lost neurons has none."""
    pruned = committed(sorted_bert(ffn=48), 0.5)
    with pytest.raises(ModelError, match=r"Layer 0's query has shape .* layers that lost heads or neurons cannot be"):
        apply_edit(pruned, DecompositionConfig(rank_layer=4, rank_condim=8, rank_dim=8))
