"""What a student's config.json and the flags ask of a decomposition: found, completed by advice, or refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig

from model import DecompositionConfig, apply_edit, find_edit
from model.decomposition import is_original
from tests.tiny_bert import TinyBert, bert_config, edit_config, run_general, run_task, save_bert
from utils.errors import UserError
from utils.tucker.arguments import DecompositionArguments
from utils.tucker.loading import load_encoder
from utils.tucker.ranks import advice
from utils.tucker.student import requested_edits

pytestmark = pytest.mark.usefixtures("single_thread")
#: The decomposition of the config that the original ships for a BERT-base; it has no `ops`.
SHIPPED = {"rank_layer": 72, "rank_condim": 384, "rank_dim": 384, "embedding_type": "other"}
IDS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 3, 5, 4]])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """A teacher of 4 layers of width 32 (FFN 64), and its data."""
    return TinyBert(tmp_path_factory.mktemp("tiny"))


def asked(config: Any, **flags: Any) -> DecompositionConfig:
    """The one decomposition that a config and flags ask for."""
    (edit,) = requested_edits(config, DecompositionArguments(use_swap=True, **flags))
    assert isinstance(edit, DecompositionConfig)
    return edit


@pytest.mark.parametrize("width", [768, 384])
def test_without_ops_all_matrices_are_meant(width: int) -> None:
    """The shipped config decomposes a BERT-base: 72 of 144; `ops` in the file or as a flag restricts."""
    config = BertConfig(hidden_size=width, num_attention_heads=12, intermediate_size=4 * width, **SHIPPED)
    assert asked(config).ops == "san_ffn"
    assert asked(config, ops="ffn").ops == "ffn"
    assert asked(BertConfig(**{**SHIPPED, "rank_layer": 40, "ops": "san"})).ops == "san"


@pytest.mark.parametrize(
    ("values", "flags", "expected"),
    [
        (
            SHIPPED,
            {"ops": "san"},
            "config.json: rank_layer 72 is above 48.*'san'.*--rank_layer 48 or less, or --ops",
        ),
        ({**SHIPPED, "ops": "san"}, {}, "config.json: rank_layer 72 is above 48.*or --ops san_ffn, which has 144"),
        (SHIPPED, {"rank_layer": 145}, "^--rank_layer 145 is above 144.*'san_ffn'.*give --rank_layer 144 or less.$"),
        (SHIPPED, {"rank_dim": 769}, "^--rank_dim 769 is above 768, the model's width: give --rank_dim 768 or less"),
        ({**SHIPPED, "rank_condim": 2000}, {}, "config.json: rank_condim 2000 is above 768"),
        (SHIPPED, {"protocol": "III", "rank_condim": 800}, "--rank_condim 800 is above 768"),
    ],
)
def test_a_rank_that_cannot_be_is_refused_with_its_place_and_cure(
    values: dict[str, Any], flags: dict[str, Any], expected: str
) -> None:
    """Flag or file, what `ops` has to do with it, and what to give; before anything is loaded."""
    config = BertConfig(name_or_path="models/bert-td-72-384", **values)
    with pytest.raises(UserError) as caught:
        asked(config, **flags)
    assert re.search(expected, str(caught.value)), caught.value
    assert "--" in str(caught.value).split(" is above")[0] or "models/bert-td-72-384/" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "protocol", "ops", "expected"),
    [
        (BertConfig(), "IV", "san_ffn", "--rank_layer 72 --rank_condim 384 --rank_dim 384"),
        (BertConfig(), "IV", "san", "--rank_layer 24 --rank_condim 384 --rank_dim 384"),
        (BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536), "IV", "san_ffn", "--rank_layer 36 "),
        (BertConfig(), "II", "san_ffn", "--rank_dim 55"),
        (bert_config(2), "III", "ffn", "--rank_condim 12 --rank_dim 12"),
    ],
)
def test_ranks_are_proposed_from_the_models_sizes(config: Any, protocol: str, ops: str, expected: str) -> None:
    """About a seventh of the parameters, as the tiny model below shows."""
    assert advice(config, protocol, ops).startswith(expected)


@pytest.mark.parametrize("protocol", ["II", "III", "IV"])
@pytest.mark.parametrize("ops", ["san", "ffn", "san_ffn"])
def test_the_proposed_ranks_are_about_a_seventh(protocol: Any, ops: Any) -> None:
    """Between a fifth and a tenth of the matrices' parameters, and possible."""
    model = AutoModel.from_config(bert_config(4, hidden_size=64, intermediate_size=256))
    words = advice(model.config, protocol, ops).split(" (")[0].split()
    ranks: dict[str, Any] = {
        flag.removeprefix("--"): int(rank) for flag, rank in zip(words[::2], words[1::2], strict=True)
    }
    matrices = {"san": 4, "ffn": 8, "san_ffn": 12}[ops] * 4 * 64**2
    before = model.num_parameters()
    apply_edit(model, DecompositionConfig(protocol=protocol, ops=ops, **ranks), from_scratch=True)
    kept = matrices - (before - model.num_parameters())
    assert 1 / 10 < kept / matrices < 1 / 5


def test_a_run_without_ranks_names_flags_that_work(tiny: TinyBert, tmp_path: Path) -> None:
    """`-use_swap` alone: what the sentence proposes is taken by the same call."""
    call = tiny.general(tmp_path / "run", "--init_from_teacher", "-use_swap", "--max_steps", 1)
    with pytest.raises(
        UserError, match="--use_swap needs rank_layer, rank_condim, rank_dim: give --rank_layer"
    ) as told:
        run_general(call)
    found = re.search(r"give (.*?) \(about", str(told.value))
    assert found is not None
    run_general([*call, *found[1].split()])
    assert (tmp_path / "run" / "best").is_dir()


def test_a_part_of_the_ranks_may_stand_in_the_file(tmp_path: Path) -> None:
    """The others come as flags; what is missing still is named alone."""
    config = BertConfig(rank_layer=10)
    assert asked(config, rank_condim=20, rank_dim=30).rank_layer == 10
    with pytest.raises(UserError, match="--use_swap needs rank_dim: give"):
        asked(config, rank_condim=20)


@pytest.mark.parametrize("ops", [{}, {"ops": "san"}])
def test_a_student_that_would_stay_dense_is_refused(tiny: TinyBert, tmp_path: Path, ops: dict[str, str]) -> None:
    """config.json names ranks, --use_swap is missing: neither distillation begins; the sentence names both cures."""
    student = edit_config(save_bert(tmp_path / "student", 4), rank_layer=4, rank_condim=8, rank_dim=6, **ops)
    teacher = tiny.root / "teacher"
    if not teacher.exists():
        run_task(tiny.task(teacher, "--mode", "finetune", "--teacher_model", tiny.model, "--max_steps", 1))
    calls = [
        (run_general, tiny.general(tmp_path / "run", "--student_model", student)),
        *(
            (run_task, tiny.task(tmp_path / "run", *stage, "--teacher_model", teacher, "--student_model", student))
            for stage in ((), ("--pred_distill",), ("--stage", "both"))
        ),
    ]
    for run, call in calls:
        with pytest.raises(UserError, match=r"names rank_layer 4, .* stays dense: add --use_swap, or take these lines"):
            run(call)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("original_key", [True, False])
def test_load_compressed_model_changes_nothing_on_our_own_output(tmp_path: Path, original_key: bool) -> None:
    """As the original's README asks for it to be edited: the model is loaded, with its edit and its outputs."""
    model = load_encoder(str(save_bert(tmp_path / "bert", 2)))
    apply_edit(model, DecompositionConfig(rank_layer=8, rank_condim=8, rank_dim=8))
    model.save_pretrained(tmp_path / "ours")
    expected = model.eval()(input_ids=IDS).last_hidden_state
    edit_config(tmp_path / "ours", load_compressed_model=original_key)
    found = load_encoder(str(tmp_path / "ours"))
    assert not is_original(tmp_path / "ours") and find_edit(found, DecompositionConfig) is not None
    assert (found.eval()(input_ids=IDS).last_hidden_state - expected).abs().max() < 1e-5


def test_load_compressed_model_on_a_plain_bert_is_told(tmp_path: Path) -> None:
    """The sentence names the key and the cure."""
    folder = edit_config(save_bert(tmp_path / "bert", 2), load_compressed_model=True)
    with pytest.raises(Exception, match=r"load_compressed_model is true in its config.json; set that to false"):
        load_encoder(str(folder))
    assert json.loads((folder / "config.json").read_text())["load_compressed_model"] is True


def test_a_student_that_is_the_teacher_is_refused(tiny: TinyBert, tmp_path: Path) -> None:
    """By any path to it, a run's folder or its model's; nothing is written."""
    teacher = tiny.root / "itself"
    run_task(tiny.task(teacher, "--mode", "finetune", "--teacher_model", tiny.model, "--max_steps", 1))
    for student in (teacher, teacher / "best", f"{teacher}/../itself/"):
        call = tiny.task(tmp_path / "run", "--stage", "both", "--teacher_model", teacher, "--student_model", student)
        with pytest.raises(UserError, match="is the --teacher_model itself"):
            run_task(call)
        assert not (tmp_path / "run").exists()
