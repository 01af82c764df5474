"""Code and kernels that the folder of a model names are never run, whatever is answered to whoever asks."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import AutoConfig, AutoModel, AutoTokenizer

from dataset import get_task
from model.decomposition import load_original
from model.enct5 import enct5_from_t5
from model.errors import ModelError
from model.pretrained import open_pretrained
from tests.helpers_damage import Damage, config, copied
from tests.tiny import Tiny
from tests.tiny_bert import TinyBert
from utils.errors import run_as_script, user_errors
from utils.lock import release_all
from utils.opening.files import open_config
from utils.opening.tokenizers import open_tokenizer
from utils.tucker.loading import load_classifier

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parent.parent
#: A module of a folder, with every class that is asked for; it leaves a mark.
MODULE = """
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import BertConfig as Config, BertModel as Model, BertTokenizerFast as Tokenizer
generate = None
"""
HEADS = ("Model", "ModelForSequenceClassification", "ModelForMaskedLM", "ModelForSeq2SeqLM", "ModelForPreTraining")
AUTO_MAP = {
    "AutoConfig": "evil.Config",
    "AutoTokenizer": [None, "evil.Tokenizer"],
    **{f"Auto{head}": "evil.Model" for head in HEADS},
}


class Place(NamedTuple):
    """The model that a command is to open, others that are as they should be, and where to write."""

    model: Path
    t5: Tiny
    bert: TinyBert
    out: Path


#: Every command that opens models: its module, and words with which it opens one.
COMMANDS: dict[str, tuple[str, Callable[[Place], list[Any]]]] = {
    "finetune": ("task_distill", lambda p: p.bert.task(p.out, "--mode", "finetune", "--teacher_model", p.model)),
    "teacher": (
        "task_distill",
        lambda p: p.bert.task(p.out, "--stage", "both", "--teacher_model", p.model, "--student_model", p.bert.model),
    ),
    "student": (
        "task_distill",
        lambda p: p.bert.task(p.out, "--stage", "both", "--teacher_model", p.bert.model, "--student_model", p.model),
    ),
    "evaluate": ("task_distill", lambda p: p.bert.task(p.out, "--do_eval", "--student_model", p.model)),
    "general teacher": (
        "general_distill",
        lambda p: p.bert.general(p.out, "--student_model", p.bert.model, "--teacher_model", p.model),
    ),
    "general student": ("general_distill", lambda p: p.bert.general(p.out, "--student_model", p.model)),
    "train_t5": ("train_t5", lambda p: p.t5.sst2(p.out, "--model_config", p.model)),
    "checkpoint": ("train_t5", lambda p: p.t5.sst2(p.out, "--checkpoint", p.model)),
    "cost": ("utils.cost", lambda p: ["--model", p.model]),
    "quantize": ("utils.quantize", lambda p: ["--model", p.model, "--output", p.out]),
    "export": ("utils.export.__main__", lambda p: ["--model", p.model, "--format", "standalone", "--output", p.out]),
    "plan": ("utils.plan.__main__", lambda p: ["--model", p.model, "--budget", "macs<=1x"]),
    "convert": ("utils.convert_t5", lambda p: ["--to", "modelcenter", p.model, p.out]),
    "augment": (
        "utils.data_augmentation",
        lambda p: ["--pretrained_bert_model", p.model, "--data_dir", p.bert.glue, "--task_name", "SST-2"],
    ),
    "pregenerate": (
        "utils.pregenerate_training_data",
        lambda p: ["--train_corpus", p.bert.glue / "SST-2/dev.tsv", "--bert_model", p.model, "--output_dir", p.out],
    ),
    "serve": ("serving.__main__", lambda p: ["--model", p.model, "--task", "sst2", "--port", "0"]),
    "paper": (
        "utils.paper.__main__",
        lambda p: [
            *("tucker", "--text", p.bert.text, "--data", p.bert.glue, "--backbone", p.model),
            *("--max_seq_length", "32", "--estimate"),
        ],
    ),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """A BERT with its data."""
    return TinyBert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(autouse=True)
def _yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked is answered with yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))


def edited(path: Path, drop: tuple[str, ...] = (), **values: Any) -> None:
    """Other values in a file of JSON, or fewer."""
    kept = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps({key: value for key, value in kept.items() if key not in drop}), encoding="utf-8")


def with_code(marker: Path, drop: tuple[str, ...] = (), **values: Any) -> Damage:
    """A folder with modules of its own, which would make `marker`, and a config that names them."""

    def damage(folder: Path) -> None:
        for name in ("evil.py", "custom_generate/generate.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(MODULE.format(marker=str(marker)))
        edited(folder / "config.json", drop, **{"auto_map": AUTO_MAP, **values})

    return damage


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_a_folders_code(
    name: str, tiny: Tiny, bert: TinyBert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one sentence, and the module has not been imported."""
    marker = tmp_path / "marker"
    source = tiny.model if name in ("train_t5", "checkpoint", "convert") else bert.model
    folder = copied(source, tmp_path / "model", with_code(marker, model_type="evil"))
    module, words = COMMANDS[name]
    main: Callable[[list[str]], Any] = importlib.import_module(module).main
    given = [str(word) for word in words(Place(folder, tiny, bert, tmp_path / "out"))]
    with pytest.raises(SystemExit) as stopped:
        try:
            run_as_script(lambda: main(given), debug=False)
        finally:
            release_all()
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert stopped.value.code == 2 and len(error) == 1, error
    assert "auto_map" in error[0] and "which is never run" in error[0] and str(folder) in error[0]
    assert not marker.exists()


def test_a_piped_yes_is_no_leave(bert: TinyBert, tmp_path: Path) -> None:
    """The same in a process of its own."""
    folder = copied(bert.model, tmp_path / "model", with_code(tmp_path / "marker", drop=("model_type",)))
    command = [sys.executable, "-m", "utils.cost", "--model", str(folder)]
    done = subprocess.run(command, input="y\n" * 9, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no model_type and code of its own" in done.stderr
    assert not (tmp_path / "marker").exists()


def test_the_attempt_is_a_real_one(bert: TinyBert, tmp_path: Path) -> None:
    """Opened carelessly, the same folder asks, takes the answer and runs its module."""
    folder = copied(bert.model, tmp_path / "model", with_code(tmp_path / "marker", model_type="evil"))
    careless = "import sys, transformers; transformers.AutoConfig.from_pretrained(sys.argv[1])"
    settings = {**os.environ, "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", careless, str(folder)]
    subprocess.run(command, input="y\n", text=True, capture_output=True, env=settings, check=True)
    assert (tmp_path / "marker").exists()


OPENERS: dict[str, Callable[[Path], Any]] = {
    "config": lambda p: open_config(str(p)),
    "classifier": lambda p: load_classifier(str(p), get_task("sst2"), trained=False),
    "tokenizer": open_tokenizer,
    "original": lambda p: load_original(p, AutoModel),
    "enct5": lambda p: enct5_from_t5(p, num_labels=2),
    "pretrained": lambda p: open_pretrained(AutoConfig, p),
}


@pytest.mark.parametrize("model_type", [7, "", ["bert"]])
@pytest.mark.parametrize("auto_map", [{"AutoConfig": "somebody/repository--evil.Config"}, "evil", ["evil"]])
def test_a_type_that_is_none_is_not_known(bert: TinyBert, tmp_path: Path, model_type: object, auto_map: object) -> None:
    """Whatever stands there, by every function that opens something."""
    damage = with_code(tmp_path / "marker", auto_map=auto_map, model_type=model_type)
    folder = copied(bert.model, tmp_path / "model", damage)
    for open_it in OPENERS.values():
        with pytest.raises(user_errors(), match="code of its own"):
            open_it(folder)
    assert not (tmp_path / "marker").exists()


def test_a_known_type_is_opened_by_its_own_class(bert: TinyBert, tmp_path: Path) -> None:
    """As the standalone export is: what `auto_map` names beside it is not looked at."""
    folder = copied(bert.model, tmp_path / "model", with_code(tmp_path / "marker"))
    model = load_classifier(str(folder), get_task("sst2"), trained=False)
    assert type(model).__module__.startswith("transformers.models.bert")
    assert open_tokenizer(folder).tokenize("good") == ["good"]
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": [None, "evil.Tokenizer"]}, ["evil.Tokenizer", None]])
@pytest.mark.parametrize("known", [True, False])
def test_a_tokenizers_code_is_not_run(bert: TinyBert, tmp_path: Path, auto_map: object, known: bool) -> None:
    """A known class is taken in its place; without one it is refused in one sentence."""
    values = {} if known else {"model_type": "bert_generation"}  # has no tokenizer of its own by its name
    folder = copied(bert.model, tmp_path / "model", with_code(tmp_path / "marker", ("auto_map",), **values))
    edited(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="EvilTokenizer")
    if known:
        assert open_tokenizer(folder).tokenize("good") == ["good"]
    else:
        with pytest.raises(user_errors(), match="needs code of its own") as error:
            open_tokenizer(folder, needs=())
        assert "\n" not in str(error.value)
    assert not (tmp_path / "marker").exists()


KERNELS = (
    *("kernels-community/flash-attn2", "somebody/kernel", "somebody/kernel@main", "somebody/kernel:forward"),
    *("paged|somebody/kernel", "sdpa|somebody/kernel", "eager ", "paged|sdpa", "unheard_of", "flash_attention_2"),
)


@pytest.mark.parametrize(
    "values",
    [
        *({"attn_implementation": name} for name in KERNELS),
        *({"_attn_implementation": name} for name in KERNELS),
        *({key: KERNELS[0]} for key in ("_attn_implementation_internal", "experts_implementation")),
        {"attn_implementation": {"": "somebody/kernel"}},
        {"attn_implementation": {"": "sdpa", "encoder": "somebody/kernel"}},
        {"attn_implementation": ["somebody/kernel"]},
        {"attn_implementation": 3},
        {"text_config": {"_attn_implementation": "somebody/kernel"}},
        {"text_config": [{"decoder": {"attn_implementation": {"a": ["somebody/kernel"]}}}]},
    ],
    ids=lambda values: json.dumps(values)[1:60],
)
def test_kernels_of_others_are_refused(bert: TinyBert, tmp_path: Path, values: dict[str, Any]) -> None:
    """By any spelling, before a library is asked for one."""
    folder = copied(bert.model, tmp_path / "model", config(**values))
    for open_it in OPENERS.values():
        with pytest.raises(user_errors(), match=r"config\.json: _?(attn|experts)_implementation\w* is ") as error:
            open_it(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["eager", "sdpa", None])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_of_torch_is_taken(bert: TinyBert, tmp_path: Path, key: str, name: str | None) -> None:
    """The refusals above are not blind."""
    folder = copied(bert.model, tmp_path / "model", config(**{key: name}))
    model = load_classifier(str(folder), get_task("sst2"), trained=False)
    assert model.config._attn_implementation == (name or "sdpa")
    with pytest.raises(ModelError, match="the options: attn_implementation is 'somebody/kernel'"):
        open_pretrained(AutoTokenizer, folder, attn_implementation="somebody/kernel")
