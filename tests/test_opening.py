"""One check of what was loaded: a folder that is not what it seems is refused by name, by every script and tool."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from dataset import get_task
from model.attention_scores import trace, use_attention_scores
from model.distillation import classify
from model.heads import ClassifierHead
from serving.arguments import ServingArguments
from serving.loading import load_predictor
from tests.helpers_damage import (
    BERT_DAMAGES,
    DAMAGES,
    POINTER,
    WEIGHTS,
    Damage,
    as_bin,
    config,
    copied,
    linked,
    renamed,
    tensors,
    written,
)
from tests.helpers_fuzz import CLEAN, fuzz
from tests.tiny import Tiny, result_of, run
from tests.tiny_bert import TinyBert, bert_config, edit_config, run_general, run_task, save_bert, tiny_word_pieces
from utils import convert_t5, cost, quantize
from utils.arguments.reading import is_hub_id
from utils.augmentation.masked_lm import load_masked_lm
from utils.checksums import CHECKSUMS_FILE
from utils.data_augmentation import AugmentationArguments, build_augmenter
from utils.errors import UserError
from utils.export.source import load_source as load_exported
from utils.loading import load_t5
from utils.opening.places import model_directory
from utils.opening.tokenizers import carry_tokenizer, open_tokenizer
from utils.plan.load import load_source
from utils.plan.point import Source
from utils.pregenerate.tokens import load_pieces
from utils.tucker.arguments import DecompositionArguments
from utils.tucker.loading import load_classifier, load_encoder
from utils.tucker.student import build_student

pytestmark = pytest.mark.usefixtures("one_thread")
SST2, MNLI = get_task("sst2"), get_task("mnli")


def served(folder: Path) -> Any:
    """The server's model."""
    return load_predictor(ServingArguments(model=folder, task="sst2", device="cpu", max_length=32))


#: Who opens a classifier. Plan and cost open it as it is, the others for a task.
CLASSIFIERS: dict[str, Callable[[Path], Any]] = {
    "teacher": lambda p: load_classifier(str(p), SST2, trained=True),
    "student": lambda p: build_student(str(p), DecompositionArguments(), SST2),
    "evaluated": lambda p: build_student(str(p), DecompositionArguments(), SST2, trained=True),
    "fine-tuned": lambda p: build_student(str(p), DecompositionArguments(), SST2, needs_weights=True),
    "general": lambda p: load_encoder(str(p)),
    "cost": lambda p: cost.load_any(str(p)),
    "quantize": lambda p: quantize.main(["--model", str(p), "--output", f"{p}-int8"]),
    "export": lambda p: load_exported(str(p), None, "", None, needs_ratio=False),
    "plan": lambda p: load_source(Source("x", p)),
    "plan-task": lambda p: load_source(Source("x", p), SST2),
    "serve": served,
}
T5S: dict[str, Callable[[Path], Any]] = {
    "train_t5": lambda p: load_t5(str(p), None),
    "checkpoint": lambda p: load_t5("nowhere-else", p),
    "enct5": lambda p: load_classifier(str(p), SST2, trained=False),
    "cost": lambda p: cost.load_any(str(p)),
    "quantize": lambda p: quantize.main(["--model", str(p), "--output", f"{p}-int8"]),
    "export": lambda p: load_exported(str(p), None, "", None, needs_ratio=False),
    "plan": lambda p: load_source(Source("x", p)),
    "serve": served,
    "convert": lambda p: convert_t5.to_model_center(p, Path(f"{p}-modelcenter")),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained BERT."""
    return save_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that was fine-tuned for SST-2."""
    return save_classifier(tmp_path_factory.mktemp("classifier") / "classifier", SST2.labels)


@pytest.fixture(scope="module")
def bert_data(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """Rows of tasks and pre-generated text."""
    return TinyBert(tmp_path_factory.mktemp("tiny_bert"))


def save_classifier(path: Path, labels: tuple[str, ...], **more: Any) -> Path:
    """A random classifier with these classes, and its tokenizer."""
    torch.manual_seed(1)
    made = bert_config(initializer_range=0.5, id2label=dict(enumerate(labels)), **more)
    made.label2id = {label: i for i, label in enumerate(labels)}
    BertForSequenceClassification(made).save_pretrained(path)
    tiny_word_pieces().save_pretrained(path)
    return path


def refused(open_it: Callable[[Path], Any], folder: Path, said: str) -> None:
    """It is, in one sentence that names the folder."""
    with pytest.raises(CLEAN) as error:
        open_it(folder)
    text = str(error.value)
    assert re.search(said, text), text
    assert folder.name in text and "\n" not in text.strip(), text


# --- weights and configs ---------------------------------------------------------------------------------------------


#: In every run of the tests each damage meets three of the loaders in turn, in the slow ones all.
turns = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])


def in_turn(loaders: dict[str, Any], damage: str, every: bool) -> list[str]:
    """Names of the loaders that a damage is tried on."""
    number, names = [*DAMAGES, *BERT_DAMAGES].index(damage), list(loaders)
    return names if every else [names[(number + step) % len(names)] for step in (0, 3, 7)]


@turns
@pytest.mark.parametrize("damage", [*DAMAGES, *BERT_DAMAGES])
def test_a_damaged_bert_is_refused_by_every_loader(classifier: Path, tmp_path: Path, damage: str, every: bool) -> None:
    """Named with what it is, and never run with what was drawn in its place."""
    edit, said = {**DAMAGES, **BERT_DAMAGES}[damage]
    for name in in_turn(CLASSIFIERS, damage, every):
        open_it = CLASSIFIERS[name]
        refused(open_it, copied(classifier, tmp_path / name, edit), said)


@turns
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_t5_is_refused_by_every_loader(tiny: Tiny, tmp_path: Path, damage: str, every: bool) -> None:
    """The same for T5, and for an EncT5 that begins from it."""
    edit, said = DAMAGES[damage]
    for name in in_turn(T5S, damage, every):
        open_it = T5S[name]
        if (name, damage) != ("checkpoint", "no_config"):  # a folder without config.json may be one of LoRA
            refused(open_it, copied(tiny.model, tmp_path / name, edit), said)


def test_whole_folders_are_not_refused(classifier: Path, bert: Path, tiny: Tiny, tmp_path: Path) -> None:
    """The refusals above are not blind: as they are, as a PyTorch file, in shards with their index."""
    for name, open_it in CLASSIFIERS.items():
        open_it(copied(classifier, tmp_path / f"bert-{name}"))
    for name, open_it in T5S.items():
        open_it(copied(tiny.model, tmp_path / f"t5-{name}"))
    wanted = load_classifier(str(classifier), SST2, trained=True).state_dict()
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for folder in (copied(classifier, tmp_path / "bin", as_bin(lambda state: state)), tmp_path / "shards"):
        found = load_classifier(str(folder), SST2, trained=True).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("count", [40, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_any_config_is_taken_or_refused(classifier: Path, tiny: Tiny, tmp_path: Path, family: str, count: int) -> None:
    """Whatever stands in config.json in place of a value: a model that computes, or one sentence."""
    folder = copied(classifier if family == "bert" else tiny.model, tmp_path / "model")
    ids = torch.tensor([[2, 5, 3]])
    values = json.loads((folder / "config.json").read_text())
    odd = [0, -1, 1, 3, 10**6, 10**30, 0.5, float("nan"), "", "32", "gelu", None, True, [], [1], {}, {"0": "a"}]
    names = [*sorted(values), "compression", "auto_map", "quantization_config", "pruned_heads", "is_decoder"]

    def check(changed: tuple[str, Any]) -> None:
        (folder / "config.json").write_text(json.dumps({**values, changed[0]: changed[1]}))
        if family == "bert":
            load_classifier(str(folder), SST2, trained=True).eval()(input_ids=ids)
        else:
            load_t5(str(folder), None, tokenizer=False).model.eval()(input_ids=ids, decoder_input_ids=ids)

    fuzz(count, st.tuples(st.sampled_from(names), st.sampled_from(odd)), check)


# --- nothing is drawn at random --------------------------------------------------------------------------------------


def without(*parts: str) -> Damage:
    """The weights without these parts."""
    return tensors(lambda state: {n: t for n, t in state.items() if not any(part in n for part in parts)})


@pytest.mark.parametrize("reader", ["teacher", "evaluated", "cost", "quantize", "export", "plan", "plan-task", "serve"])
def test_a_classifier_without_its_pooler_is_refused(classifier: Path, tmp_path: Path, reader: str) -> None:
    """Its metrics would be those of a random pooler."""
    refused(CLASSIFIERS[reader], copied(classifier, tmp_path / "model", without("pooler")), r"lacks 2 .*bert\.pooler")


def test_what_fine_tuning_draws_is_told(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A classifier, and a pooler where the checkpoint has none: allowed, and said in one line."""
    load_classifier(str(copied(bert, tmp_path / "a")), SST2, trained=False)
    load_classifier(str(copied(bert, tmp_path / "b", without("pooler"))), SST2, trained=False)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        f"{tmp_path / 'a'}: new for sst2 and drawn at random: the classifier.",
        f"{tmp_path / 'b'}: new for sst2 and drawn at random: the classifier and the pooler.",
    ]
    with pytest.raises(UserError, match="has no classifier for sst2"):
        load_classifier(str(tmp_path / "b"), SST2, trained=True)


def test_enct5_begins_from_a_whole_t5(tiny: Tiny, tmp_path: Path) -> None:
    """A T5 of which only the encoder was saved has no pooling for rows; for tokens the encoder is all there is."""
    T5EncoderModel.from_pretrained(tiny.model).save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match=r"encoder lacks \d+ tensors of .*decoder\.block"):
        load_classifier(str(tmp_path / "encoder"), SST2, trained=False)
    model = load_classifier(str(tmp_path / "encoder"), get_task("conll"), trained=False)
    whole = T5ForConditionalGeneration.from_pretrained(tiny.model)
    assert torch.equal(model.shared.weight, whole.shared.weight)


@pytest.mark.parametrize("name", ["tf_model.h5", "model.fp16.safetensors", "weights.pth", "model.onnx_data.bin"])
def test_weights_by_another_name_are_no_config_alone(bert: Path, tmp_path: Path, name: str) -> None:
    """A student may be drawn at random where there are no weights, not where they are not understood."""
    flags = DecompositionArguments()
    with pytest.raises(UserError, match="no weights that can be read"):
        build_student(str(copied(bert, tmp_path / "named", renamed(name))), flags, SST2)
    alone = copied(bert, tmp_path / "alone", lambda folder: (folder / WEIGHTS).unlink())
    assert build_student(str(alone), flags, SST2)[1].startswith("random weights (no weights in")
    with pytest.raises(UserError, match=r"alone has a config\.json and no weights .*--from_scratch"):
        build_student(str(alone), flags, SST2, needs_weights=True)
    flags.from_scratch = True
    assert build_student(str(alone), flags, SST2, needs_weights=True)[1].startswith("random weights")


def test_fine_tuning_from_nothing_is_asked_for(bert_data: TinyBert, tmp_path: Path) -> None:
    """Through the script: refused without --from_scratch, before anything is written."""
    alone = copied(bert_data.model, tmp_path / "alone", lambda folder: (folder / WEIGHTS).unlink())
    flags = ("--mode", "finetune", "--teacher_model", alone, "--max_steps", 1)
    with pytest.raises(UserError, match="add --from_scratch to begin from random weights"):
        run_task(bert_data.task(tmp_path / "refused", *flags))
    assert not (tmp_path / "refused").exists()


def test_deltas_that_are_no_numbers_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Plugins and LoRA are weights as well."""
    run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--mux-num", 2, "--training-step", 1))
    plugins = tmp_path / "run" / "best"
    (plugins / "plugin-k2.safetensors").rename(plugins / WEIGHTS)
    tensors(lambda state: {name: tensor / 0 * 0 for name, tensor in state.items()})(plugins)
    (plugins / WEIGHTS).rename(plugins / "plugin-k2.safetensors")
    (plugins / CHECKSUMS_FILE).unlink()  # which would tell the change
    with pytest.raises(CLEAN, match="no finite numbers"):
        run(tiny.sst2(tmp_path / "again", "--distil", "hidden", "--mux-num", 2, "--plugin-path", plugins))


# --- classes ---------------------------------------------------------------------------------------------------------


def relabelled(folder: Path, names: list[str], order: list[int] | None = None) -> Path:
    """The same classifier with its rows in another order, by other names."""
    if order is not None:
        tensors(lambda s: {n: t[order] if n.startswith("classifier.") else t for n, t in s.items()})(folder)
    return edit_config(
        folder, id2label={str(i): name for i, name in enumerate(names)}, label2id={n: i for i, n in enumerate(names)}
    )


@pytest.mark.parametrize(
    ("task", "names", "order"),
    [
        ("sst2", ["POSITIVE", "NEGATIVE"], [1, 0]),
        ("sst2", ["Pos", "neg"], [1, 0]),
        ("mnli", ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], [2, 1, 0]),
        ("mnli", ["contradictory", "entailment", "neutral"], [2, 0, 1]),
        ("rte", ["not entailment", "Entailment"], [1, 0]),
        ("qnli", ["non-entailment", "entails"], [1, 0]),
        ("mrpc", ["paraphrase", "not_paraphrase"], [1, 0]),
        ("qqp", ["Duplicate", "not duplicate"], [1, 0]),
        ("cola", ["acceptable", "unacceptable"], [1, 0]),
        ("cola", ["grammatical", "ungrammatical"], [1, 0]),
        ("mnli", ["LABEL_2", "LABEL_0", "LABEL_1"], [2, 0, 1]),
        ("sst2", ["1", "0"], [1, 0]),
    ],
)
def test_classes_are_matched_by_name(tmp_path: Path, task: str, names: list[str], order: list[int]) -> None:
    """Whatever their spelling and order, a row's class is the same."""
    wanted = save_classifier(tmp_path / "wanted", get_task(task).labels)
    other = relabelled(copied(wanted, tmp_path / "other"), names, order)
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    models = [load_classifier(str(folder), get_task(task), trained=True).eval() for folder in (wanted, other)]
    first, second = (model(input_ids=ids).logits for model in models)
    torch.testing.assert_close(first, second)
    assert models[1].config.id2label == dict(enumerate(get_task(task).labels))


def test_classes_that_change_their_places_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line with both orders; another spelling in the same places needs none."""
    for names, is_told in ((("pos", "neg"), True), (("neg", "pos"), False)):
        folder = save_classifier(tmp_path / names[0], names)
        load_classifier(str(folder), get_task("sst2"), trained=True)
        line = f"The classes of {folder} (pos, neg) are put in the order of sst2's: negative, positive."
        assert (line in capsys.readouterr().out) == is_told


def test_unnamed_classes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LABEL_n says nothing: the task table's order is taken, in one line."""
    folder = save_classifier(tmp_path / "model", ("LABEL_0", "LABEL_1", "LABEL_2"))
    load_classifier(str(folder), MNLI, trained=True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert told == [
        f"warning: {folder} does not name its classes (LABEL_0, LABEL_1, LABEL_2): they are taken in the order of "
        "mnli's: entailment, neutral, contradiction."
    ]


@pytest.mark.parametrize("names", [("cat", "dog"), ("negative", "neg"), ("entailment", "not_entailment"), ("0", "7")])
def test_other_classes_are_refused_or_replaced(
    tmp_path: Path, names: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher of another task is refused with both lists; fine-tuning gives it a new classifier, and says so."""
    folder = save_classifier(tmp_path / "model", names)
    with pytest.raises(UserError, match=rf"are {names[0]}, {names[1]}, those of sst2 are negative, positive"):
        load_classifier(str(folder), SST2, trained=True)
    before = AutoModelForSequenceClassification.from_pretrained(folder).classifier.weight
    assert not torch.equal(load_classifier(str(folder), SST2, trained=False).classifier.weight, before)
    assert f"the classifier (it had one for {names[0]}, {names[1]})" in capsys.readouterr().out


# --- tokenizers ------------------------------------------------------------------------------------------------------


def pieces() -> list[str]:
    """The tiny vocabulary in order."""
    return sorted(tiny_word_pieces().get_vocab(), key=tiny_word_pieces().get_vocab().__getitem__)


def lone_vocabulary(text: str | bytes) -> Damage:
    """A vocab.txt as the only file of the tokenizer."""

    def damage(folder: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / name).unlink(missing_ok=True)
        written("vocab.txt", text)(folder)

    return damage


def more_tokens(folder: Path) -> None:
    """Tokens that were added without resizing the embedding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["covid19"])
    tokenizer.save_pretrained(folder)


def no_pad(folder: Path) -> None:
    """Settings that name no padding token."""
    names = {name: f"[{name.upper()}]" for name in ("cls", "sep", "unk", "mask")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{k}_token": v for k, v in names.items()}}
    written("tokenizer_config.json", json.dumps(settings))(folder)


def no_files(folder: Path) -> None:
    """No file of a tokenizer."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)


TOKENIZER_DAMAGES: dict[str, tuple[Damage, str]] = {
    "none": (no_files, r"has no tokenizer files \(tokenizer\.json, vocab\.txt"),
    "settings_only": (lambda p: (p / "tokenizer.json").unlink(), r"has no tokenizer files"),
    "lfs": (written("tokenizer.json", POINTER), r"tokenizer\.json is a Git LFS pointer"),
    "empty": (written("tokenizer.json", ""), r"tokenizer\.json is empty"),
    "damaged": (written("tokenizer.json", '{"model": '), r"No tokenizer could be loaded"),
    "other_json": (written("tokenizer.json", "{}"), r"No tokenizer could be loaded"),
    "link": (linked("tokenizer.json"), r"tokenizer\.json is a link to nowhere"),
    "byte_order_mark": (lone_vocabulary("\ufeff" + "\n".join(pieces()) + "\n"), r"vocab\.txt begins with a byte order"),
    "utf16": (lone_vocabulary("\n".join(pieces()).encode("utf-16")), r"vocab\.txt, line 1: not UTF-8"),
    "no_separator": (
        lone_vocabulary("\n".join(piece for piece in pieces() if piece != "[SEP]") + "\n"),
        r"vocab\.txt has no \[SEP\]",
    ),
    "special_only": (lone_vocabulary("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"), r"no words among them"),
    "added": (more_tokens, r"has ids up to \d+ \('covid19' is the first beyond\).* rows"),
    "no_padding": (no_pad, r"has no padding token \(pad_token\)"),
}


@pytest.mark.parametrize("damage", TOKENIZER_DAMAGES)
def test_a_tokenizer_that_cannot_be_trusted_is_refused(bert_data: TinyBert, tmp_path: Path, damage: str) -> None:
    """Before a run has written anything."""
    edit, said = TOKENIZER_DAMAGES[damage]
    folder = copied(bert_data.model, tmp_path / "model", edit)
    arguments = bert_data.task(tmp_path / "run", "--mode", "finetune", "--teacher_model", folder)
    refused(lambda _: run_task(arguments), folder, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", [name for name in TOKENIZER_DAMAGES if name != "added"])
def test_tools_trust_tokenizers_no_more_than_scripts(bert: Path, tmp_path: Path, damage: str) -> None:
    """The generation of training data and augmentation read them through the same door."""
    edit, said = TOKENIZER_DAMAGES[damage]
    folder = copied(bert, tmp_path / "model", edit)
    arguments = AugmentationArguments(str(folder), tmp_path, "sst2")
    refused(lambda _: build_augmenter(arguments), folder, said)
    refused(lambda p: load_pieces(str(p), False, 32), folder, said)


@pytest.mark.parametrize("settings", [None, {}, {"model_max_length": 48}, {"do_lower_case": False}])
def test_a_cased_vocabulary_is_not_lowered(bert: Path, tmp_path: Path, settings: dict[str, Any] | None) -> None:
    """A lone vocab.txt with capital letters keeps them, in scripts as in tools, and after saving again."""
    text = "\n".join([*pieces()[:-1], "Anna"]) + "\n"
    folder = copied(bert, tmp_path / "model", lone_vocabulary(text))
    if settings is not None:
        written("tokenizer_config.json", json.dumps(settings))(folder)
    tokenizer = open_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "again")
    assert tokenizer.tokenize("Anna") == AutoTokenizer.from_pretrained(tmp_path / "again").tokenize("Anna") == ["Anna"]
    assert load_pieces(str(folder), False, 32)(["Anna"]) == [["Anna"]]
    lower = copied(bert, tmp_path / "lower", lone_vocabulary("\n".join(pieces()) + "\n"))
    assert open_tokenizer(lower).tokenize("A GOOD") == ["a", "good"]


def test_a_flag_for_lower_case_is_obeyed_and_doubted(
    bert: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--do_lower_case on a cased vocabulary, or on a tokenizer that has no such setting, is told in one line."""
    cased = copied(bert, tmp_path / "cased", lone_vocabulary("\n".join([*pieces()[:-1], "Anna"]) + "\n"))
    assert open_tokenizer(cased, lower_case=True).tokenize("Anna") == ["a", "##n", "##n", "##a"]
    t5 = copied(tiny.model, tmp_path / "t5")
    open_tokenizer(t5, lower_case=True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert told == [
        f"warning: --do_lower_case: the vocabulary of {cased} has words with capital letters, which are not met now.",
        f"warning: --do_lower_case has no effect: the tokenizer of {t5} has no such setting.",
    ]


def test_a_damaged_sentence_piece_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Whatever the reader makes of it."""
    for name, content in (("noise", b"\x07\xff" * 99), ("page", b"<html></html>"), ("lfs", POINTER.encode())):
        folder = copied(tiny.model, tmp_path / name, no_files, written("spiece.model", content))
        refused(lambda p: load_t5(str(p), None), folder, r"No tokenizer could be loaded|spiece\.model is a")


def test_teacher_and_student_share_one_vocabulary(bert_data: TinyBert, classifier: Path, tmp_path: Path) -> None:
    """Compared token by token: sizes may agree where the ids do not."""
    words = pieces()
    swapped = [*words[:5], words[6], words[5], *words[7:]]
    student = copied(bert_data.model, tmp_path / "student", lone_vocabulary("\n".join(swapped) + "\n"))
    models = ("--teacher_model", classifier, "--student_model", student)
    with pytest.raises(UserError, match=r"student's vocabulary .* is not the teacher's .*one tokenizer for both"):
        run_task(bert_data.task(tmp_path / "run", "--stage", "prediction", *models))
    with pytest.raises(UserError, match=r"student's vocabulary .* is not the teacher's"):
        run_general(bert_data.general(tmp_path / "general", "--student_model", student))
    assert not (tmp_path / "run").exists() and not (tmp_path / "general").exists()


def test_an_embedding_with_more_rows_is_fine(tmp_path: Path) -> None:
    """Padded to a multiple of 64, as is usual on GPUs."""

    folder = save_bert(tmp_path / "model", vocab_size=192)
    open_tokenizer(folder, models=[load_encoder(str(folder))])


@pytest.mark.parametrize("mode", ["quantize", "plan"])
def test_a_model_saved_again_carries_its_tokenizer(tiny: Tiny, bert: Path, tmp_path: Path, mode: str) -> None:
    """Also that of a lone spiece.model or vocab.txt, which gives the same ids."""
    spm = pytest.importorskip("sentencepiece")

    t5 = copied(tiny.model, tmp_path / "t5", no_files)
    (tmp_path / "text").write_text("it is a good film in the city\nit is a bad film of it\n" * 100)
    spm.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(t5 / "spiece"),
        vocab_size=20,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (t5 / "spiece.vocab").unlink()
    cased = copied(bert, tmp_path / "bert", lone_vocabulary("\n".join([*pieces()[:-1], "Anna"]) + "\n"))
    for folder in (t5, cased):
        out = tmp_path / f"{folder.name}-{mode}"
        if mode == "quantize":
            quantize.main(["--model", str(folder), "--output", str(out)])
        else:
            out.mkdir()
            carry_tokenizer(folder, out)
            shutil.copyfile(folder / "config.json", out / "config.json")
        text = "it is a good film Anna"
        assert open_tokenizer(folder)(text).input_ids == AutoTokenizer.from_pretrained(out)(text).input_ids
    assert (tmp_path / f"t5-{mode}" / "spiece.model").is_file()


@pytest.mark.parametrize("number", [99_999, -1, 237])
def test_the_token_that_begins_an_answer_is_one_of_the_models(tiny: Tiny, tmp_path: Path, number: int) -> None:
    """By flag, by task.json and by config.json."""
    rows = len(AutoTokenizer.from_pretrained(tiny.model))
    number = rows if number == 237 else number
    with pytest.raises(UserError, match=rf"--decoder_start .*{number}" if number < 0 else rf"an id .* to {rows - 1}"):
        run(tiny.sst2(tmp_path / "run", f"--decoder-start={number}"))
    assert not (tmp_path / "run").exists()
    told = written("task.json", json.dumps({"dataset": "sst2", "decoder_start": number, "logit_scale": "hf"}))
    folder = copied(tiny.model, tmp_path / "task", told)
    for open_it in (T5S["train_t5"], T5S["serve"]):
        refused(open_it, folder, rf"task\.json: decoder_start is {number}, expected")
    folder = copied(tiny.model, tmp_path / "config", config(decoder_start_token_id=number))
    refused(T5S["train_t5"], folder, rf"decoder_start_token_id is {number}, expected")


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/nowhere/at/all", "./nowhere", "~/nowhere-at-all", "a/b/c", "models/my model", "-x", "", "é/b"]
)
def test_a_path_that_is_not_there_says_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once; the hub is not asked for what is no name of its."""
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    for name in ("teacher", "student", "evaluated", "fine-tuned", "general", "cost", "export"):
        with pytest.raises(UserError, match="does not exist"):
            CLASSIFIERS[name](path)  # type: ignore[arg-type]
    for open_it in (lambda: load_masked_lm(path, "--x"), lambda: load_t5(path, None), lambda: open_tokenizer(path)):
        with pytest.raises(UserError, match="does not exist"):
            open_it()


def test_a_path_that_cannot_be_looked_at_says_so(classifier: Path, tmp_path: Path) -> None:
    """Names beyond what a file system takes, users that are not there, files, and what stands beside a model."""
    for path, said in (
        ("a" * 5000 + "/b/c", "cannot be read: File name too long"),
        ("~nobody-of-this-name/model", "does not exist"),
        ("a\0b", "does not exist"),
        (str(classifier / WEIGHTS), "is a file: expected the folder"),
    ):
        with pytest.raises(UserError, match=said):
            load_classifier(path, SST2, trained=True)
    (tmp_path / "trainer").mkdir()
    copied(classifier, tmp_path / "trainer" / "checkpoint-500")
    refused(CLASSIFIERS["teacher"], tmp_path / "trainer", r"did you mean .*checkpoint-500")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    refused(CLASSIFIERS["teacher"], tmp_path / "adapter", "holds an adapter of PEFT")


def test_the_hub_is_asked_once_and_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its refusal is one sentence."""
    asked: list[str] = []

    def offline(_: Any, name: str, **__: Any) -> None:
        asked.append(name)
        raise OSError("Name or service not known\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    with pytest.raises(UserError, match=r"nobody/nothing is no folder here, .* model of that name: Name or service"):
        load_classifier("nobody/nothing", SST2, trained=True)
    assert asked == ["nobody/nothing"] and capsys.readouterr() == ("", "")


def test_of_the_hubs_files_only_what_is_read_is_fetched(
    bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The small files, and the weights in one format; the model is then opened like any folder."""
    names = [*(file.name for file in bert.iterdir()), "tf_model.h5", "pytorch_model.bin", "onnx/model.onnx", "a.md"]
    files = [type("File", (), {"rfilename": name})() for name in names]
    info = type("Info", (), {"siblings": files, "sha": "abc"})()
    fetched: list[str] = []

    def download(_: str, revision: str, allow_patterns: list[str]) -> str:
        fetched.extend(allow_patterns)
        return str(bert)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert model_directory("somebody/a-bert") == str(bert)
    assert sorted(fetched) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert is_hub_id("t5-base") and is_hub_id("google/t5-v1_1-base") and not is_hub_id("a/b/c")


def test_a_runs_folder_is_a_model_everywhere(classifier: Path, tiny: Tiny, tmp_path: Path) -> None:
    """Its best model is meant."""
    for name, open_it in CLASSIFIERS.items():
        if not name.startswith("plan"):  # finds the points itself
            (tmp_path / name).mkdir()
            open_it(copied(classifier, tmp_path / name / "best").parent)
    run(tiny.sst2(tmp_path / "run", "--training-step", 1))
    assert load_t5(str(tiny.model), tmp_path / "run").decoder_start == 0
    assert load_t5(str(tmp_path / "run"), None).decoder_start == 0
    run(tiny.sst2(tmp_path / "lora", "--training-step", 1, "--delta-tuning"))
    assert load_t5(str(tiny.model), tmp_path / "lora").model is not None
    run(tiny.sst2(tmp_path / "plugins", "--distil", "hidden", "--mux-num", 2, "--training-step", 1))
    flags = ("--mode", "valid", "--no-costs", "--plugin-path", tmp_path / "plugins")
    run(tiny.sst2(tmp_path / "valid", *flags))
    assert [row["name"] for row in result_of(tmp_path / "valid")["rows"]] == ["dense", "k=2"]


def test_home_directories_are_expanded(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quoted ~ reaches a script as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    copied(classifier, tmp_path / "model")
    load_classifier("~/model", SST2, trained=True)
    cost.load_any("~/model")


# --- models of an unusual make ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", [1, 2])
def test_types_are_given_to_models_that_have_them(types: int) -> None:
    """Second sentences reach a BERT of two types as such, and one of a single type without a look-up beyond it."""
    torch.manual_seed(0)
    model: Any = BertForSequenceClassification(bert_config(type_vocab_size=types, initializer_range=0.5)).eval()
    ids = torch.tensor([[2, 5, 3, 6, 3]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pairs = {**batch, "token_type_ids": torch.tensor([[0, 0, 0, 1, 1]])}
    use_attention_scores(model)
    for read in (
        lambda given: classify(model, given),
        lambda given: ClassifierHead()(model, given).scores,
        lambda given: trace(model, given, [1]).hidden[0],
    ):
        assert torch.equal(read(batch), read(pairs)) == (types == 1)


@pytest.mark.slow
def test_a_single_token_type_is_enough_for_pairs(bert_data: TinyBert, tmp_path: Path) -> None:
    """A BERT with one token type, as RoBERTa has, trains on pairs, distils on text, and is evaluated and augmented."""
    model = save_bert(tmp_path / "model", type_vocab_size=1)
    flags = ("--max_steps", 1, "--num_train_epochs", 1)
    run_task(bert_data.task(tmp_path / "run", "--mode", "finetune", "--teacher_model", model, *flags, task="mrpc"))
    done = tmp_path / "run" / "best"
    run_task(bert_data.task(tmp_path / "eval", "--do_eval", "--no_costs", "--student_model", done, task="mrpc"))
    for stage in ("intermediate", "prediction"):
        pair = ("--stage", stage, "--teacher_model", done, "--student_model", model)
        run_task(bert_data.task(tmp_path / stage, *pair, *flags, task="mrpc"))
    general = ("--teacher_model", model, "--student_model", model, "--max_steps", 1)
    run_general(bert_data.general(tmp_path / "general", *general))
    assert (tmp_path / "general" / "best" / WEIGHTS).is_file()
