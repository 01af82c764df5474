"""Named entities end to end: data, models, evaluation, predictions, and the embedded task."""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForTokenClassification, BertForTokenClassification

from dataset import IGNORED, DataError, TokenFeature, get_task, read_tagged
from dataset.conll import read_conll
from model.distillation import Supervised, classify
from model.losses import task_loss
from tests.tiny import result_of, rows_of
from tests.tiny_bert import TinyBert, run_task, save_bert, tiny_word_pieces
from utils.embedded.bert import BERT_SIZES, write_bert
from utils.embedded.corpus import write_corpus
from utils.embedded.entities import tagged_sentence
from utils.embedded.tasks import write_tagged
from utils.engine import Runtime
from utils.errors import UserError
from utils.opening.tokenizers import open_tokenizer
from utils.tucker import data as task_data
from utils.tucker.data import DataRequest, LabelledSet, training_batches, validation_sets
from utils.tucker.evaluation import ClassifierEvaluator, TokenEvaluator, evaluator_for, predict_tags
from utils.tucker.loading import load_classifier
from utils.tucker.prediction import write_predictions
from utils.tucker.tasks import task_for

pytestmark = pytest.mark.usefixtures("one_thread")
CONLL = get_task("conll")
SIZES = (("dev", 40), ("test", 30), ("train", 200))


def write_sentences(folder: Path, count: int = 24) -> Path:
    """Sentences that can be learnt: films are people, what is dull is a place, the rest is nothing."""
    rng = random.Random(0)
    tags = {"film": "B-PER", "dull": "B-LOC"}
    for split, number in (("train", count), ("dev", count // 2), ("test", 5)):
        lines = []
        for _ in range(number):
            words = [rng.choice(["a", "film", "it", "dull", "is", "xyz"]) for _ in range(rng.randint(1, 6))]
            lines += [*(f"{word} {tags.get(word, 'O')}" for word in words), ""]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def request(folder: Path, length: int = 16, batch_size: int = 4) -> DataRequest:
    """The data of a run."""
    return DataRequest(CONLL, str(folder), length, batch_size, batch_size)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """One process on the CPU."""
    return Runtime("fp32", "bert", 0, cpu=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained BERT of two layers."""
    return save_bert(tmp_path_factory.mktemp("bert") / "model")


# --- data -----------------------------------------------------------------------------------------


def test_tagged_tasks_have_models_of_their_own() -> None:
    """conll and wnut17 are accepted beside GLUE's nine; the message for others names them."""
    assert task_for("CoNLL-2003") is CONLL and task_for("wnut17").num_labels == 13
    with pytest.raises(DataError, match="--task_name squad is no GLUE task: expected one of the nine, conll or wnut17"):
        task_for("squad")


def test_every_sentence_with_a_visible_word_is_trained_on(tmp_path: Path, runtime: Runtime) -> None:
    """A sentence whose words have no pieces would give a batch without labels, and a loss that is no number."""
    (tmp_path / "train.txt").write_text("a O\nfilm B-PER\n\n\u200b O\n\nit O\n", encoding="utf-8")
    batches = training_batches(request(tmp_path, batch_size=1), tiny_word_pieces(), runtime)
    seen = sorted(int(batch["index"]) for batch in batches.batches(0))
    assert seen == [0, 2] and all((batch["labels"] != IGNORED).any() for batch in batches.batches(0))


def test_augmented_rows_are_read_in_the_same_columns(tmp_path: Path, runtime: Runtime) -> None:
    """--aug_train reads train_aug.tsv, which keeps tags."""
    (tmp_path / "train_aug.tsv").write_text("a O\nfilm B-PER\n\na O\nplot B-PER\n", encoding="utf-8")
    batches = training_batches(request(tmp_path), tiny_word_pieces(), runtime, augmented=True)
    (batch,) = batches.batches(0)
    assert batch["labels"].shape == batch["input_ids"].shape and int(batch["num_rows"]) == 2


def test_a_validation_set_without_entities_is_told(
    tmp_path: Path, runtime: Runtime, bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its F1 is 0.0 for every model, not an error."""
    (tmp_path / "dev.txt").write_text("a O\nfilm O\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        sets = validation_sets(request(tmp_path), tiny_word_pieces(), runtime)
    assert "the validation sentences of conll hold no entity" in caplog.text
    values = TokenEvaluator(runtime, load_classifier(str(bert), CONLL, trained=False), sets)()
    assert values["f1"] == values["precision"] == values["recall"] == 0.0 and values["loss"] > 0


# --- models ---------------------------------------------------------------------------------------


def test_a_pretrained_bert_gets_a_classifier_of_tokens(bert: Path, tmp_path: Path) -> None:
    """Nine outputs per token, with the tags as class names, also after saving."""
    model = load_classifier(str(bert), CONLL, trained=False)
    assert isinstance(model, BertForTokenClassification)
    model.save_pretrained(tmp_path)
    config = AutoModelForTokenClassification.from_pretrained(tmp_path).config
    assert tuple(config.id2label[i] for i in range(9)) == CONLL.labels and config.problem_type is None
    with pytest.raises(UserError, match="has no classifier for conll"):
        load_classifier(str(bert), CONLL, trained=True)


def test_a_published_tagger_keeps_the_meaning_of_its_outputs(bert: Path, tmp_path: Path) -> None:
    """One whose classes stand in another order is sorted by their names."""
    model = load_classifier(str(bert), CONLL, trained=False)
    order = [4, 0, 8, 1, 7, 2, 6, 3, 5]
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter[order].clone())
    model.config.id2label = {i: CONLL.labels[label] for i, label in enumerate(order)}
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[2, 5, 6, 3]])
    found = load_classifier(str(tmp_path), CONLL, trained=True).eval()(input_ids=ids).logits
    torch.testing.assert_close(found[..., order], model.eval()(input_ids=ids).logits)


def test_the_loss_and_its_gradients_ignore_unlabelled_positions(tmp_path: Path, runtime: Runtime, bert: Path) -> None:
    """The mean cross-entropy over words; the original's importance pass for NER crashed before it."""
    write_sentences(tmp_path)
    model = load_classifier(str(bert), CONLL, trained=False).eval()
    batch = next(iter(training_batches(request(tmp_path), tiny_word_pieces(), runtime).batches(0)))
    loss, parts = Supervised(model)(batch)
    logits = classify(model, batch)
    counted = batch["labels"] != IGNORED
    torch.testing.assert_close(loss, F.cross_entropy(logits[counted], batch["labels"][counted]))
    assert parts["accuracy"] == (logits.argmax(-1) == batch["labels"])[counted].float().mean()
    (gradient,) = torch.autograd.grad(task_loss(logits, batch["labels"]), logits)
    assert not gradient[~counted].any() and gradient[counted].any()


# --- evaluation and predictions -------------------------------------------------------------------


class Oracle(torch.nn.Module):
    """Scores that are right at each position that counts, except in the rows `wrong`, where they say O."""

    def __init__(self, rows: LabelledSet, wrong: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.by_ids = {}
        for feature in rows.features:
            assert isinstance(feature, TokenFeature)
            tags = [0] * len(feature.input_ids)
            for start, tag in zip(feature.starts, feature.tags or (), strict=True):
                if start >= 0 and feature.index not in wrong:
                    tags[start] = tag
            self.by_ids[tuple(feature.input_ids)] = tags

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        logits = torch.zeros((*input_ids.shape, CONLL.num_labels))
        for at, (row, mask) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
            tags = self.by_ids[tuple(row[: sum(mask)])]
            logits[at, torch.arange(len(tags)), torch.tensor(tags)] = 5.0
        return type("Output", (), {"logits": logits})()


def write_dev(folder: Path, name: str = "dev.txt") -> Path:
    """Three sentences of different lengths; one has a word without pieces."""
    text = "a O\nfilm B-PER\nxyz I-PER\n\nit O\n\u200b O\ndull B-LOC\n\nplot B-ORG\n"
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_first_evaluation_gives_fractions(tmp_path: Path, runtime: Runtime) -> None:
    """Perfect scores give 1.0; one entity of three missed gives a recall of 2/3."""
    (rows,) = validation_sets(request(write_dev(tmp_path)), tiny_word_pieces(), runtime)
    values = TokenEvaluator(runtime, Oracle(rows), [rows])()
    assert (values["f1"], values["precision"], values["recall"]) == (1.0, 1.0, 1.0)
    values = TokenEvaluator(runtime, Oracle(rows, wrong=(2,)), [rows])()
    assert values["precision"] == 1.0 and values["recall"] == pytest.approx(2 / 3)
    expected = [F.cross_entropy(torch.eye(9)[[t]] * 5, torch.tensor([g])) for t, g in ((0, 0), (0, 3))]
    assert values["loss"] == pytest.approx((5 * float(expected[0]) + float(expected[1])) / 6)


def test_words_that_are_cut_off_count_as_missed(tmp_path: Path, runtime: Runtime) -> None:
    """The gold entities are those of the file, whatever length the model reads."""
    write_dev(tmp_path)
    (rows,) = validation_sets(request(tmp_path, length=4), tiny_word_pieces(), runtime)
    values = TokenEvaluator(runtime, Oracle(rows), [rows])()
    # `a film xyz` keeps two words, so that its entity ends early.
    assert values["recall"] == pytest.approx(2 / 3) and values["precision"] == pytest.approx(2 / 3)


def test_a_sentence_that_no_model_sees_is_scored_too(tmp_path: Path, runtime: Runtime) -> None:
    """It is in no batch, and its words are predicted O."""
    (tmp_path / "dev.txt").write_text("\u200b B-PER\n\nfilm B-PER\n", encoding="utf-8")
    (rows,) = validation_sets(request(tmp_path), tiny_word_pieces(), runtime)
    assert sum(int(batch["num_rows"]) for batch in rows.source.batches(0)) == 1 and len(rows.features) == 2
    assert TokenEvaluator(runtime, Oracle(rows), [rows])()["recall"] == 0.5
    assert predict_tags(runtime, Oracle(rows), rows) == [[0], [1]]


def test_two_processes_together_score_as_one(
    tmp_path: Path, runtime: Runtime, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes its rows, and what they gather gives the same metrics; no row counts twice."""
    write_sentences(tmp_path)
    model = load_classifier(str(bert), CONLL, trained=False)
    (whole,) = validation_sets(request(tmp_path, batch_size=5), tiny_word_pieces(), runtime)
    expected = TokenEvaluator(runtime, model, [whole])()
    gathered: list[Any] = []

    def gather(rows: list[Any]) -> list[Any]:
        gathered.extend(rows)
        return list(gathered)

    monkeypatch.setattr(Runtime, "world_size", 2)
    monkeypatch.setattr(runtime, "gather_rows", gather)
    for rank in (0, 1):
        monkeypatch.setattr(Runtime, "rank", rank)
        (half,) = validation_sets(request(tmp_path, batch_size=5), tiny_word_pieces(), runtime)
        values = TokenEvaluator(runtime, model, [half])()
    assert len(gathered) == len(whole.features)
    assert values == pytest.approx(expected)


def test_the_evaluator_follows_the_task() -> None:
    """Tagged words and classes have one each, called alike."""
    assert evaluator_for(CONLL) is TokenEvaluator and evaluator_for(get_task("mrpc")) is ClassifierEvaluator


def test_predictions_are_a_further_column(tmp_path: Path, runtime: Runtime) -> None:
    """The file's own columns stay; the line says how well the tags there are met."""
    write_dev(tmp_path, "test.txt")
    sentences, rows = task_data.test_sentences(request(tmp_path), tiny_word_pieces(), runtime)
    model = Oracle(rows, wrong=(0,))
    (said,) = write_predictions(runtime, model, request(tmp_path), tiny_word_pieces(), tmp_path / "out")
    assert said == f"made: {tmp_path}/out/conll.txt (3 sentences; f1 0.8000, precision 1.0000, recall 0.6667)"
    found = list(read_conll(tmp_path / "out" / "conll.txt"))
    assert [row[:2] for s in found for row in s.rows] == [row for s in sentences for row in s.rows]
    assert [s.tags for s in found] == [("O", "O", "O"), ("O", "O", "B-LOC"), ("B-ORG",)]


def test_predictions_need_no_tags(tmp_path: Path, runtime: Runtime, bert: Path) -> None:
    """A test file of words alone gives words and their predicted tags."""
    (tmp_path / "test.txt").write_text("a\nfilm\n\nit\n", encoding="utf-8")
    model = load_classifier(str(bert), CONLL, trained=False)
    (said,) = write_predictions(runtime, model, request(tmp_path), tiny_word_pieces(), tmp_path / "out")
    assert said.endswith("(2 sentences)")
    (first, second) = read_conll(tmp_path / "out" / "conll.txt")
    assert first.tokens == ("a", "film") and second.tokens == ("it",) and {*first.tags, *second.tags} <= {*CONLL.labels}


# --- the script -----------------------------------------------------------------------------------


def test_the_script_tags_words(tmp_path: Path) -> None:
    """Fine-tuning learns, keeps the best F1, evaluates and predicts."""
    tiny = TinyBert(tmp_path / "data")
    write_sentences(tiny.glue / "conll", 128)
    flags = ("--mode", "finetune", "--teacher_model", tiny.model, "--do_eval", "--do_predict", "--no-costs")
    run_task(tiny.task(tmp_path / "run", *flags, "--num_train_epochs", 5, "--learning_rate", 5e-3, task="conll"))
    scores = [row["f1"] for row in rows_of(tmp_path / "run") if row["split"] == "valid"]
    result = result_of(tmp_path / "run")
    assert result["metric"] == "f1" and result["best_value"] == max(scores) > 0.5
    metrics = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
    assert metrics["f1"] == max(scores) and set(metrics) == {"f1", "precision", "recall", "loss"}
    assert len(list(read_conll(tmp_path / "run" / "predictions" / "conll.txt"))) == 5


# --- the embedded task ----------------------------------------------------------------------------


def test_embedded_sentences_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """The same seed gives the same files, another one others."""
    for folder, seed in (("one", 1), ("two", 1), ("three", 2)):
        write_tagged(tmp_path / folder, seed, SIZES)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two", "three")]
    assert files[0] == files[1] and all(files[0][name] != files[2][name] for name in files[0])


def test_embedded_files_are_read_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every split has its size and every tag; nothing held out comes twice."""
    assert write_tagged(tmp_path / "conll", 1, SIZES) == 270
    rows = {name: read_tagged(CONLL, tmp_path, split) for name, split in (("train", "train"), ("dev", "valid"))}
    rows["test"] = read_tagged(CONLL, tmp_path, "test")
    assert {name: len(found) for name, found in rows.items()} == dict(SIZES) and not caplog.records
    assert {tag for row in rows["train"] for tag in row.tags or ()} == set(range(9))
    held_out = [row.words for name in ("dev", "test") for row in rows[name]]
    assert len(set(held_out)) == len(held_out) and not set(held_out) & {row.words for row in rows["train"]}


def test_a_name_alone_does_not_tell_its_kind() -> None:
    """Each family name stands for people, organisations, places and prizes."""
    rng = random.Random(0)
    kinds: dict[str, set[str]] = defaultdict(set)
    for _ in range(5000):
        for word, tag in tagged_sentence(rng):
            kinds[word].add(tag)
    assert {"B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC"} <= kinds["Stone"]
    assert kinds["the"] == {"O"} and kinds["Anna"] == {"B-PER"}


@pytest.mark.slow
def test_the_embedded_bert_learns_to_tag(tmp_path: Path, runtime: Runtime) -> None:
    """F1 above 0.9 within 300 steps of 32 sentences."""
    write_corpus(tmp_path / "corpus", 1, 300_000, 300_000)
    write_bert(tmp_path / "bert", BERT_SIZES["tiny"], tmp_path / "corpus", 1, lambda line: None)
    write_tagged(tmp_path / "conll", 1, (("dev", 400), ("train", 10000)))
    model = load_classifier(str(tmp_path / "bert"), CONLL, trained=False)
    tokenizer, wanted = open_tokenizer(str(tmp_path / "bert")), request(tmp_path, 64, 32)
    objective, optimizer = Supervised(model), torch.optim.AdamW(model.parameters(), lr=5e-4)
    for batch, _ in zip(training_batches(wanted, tokenizer, runtime).batches(0), range(300), strict=False):
        objective(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert TokenEvaluator(runtime, model, validation_sets(wanted, tokenizer, runtime))()["f1"] > 0.9
