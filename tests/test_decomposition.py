"""The decomposition as an edit of a Hugging Face BERT: settings, exactness, errors, saving, refusals."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from metric.cost import parameter_counts
from model import (
    DecompositionConfig,
    ModelError,
    apply_edit,
    edits_of,
    relative_errors,
    undo_edit,
)
from model.compression import edit_from_dict
from model.decomposition.bank import ExpandedBank
from model.decomposition.config import Ops
from model.decomposition.expansion import fit_expansion
from model.decomposition.layers import DecomposedLinear
from model.decomposition.stacking import StackOrder
from model.decomposition.surgery import matrix_groups
from model.decomposition.tucker import relative_error
from model.delta import load_delta, save_delta
from tests.helpers_decomposition import (
    BLOCKS,
    CHUNKS,
    LAYERS,
    WIDTH,
    bank_of,
    decomposed,
    decompositions,
    full_rank,
    tiny_bert,
    tiny_config,
    tiny_inputs,
    tiny_logits,
)
from tests.helpers_edits import build_t5

pytestmark = pytest.mark.usefixtures("single_thread")

ROOT = Path(__file__).resolve().parent.parent
OPS: tuple[Ops, ...] = ("san", "ffn", "san_ffn")
each_ops = pytest.mark.parametrize("ops", OPS)
each_kind = pytest.mark.parametrize("kind", decompositions())

# settings


@each_kind
def test_settings_survive_json(kind: str) -> None:
    edit = decompositions()[kind]
    assert edit_from_dict(json.loads(json.dumps(edit.to_dict()))) == edit


_RANKS = {"rank_layer": 1, "rank_condim": 1, "rank_dim": 1}
_TWO = {"rank_condim": 1, "rank_dim": 1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**_RANKS, "ops": "san-ffn"}, r"san, ffn, san_ffn, found 'san-ffn' \(did you mean 'san_ffn'\?\)"),
        ({**_RANKS, "ops": "sam"}, r"found 'sam' \(did you mean 'san'\?\)"),
        ({"protocol": "V"}, "protocol is one of II, III, IV, found 'V'"),
        (_TWO, "rank_layer must be a whole number of at least 1, found None"),
        ({**_RANKS, "rank_layer": 0}, "rank_layer must be .* found 0"),
        ({**_RANKS, "rank_layer": 2.0}, "rank_layer must be a whole number .* found 2.0"),
        ({**_RANKS, "protocol": "III"}, "rank_layer has no meaning in protocol III"),
        ({**_TWO, "protocol": "II"}, "rank_condim has no meaning in protocol II"),
        ({**_TWO, "protocol": "III", "is_expand": True}, "is_expand goes with protocol IV"),
        ({**_RANKS, "is_expand": True}, "rank_left_expdim must be"),
        ({**_RANKS, "rank_left_expdim": 2}, "rank_left_expdim has no meaning"),
        ({**_RANKS, "is_expand": "yes"}, "is_expand is true or false"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_built(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        DecompositionConfig(**settings)


# exactness and errors


@each_ops
@pytest.mark.parametrize("protocol", ["II", "III", "IV"])
def test_full_rank_equals_the_dense_model(protocol: str, ops: Ops) -> None:
    """Within 1e-10 in float64 and 4e-4 in float32."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 4e-4)):
        model = tiny_bert().to(dtype)
        dense = tiny_logits(model)
        apply_edit(model, full_rank(protocol, ops))
        assert (tiny_logits(model) - dense).abs().max() <= tolerance
        assert relative_errors(model).overall <= tolerance


@each_ops
@each_kind
def test_a_decomposed_model_computes_with_the_weights_it_shows(kind: str, ops: Ops) -> None:
    """A dense BERT that gets every layer's `weight` gives the same output, in evaluation and in training mode."""
    model = decomposed(decompositions(ops)[kind]).double()
    dense = tiny_bert().double()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DecomposedLinear)}
    count = {"san": 4, "ffn": 2, "san_ffn": 6}[ops] * LAYERS
    assert len(layers) == count
    with torch.no_grad():
        for name, layer in layers.items():
            dense.get_submodule(name).weight.copy_(layer.weight)
    torch.testing.assert_close(tiny_logits(model), tiny_logits(dense), atol=1e-12, rtol=0)
    torch.testing.assert_close(tiny_logits(model.train()), tiny_logits(dense), atol=1e-12, rtol=0)


@each_kind
def test_the_reported_errors_are_those_of_the_weights(kind: str) -> None:
    """Per block and overall, recomputed from the dense weights and those that the factors stand for."""
    dense, model = tiny_bert(), decomposed(decompositions()[kind])
    report = relative_errors(model)
    assert len(report.by_block) == LAYERS and len(report.names) == 4 + 2 * CHUNKS
    for i, row in enumerate(report.by_block):
        weights = [
            twin.encoder.layer[i].attention.self.key.weight.detach().double() for twin in (dense.bert, model.bert)
        ]
        assert row[1] == pytest.approx(relative_error(*weights), abs=1e-6)
    described = report.to_dict()
    assert described["dense_parameters"] == BLOCKS["san_ffn"] * WIDTH**2
    assert json.loads(json.dumps(described))["block_errors"][0]["query"] == report.by_block[0][0]
    assert described["bank_parameters"] == sum(parameter.numel() for parameter in bank_of(model).parameters())
    assert report.table().splitlines()[-1].startswith(f"overall {report.overall:.4f}, 2,880 -> ")


def test_errors_are_unknown_where_nothing_was_decomposed(tmp_path: Path) -> None:
    """A loaded model and one drawn from scratch say so; a dense one says that it is not decomposed."""
    model = decomposed(decompositions()["IV"])
    model.save_pretrained(tmp_path)
    drawn = tiny_bert()
    apply_edit(drawn, decompositions()["IV"], from_scratch=True)
    for other in (AutoModelForSequenceClassification.from_pretrained(tmp_path), drawn):
        with pytest.raises(ModelError, match="only where the model was decomposed"):
            relative_errors(other)
    with pytest.raises(ModelError, match="not decomposed"):
        relative_errors(tiny_bert())


@pytest.mark.parametrize("chunks", [1, 2, 5, 8])
def test_any_multiple_of_the_width_is_an_ffn(chunks: int) -> None:
    """D, 2 D, 5 D and 8 D, at full rank and below."""
    model = tiny_bert(intermediate_size=chunks * WIDTH)
    dense = tiny_logits(model)
    apply_edit(model, DecompositionConfig("III", "ffn", rank_condim=WIDTH, rank_dim=WIDTH))
    torch.testing.assert_close(tiny_logits(model), dense, atol=4e-5, rtol=0)
    assert tiny_logits(decomposed(decompositions()["IV"], intermediate_size=chunks * WIDTH)).isfinite().all()


def test_parameters_are_what_the_formula_says() -> None:
    """N x a + a c d + D c + d D for the bank; one bias per output stays."""
    dense, edit = parameter_counts(tiny_bert()).total, DecompositionConfig(rank_layer=3, rank_condim=4, rank_dim=7)
    found = parameter_counts(decomposed(edit)).total
    bank = BLOCKS["san_ffn"] * 3 + 3 * 4 * 7 + WIDTH * 4 + 7 * WIDTH
    assert found == dense - BLOCKS["san_ffn"] * WIDTH**2 + bank


def test_the_expanded_fit_is_never_worse_than_its_start() -> None:
    """It starts from the Tucker solution with nothing added, under the forward's own formula, and improves on it."""
    model = tiny_bert()
    edit = decompositions("san")["expanded"]
    apply_edit(model, edit)
    fitted = relative_errors(model).overall
    plain = tiny_bert()
    apply_edit(plain, DecompositionConfig("III", "san", rank_condim=7, rank_dim=4))
    bank, tucker = bank_of(model), bank_of(plain)
    assert isinstance(bank, ExpandedBank)
    with torch.no_grad():
        for name, parameter in bank.named_parameters():
            parameter.copy_(tucker.get_parameter(name) if not name.startswith("exp_") else torch.zeros_like(parameter))
        target = torch.cat([
            layer.get_submodule(name).get_parameter("weight").T[None]
            for layer in tiny_bert().bert.encoder.layer
            for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        ])  # fmt: skip
        start = relative_error(target, bank.matrices(slice(None)))
    assert fitted < start
    errors = fit_expansion(bank, target, iterations=0)
    squared = target.flatten(1).norm(dim=1).square().double()
    assert float((errors.square() * squared).sum().div(squared.sum()).sqrt()) <= start + 1e-7


# life as an edit


@each_kind
def test_it_cannot_be_undone_and_says_so(kind: str) -> None:
    model = decomposed(decompositions()[kind])
    before = tiny_logits(model)
    with pytest.raises(ModelError, match="'decomposition' cannot be undone"):
        undo_edit(model, "decomposition")
    assert [edit.kind for edit in edits_of(model)] == ["decomposition"]
    assert torch.equal(tiny_logits(model), before)


def test_decomposing_twice_is_refused() -> None:
    model = decomposed(decompositions()["IV"])
    with pytest.raises(ModelError, match="decomposition \\+ decomposition has the same edit twice"):
        apply_edit(model, decompositions()["II"])


def test_a_copy_is_a_model_of_its_own() -> None:
    """The copy's layers read the copy's bank, also with cached weights and results in waiting."""
    model = decomposed(decompositions()["IV"])
    before = tiny_logits(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        bank_of(twin).core.mul_(2)
    assert torch.equal(tiny_logits(model), before)
    assert not torch.equal(tiny_logits(twin), before)
    assert {id(group.bank) for group in matrix_groups(twin)} == {id(bank_of(twin))}


@each_kind
def test_a_delta_carries_the_factors_and_biases_to_another_copy(kind: str, tmp_path: Path) -> None:
    """Onto a dense copy of the backbone; the decomposition saved is the one that comes back, not a new one."""
    model = decomposed(decompositions()[kind])
    with torch.no_grad():
        for parameter in bank_of(model).parameters():
            parameter.mul_(1.5)
        model.bert.encoder.layer[0].attention.self.key.bias.add_(1.0)
        model.bert.encoder.layer[1].output.dense.bias.add_(1.0)
    save_delta(model, "decomposition", tmp_path)
    plain = tiny_bert()
    load_delta(plain, "decomposition", tmp_path)
    torch.testing.assert_close(tiny_logits(plain), tiny_logits(model), atol=4e-6, rtol=0)


_FRESH = """
import sys
from pathlib import Path
import torch, transformers
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
import model
root = Path(sys.argv[1])
inputs = load_file(root / "inputs.safetensors")
for directory in sorted(p for p in root.iterdir() if p.is_dir()):
    auto = getattr(transformers, directory.name.partition("-")[0])
    loaded = auto.from_pretrained(directory).eval()
    with torch.no_grad():
        save_file({"found": loaded(**inputs)[0].contiguous()}, directory / "found.safetensors")
    (directory / "class.txt").write_text(type(loaded).__name__)
"""

HEADS: dict[str, Any] = {
    "AutoModel": BertModel,
    "AutoModelForMaskedLM": BertForMaskedLM,
    "AutoModelForPreTraining": BertForPreTraining,
    "AutoModelForSequenceClassification": BertForSequenceClassification,
    "AutoModelForTokenClassification": BertForTokenClassification,
    "AutoModelForQuestionAnswering": BertForQuestionAnswering,
}
SAVED = [*itertools.product(HEADS, ["IV"]), *itertools.product(["AutoModel"], ["II", "III", "expanded"])]


@pytest.fixture(scope="module")
def fresh(single_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every head with protocol IV, and every kind without a head, saved here and loaded by another process."""
    root = tmp_path_factory.mktemp("saved")
    save_file(tiny_inputs(), root / "inputs.safetensors")
    for auto, kind in SAVED:
        model = decomposed(decompositions()[kind], HEADS[auto])
        model.save_pretrained(root / f"{auto}-{kind}")
        save_file({"expected": tiny_logits(model)}, root / f"{auto}-{kind}" / "expected.safetensors")
    subprocess.run([sys.executable, "-c", _FRESH, str(root)], cwd=ROOT, check=True, capture_output=True, timeout=600)
    return root


@pytest.mark.parametrize(("auto", "kind"), SAVED)
def test_a_fresh_process_gives_the_same_output(fresh: Path, auto: str, kind: str) -> None:
    """`save_pretrained`, then `Auto…` after `import model` in another process, for every head and every kind."""
    directory = fresh / f"{auto}-{kind}"
    expected = load_file(directory / "expected.safetensors")["expected"]
    torch.testing.assert_close(load_file(directory / "found.safetensors")["found"], expected, atol=4e-6, rtol=0)
    assert (directory / "class.txt").read_text().startswith("CompressedBert")
    assert "compressed_bert" in (directory / "config.json").read_text()


def test_a_saved_encoder_takes_a_new_head(tmp_path: Path) -> None:
    """A decomposed masked-language model becomes a classifier; its factors come along."""
    model = decomposed(decompositions()["IV"], BertForMaskedLM)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, num_labels=5)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, config=config)
    assert loaded.classifier.out_features == 5
    for name, parameter in bank_of(model).named_parameters():
        assert torch.equal(bank_of(loaded).get_parameter(name), parameter)


def test_a_vocabulary_is_enough_for_a_tokenizer(tmp_path: Path) -> None:
    """Old BERT directories have no `tokenizer_config.json`; their compressed students need none either."""
    decomposed(decompositions()["IV"]).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##c\n")
    assert AutoTokenizer.from_pretrained(tmp_path)("a bc")["input_ids"] == [2, 5, 6, 7, 3]


def test_it_builds_on_the_meta_device() -> None:
    """Structure needs no numbers, so large models can be counted and loaded without memory behind them."""
    with torch.device("meta"):
        model = BertForSequenceClassification(tiny_config())
        apply_edit(model, decompositions()["IV"], from_scratch=True)
    assert all(parameter.is_meta for parameter in model.parameters())


# refusals


@pytest.mark.parametrize(
    ("edit", "changes", "words"),
    [
        (DecompositionConfig(rank_layer=99, rank_condim=4, rank_dim=4), {}, "rank_layer 99 is not between 1 and 20"),
        (DecompositionConfig(rank_layer=3, rank_condim=13, rank_dim=4), {}, "rank_condim 13 is above the .* width, 12"),
        (DecompositionConfig("III", rank_condim=4, rank_dim=15), {}, "rank_dim 15 is above the model's width, 12"),
        (DecompositionConfig("II", rank_dim=13), {}, "rank_dim 13 is above the model's width, 12"),
        (decompositions()["IV"], {"intermediate_size": 30}, "hidden size, 12: its width 30 is no multiple"),
        (decompositions()["IV"], {"num_hidden_layers": 0}, "BertForSequenceClassification has 0 encoder and 0 decoder"),
        (DecompositionConfig("IV", "san", 3, 4, 4, True, 2, 2), {}, "rank_layer must be 8, not 3"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_model_alone(
    edit: DecompositionConfig, changes: dict[str, Any], words: str
) -> None:
    """Each message names both numbers."""
    model = tiny_bert(**changes)
    keys = list(model.state_dict())
    with pytest.raises(ModelError, match=words):
        apply_edit(model, edit)
    assert edits_of(model) == [] and list(model.state_dict()) == keys


def test_more_cores_than_blocks_are_allowed_from_scratch_only() -> None:
    """The original's forward takes any `rank_layer`; a decomposition with more than there are would be arbitrary."""
    model = tiny_bert()
    apply_edit(model, DecompositionConfig(rank_layer=25, rank_condim=4, rank_dim=5), from_scratch=True)
    assert tiny_logits(model).isfinite().all()


def test_families_without_support_are_refused() -> None:
    with pytest.raises(ModelError, match="family 'bert', found 't5'"):
        apply_edit(build_t5("relu"), decompositions()["IV"])


def test_stacking_orders_come_from_one_place() -> None:
    """Rows of a san_ffn stack with F = 3, as the tensor's documentation says."""
    order = StackOrder.of("san_ffn", WIDTH, CHUNKS * WIDTH)
    assert (order.blocks, order.bias_rows) == (10, 8)
    assert order.rows(1, "query") == slice(10, 11) and order.rows(1, "ffn_out") == slice(17, 20)
