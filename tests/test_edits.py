"""The contract of every edit, on several backbones. A new edit joins by an entry in `CASES`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, T5Config, T5ForConditionalGeneration

from model import (
    LoraConfig,
    ModelError,
    PluginConfig,
    apply_edit,
    available_ratios,
    current_ratio,
    edits_of,
    set_ratio,
    undo_edit,
    use_ratio,
)
from model.compression import EditConfig, edit_from_dict
from model.delta import delta_files, load_delta, save_delta
from model.plugin.objective import freeze_for

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 50

#: Gating and depths of the tiny T5s; gated ones have a head of their own, as T5 v1.1 has.
BACKBONES: dict[str, dict[str, Any]] = {
    "relu": {"feed_forward_proj": "relu", "num_layers": 2, "num_decoder_layers": 2},
    "gated_deep_decoder": {"feed_forward_proj": "gated-gelu", "num_layers": 1, "num_decoder_layers": 3},
    "gated_deep_encoder": {"feed_forward_proj": "gated-gelu", "num_layers": 3, "num_decoder_layers": 1},
}


@dataclass(frozen=True)
class Case:
    """One edit and what the contract needs to know of it.

    Attributes:
        edit: the edit under test.
        freeze: leaves exactly its parameters to be trained.
        identity: the edit at the setting that changes nothing (default: `edit`, switched off or as initialised).
        reversible: whether it can be undone.
        refused: settings that may not be built, with a word of the message.
    """

    edit: EditConfig
    freeze: Callable[[Any], None]
    identity: EditConfig | None = None
    reversible: bool = True
    refused: tuple[tuple[dict[str, Any], str], ...] = ()


def _train_plugins(model: Any) -> None:
    freeze_for(model, "hidden", delta_tuning=False)


def _train_lora(model: Any) -> None:
    freeze_for(model, "no", delta_tuning=True)


CASES: dict[str, Case] = {
    "plugin": Case(
        PluginConfig(ratios=(2,), bottleneck=5, residual_scale=1.0),
        _train_plugins,
        refused=(
            ({"ratios": ()}, "ratios"),
            ({"ratios": (1,)}, "at least 2"),
            ({"ratios": (2.5,)}, "whole numbers"),
            ({"ratios": 4}, "whole numbers"),
            ({"ratios": (True,)}, "whole numbers"),
            ({"ratios": (4, 2, 4)}, "once"),
            ({"bottleneck": 0}, "bottleneck"),
            ({"bottleneck": 2.0}, "bottleneck"),
            ({"residual_scale": 0.0}, "residual scale"),
            ({"residual_scale": float("nan")}, "residual scale"),
            ({"residual_scale": "100"}, "residual scale"),
        ),
    ),
    "plugin_bank": Case(PluginConfig(ratios=(4, 2, 3), bottleneck=7), _train_plugins),
    "plugin_published": Case(PluginConfig(ratios=(4,), zero_padded_rows=True), _train_plugins),
    "lora": Case(
        LoraConfig(rank=3, alpha=6.0),
        _train_lora,
        refused=(
            ({"rank": 0}, "rank"),
            ({"rank": 2.0}, "rank"),
            ({"alpha": 0.0}, "alpha"),
            ({"alpha": float("inf")}, "alpha"),
        ),
    ),
}
# Field values survive JSON whatever the entry says, so the stack is tested with two of the entries above.
STACK = ("lora", "plugin_bank")

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_backbone = pytest.mark.parametrize("backbone", BACKBONES)
some_backbone = "gated_deep_decoder"


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from a second thread, and wait for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_t5(backbone: str, seed: int = 0, **sizes: int) -> Any:
    torch.manual_seed(seed)
    gated = "gated" in backbone
    config = T5Config(
        **{
            **{"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 6, "num_heads": 2, "d_ff": 20, "dropout_rate": 0.0},
            **BACKBONES[backbone],
            **sizes,
        },
        tie_word_embeddings=not gated,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    if gated:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model


def inputs() -> dict[str, Tensor]:
    """Two rows of unlike length; 7 is a multiple of no ratio in use."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=generator) * mask
    decoder = torch.randint(3, VOCABULARY, (2, 3), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(**inputs()).logits


def logits_by_ratio(model: Any) -> dict[str, Tensor]:
    found = {}
    for ratio in available_ratios(model):
        with use_ratio(model, ratio):
            found[str(ratio)] = logits(model).contiguous()
    return found


def own_parameters(model: Any, edit: EditConfig) -> dict[int, nn.Parameter]:
    return {id(p): p for module in edit.own_modules(model).values() for p in module.parameters()}


def scramble(model: Any, edit: EditConfig, seed: int = 7) -> None:
    """Give the edit's own parameters values at which it shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in own_parameters(model, edit).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def edited(case: Case, backbone: str = some_backbone) -> Any:
    model = build_t5(backbone)
    apply_edit(model, case.edit)
    scramble(model, case.edit)
    return model


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# configure


@each_case
def test_settings_survive_json(case: Case) -> None:
    """The JSON form names the kind and gives an equal edit back, tuples included."""
    described = json.loads(json.dumps(case.edit.to_dict()))
    assert described["kind"] == case.edit.kind
    assert edit_from_dict(described) == case.edit


@each_case
def test_a_misspelt_setting_is_refused_by_name(case: Case) -> None:
    """A typo never becomes the default."""
    with pytest.raises(ModelError, match=f"'{case.edit.kind}' has no setting rnak"):
        edit_from_dict({**case.edit.to_dict(), "rnak": 3})


@pytest.mark.parametrize(
    ("edit_type", "settings", "word"),
    [(type(case.edit), settings, word) for case in CASES.values() for settings, word in case.refused],
)
def test_settings_that_cannot_be_are_refused_when_built(
    edit_type: type[EditConfig], settings: dict[str, Any], word: str
) -> None:
    """Validation happens at construction, not when the model is touched."""
    with pytest.raises(ModelError, match=word):
        edit_type(**settings)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"'prunning'.*lora.*plugin"):
        edit_from_dict({"kind": "prunning"})


def test_a_list_of_ratios_equals_the_tuple() -> None:
    """A user's list and the tuple that JSON gives back are the same settings."""
    assert PluginConfig(ratios=[2, 4]) == PluginConfig(ratios=(2, 4))  # type: ignore[arg-type]


# apply, exactness, undo


@each_backbone
@each_case
def test_identity_setting_is_bit_identical_to_the_dense_model(case: Case, backbone: str) -> None:
    """Applied and switched off (or as initialised), the edit changes no bit; its parameters do show once it is on."""
    model = build_t5(backbone)
    dense = logits(model)
    apply_edit(model, case.identity or case.edit)
    assert torch.equal(logits(model), dense)
    model = edited(case, backbone)
    assert not torch.equal(logits_by_ratio(model)[str(available_ratios(model)[-1])], dense)


@each_backbone
@each_case
def test_undo_gives_the_model_back(case: Case, backbone: str) -> None:
    """Same keys, same bits, same config and no hooks left, even when undone while it was switched on."""
    model = build_t5(backbone)
    keys, dense, described = list(model.state_dict()), logits(model), model.config.to_dict()
    apply_edit(model, case.edit)
    scramble(model, case.edit)
    assert [edit.kind for edit in edits_of(model)] == [case.edit.kind]
    if not case.reversible:
        with pytest.raises(ModelError, match="cannot be undone"):
            undo_edit(model, case.edit.kind)
        return
    set_ratio(model, available_ratios(model)[-1])
    undo_edit(model, case.edit.kind)
    assert torch.equal(logits(model), dense)
    assert list(model.state_dict()) == keys
    assert model.config.to_dict() == described
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_only_the_last_edit_can_be_undone() -> None:
    model = build_t5(some_backbone)
    with pytest.raises(ModelError, match="carries none"):
        undo_edit(model, "plugin")
    for name in STACK:
        apply_edit(model, CASES[name].edit)
    with pytest.raises(ModelError, match=r"'lora'.*lora \+ plugin"):
        undo_edit(model, "lora")


@each_case
def test_a_deep_copy_is_a_model_of_its_own(case: Case) -> None:
    """Switching or undoing on a copy leaves the original as it is."""
    model = edited(case)
    ratio = available_ratios(model)[-1]
    set_ratio(model, ratio)
    before, twin = logits(model), copy.deepcopy(model)
    assert torch.equal(logits(twin), before)
    set_ratio(twin, 1)
    if case.reversible:
        undo_edit(twin, case.edit.kind)
    assert current_ratio(model) == ratio
    assert torch.equal(logits(model), before)


@each_case
def test_matching_nothing_is_an_error_that_says_what_is_there(case: Case) -> None:
    """A model without layers, and one of an unknown family, are refused and stay as they are."""
    empty = build_t5("relu", num_layers=0, num_decoder_layers=0)
    with pytest.raises(ModelError, match=r"No .* was found: T5ForConditionalGeneration has 0 encoder and 0 decoder"):
        apply_edit(empty, case.edit)
    assert edits_of(empty) == []
    stranger = GPT2Model(GPT2Config(vocab_size=5, n_positions=4, n_embd=4, n_layer=1, n_head=1))
    with pytest.raises(ModelError, match=r"family 'gpt2' is known; there are: .*t5"):
        apply_edit(stranger, case.edit)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("plugin", "lora"), r"plugin \+ lora cannot be stacked in this order; legal is: lora \+ plugin"),
        (("lora", "lora"), r"lora \+ lora has the same edit twice; legal is: lora"),
        (("plugin", "plugin"), r"has the same edit twice; legal is: plugin"),
    ],
)
def test_illegal_stacks_are_refused_with_the_legal_order(kinds: tuple[str, str], message: str) -> None:
    model = build_t5(some_backbone)
    apply_edit(model, CASES[kinds[0]].edit)
    before = logits(model)
    with pytest.raises(ModelError, match=message):
        apply_edit(model, CASES[kinds[1]].edit)
    assert [edit.kind for edit in edits_of(model)] == [kinds[0]]
    assert torch.equal(logits(model), before)


# save and load


_FRESH = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM
import torch
torch.set_num_threads(1)
root = Path(sys.argv[1])
directories = sorted(p for p in root.iterdir() if p.is_dir())
for directory in directories:
    try:
        AutoModelForSeq2SeqLM.from_pretrained(directory)
    except ValueError as error:
        (directory / "refused.txt").write_text(str(error))
import model as toolkit
inputs = load_file(root / "inputs.safetensors")
for directory in directories:
    loaded = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    found = {}
    with torch.no_grad():
        for ratio in toolkit.available_ratios(loaded):
            with toolkit.use_ratio(loaded, ratio):
                found[str(ratio)] = loaded(**inputs).logits.contiguous()
    save_file(found, directory / "found.safetensors")
"""


@pytest.fixture(scope="module")
def fresh(single_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases on all backbones, saved here, then loaded and run by one other process."""
    root = tmp_path_factory.mktemp("saved")
    save_file(inputs(), root / "inputs.safetensors")
    stacks = {name: (name,) for name in CASES} | {"stack": STACK}
    for backbone in BACKBONES:
        for label, names in stacks.items():
            model = build_t5(backbone)
            for name in names:
                apply_edit(model, CASES[name].edit)
                scramble(model, CASES[name].edit)
            model.save_pretrained(root / f"{backbone}-{label}")
            save_file(logits_by_ratio(model), root / f"{backbone}-{label}" / "expected.safetensors")
    command = [sys.executable, "-c", _FRESH, str(root)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return root


@each_backbone
@pytest.mark.parametrize("label", [*CASES, "stack"])
def test_a_fresh_process_gives_the_same_logits_at_every_ratio(fresh: Path, label: str, backbone: str) -> None:
    """`save_pretrained`, then `AutoModelForSeq2SeqLM` after `import model` in another process: no bit differs."""
    directory = fresh / f"{backbone}-{label}"
    expected, found = load_file(directory / "expected.safetensors"), load_file(directory / "found.safetensors")
    assert same(found, expected)
    assert {path.suffix for path in directory.iterdir()} <= {".json", ".safetensors", ".txt"}


@pytest.mark.parametrize("label", [*CASES, "stack"])
def test_a_program_without_the_toolkit_refuses_the_directory(fresh: Path, label: str) -> None:
    """Without `import model`, `Auto…` classes stop at the unknown type instead of making random weights."""
    refusal = fresh / f"{some_backbone}-{label}" / "refused.txt"
    assert refusal.is_file()
    assert "compressed_t5" in refusal.read_text()


@each_backbone
@each_case
def test_a_delta_carries_the_edit_to_another_copy_of_the_backbone(case: Case, backbone: str, tmp_path: Path) -> None:
    """A delta on a plain copy, and over a copy with other values, gives the logits it was saved with."""
    model = edited(case, backbone)
    expected = logits_by_ratio(model)
    weights = save_delta(model, case.edit.kind, tmp_path, {"dataset": "sst2"})
    own = sum(p.numel() for p in own_parameters(model, case.edit).values())
    assert sum(tensor.numel() for tensor in load_file(weights).values()) == own
    plain = build_t5(backbone)
    assert load_delta(plain, case.edit.kind, tmp_path) == case.edit
    assert same(logits_by_ratio(plain), expected)
    scramble(plain, case.edit, seed=8)
    assert not same(logits_by_ratio(plain), expected)
    load_delta(plain, case.edit.kind, tmp_path)
    assert same(logits_by_ratio(plain), expected)


@each_case
def test_a_delta_for_another_backbone_is_refused_with_both_sizes(case: Case, tmp_path: Path) -> None:
    """Width, depth and feed-forward size are named with both numbers, and the model is not touched."""
    save_delta(edited(case), case.edit.kind, tmp_path)
    for change, words in (
        ({"d_model": 24}, r"width 16 \(the model has 24\)"),
        ({"num_layers": 2}, r"layers 1 \(the model has 2\)"),
        ({"d_ff": 28}, r"ffn 20 \(the model has 28\)"),
    ):
        other = build_t5(some_backbone, **change)
        with pytest.raises(ModelError, match=f"this {case.edit.kind} was made for another backbone.*{words}"):
            load_delta(other, case.edit.kind, tmp_path)
        assert edits_of(other) == []


@each_case
def test_damaged_deltas_are_refused_and_leave_the_model_alone(case: Case, tmp_path: Path) -> None:
    """A truncated weight file, a missing one, an unknown version, and a description of something else."""
    weights = save_delta(edited(case), case.edit.kind, tmp_path)
    description = delta_files(tmp_path, case.edit.kind)[1]
    whole, text = weights.read_bytes(), description.read_text()
    model = build_t5(some_backbone)
    before = logits(model)

    def refused(words: str) -> None:
        with pytest.raises(ModelError, match=words):
            load_delta(model, case.edit.kind, tmp_path)
        assert edits_of(model) == []
        assert torch.equal(logits(model), before)

    weights.write_bytes(whole[: len(whole) // 2])
    refused(rf"{len(whole) // 2} bytes\) is not a whole safetensors file")
    weights.unlink()
    refused("There is no weight file")
    description.write_text(text.replace('"format_version": 1', '"format_version": 99'))
    refused("format version 99")
    description.write_text(json.dumps({**json.loads(text), "edit": {"kind": "other"}}))
    refused(f"describes no {case.edit.kind}")
    description.write_text(text[:20])
    refused("not valid JSON")


@each_case
def test_a_delta_with_other_settings_than_the_models_is_refused(case: Case, tmp_path: Path) -> None:
    save_delta(edited(case), case.edit.kind, tmp_path)
    other = {"plugin": PluginConfig(ratios=(5,)), "lora": LoraConfig(rank=1)}[case.edit.kind]
    model = build_t5(some_backbone)
    apply_edit(model, other)
    with pytest.raises(ModelError, match=f"already carries a {case.edit.kind} with other settings"):
        load_delta(model, case.edit.kind, tmp_path)


def test_saving_an_edit_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="carries no edit 'plugin'"):
        save_delta(build_t5(some_backbone), "plugin", tmp_path)


# training


@each_backbone
@each_case
def test_gradients_reach_exactly_the_edits_parameters(case: Case, backbone: str) -> None:
    """After its freeze, every own parameter of every ratio gets a gradient that is not zero, and nothing else does."""
    model = edited(case, backbone)
    case.freeze(model)
    model.train()
    ratios = available_ratios(model)
    for ratio in ratios[1:] or ratios:
        with use_ratio(model, ratio):
            model(**inputs()).logits.square().sum().backward()
    own = own_parameters(model, case.edit)
    reached = {id(p) for p in model.parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == set(own)
    assert {id(p) for p in model.parameters() if p.requires_grad} == set(own)


def test_training_lora_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="carries no LoRA"):
        _train_lora(build_t5(some_backbone))


# ratios


@pytest.fixture
def bank() -> Iterator[Any]:
    yield edited(CASES["plugin_bank"])


def test_a_ratio_that_is_not_there_is_refused_with_those_that_are(bank: Any) -> None:
    """The ratio in use stays."""
    set_ratio(bank, 2)
    with pytest.raises(ModelError, match=r"no plugins for ratio 8; it has: 1, 4, 2, 3"):
        set_ratio(bank, 8)
    assert current_ratio(bank) == 2
    with pytest.raises(ModelError, match="no plugins for ratio 2; it has: 1"):
        set_ratio(build_t5(some_backbone), 2)


def test_use_ratio_restores_after_an_exception_and_when_nested(bank: Any) -> None:
    set_ratio(bank, 3)
    with pytest.raises(RuntimeError, match="inside"), use_ratio(bank, 4):
        with use_ratio(bank, 2):
            assert current_ratio(bank) == 2
        assert current_ratio(bank) == 4
        raise RuntimeError("inside")
    assert current_ratio(bank) == 3
    with pytest.raises(ModelError), use_ratio(bank, 9):
        pytest.fail("entered")  # pragma: no cover
    assert current_ratio(bank) == 3


def test_an_exception_inside_the_model_leaves_it_usable(bank: Any) -> None:
    """A forward that fails half-way leaves no padding behind for the next one."""
    expected = logits_by_ratio(bank)
    with use_ratio(bank, 4), pytest.raises(IndexError):
        bank(**{**inputs(), "input_ids": torch.full((2, 7), VOCABULARY)})
    assert same(logits_by_ratio(bank), expected)


def test_each_ratio_of_a_bank_is_the_plugin_alone() -> None:
    """Ratios share nothing but the backbone: in a bank each gives what it gives by itself."""
    config = CASES["plugin_bank"].edit
    assert isinstance(config, PluginConfig)
    model = edited(CASES["plugin_bank"])
    together = logits_by_ratio(model)
    state = {f"{p}.{n}": t for p, m in config.own_modules(model).items() for n, t in m.state_dict().items()}
    for ratio in config.ratios:
        alone = build_t5(some_backbone)
        single = PluginConfig((ratio,), config.bottleneck, config.residual_scale)
        apply_edit(alone, single)
        for prefix, module in single.own_modules(alone).items():
            module.load_state_dict({n: state[f"{prefix}.{n}"] for n in module.state_dict()})
        assert torch.equal(logits_by_ratio(alone)[str(ratio)], together[str(ratio)])
