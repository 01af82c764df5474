"""Entity scores of label ids: by sentence, as fractions, and defined on every set."""

from __future__ import annotations

import random

import pytest

from dataset import get_task
from metric import MetricError
from metric.ner import entity_scores

TAGS = get_task("conll").labels
OUT, B_PER, I_PER, B_LOC, I_LOC = (TAGS.index(tag) for tag in ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))


def test_scores_are_fractions_of_whole_entities() -> None:
    """One of two found entities is right, one of three is found: no score is a percentage."""
    labels = [[B_PER, I_PER, OUT], [B_LOC, OUT, B_PER]]
    predictions = [[B_PER, I_PER, OUT], [B_LOC, I_LOC, OUT]]
    found = entity_scores(predictions, labels, TAGS)
    assert found == {"f1": pytest.approx(0.4), "precision": 0.5, "recall": pytest.approx(1 / 3)}
    assert list(found) == ["f1", "precision", "recall"]


def test_entities_end_with_their_sentence() -> None:
    """An I- at a sentence's start begins an entity: one list of all tags would join it to the one before."""
    labels, predictions = [[OUT, B_PER], [I_PER, I_PER]], [[OUT, B_PER], [B_PER, I_PER]]
    assert entity_scores(predictions, labels, TAGS)["f1"] == 1.0
    flat = [[label for row in rows for label in row] for rows in (predictions, labels)]
    assert entity_scores(flat[:1], flat[1:], TAGS)["f1"] == 0.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("predictions", [[[OUT, OUT], [OUT]], [[B_PER, OUT], [OUT]]])
def test_gold_without_entities_scores_zero(predictions: list[list[int]]) -> None:
    """The original divides by zero there."""
    assert entity_scores(predictions, [[OUT, OUT], [OUT]], TAGS) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_random_tags_score_as_counted_by_hand() -> None:
    """Against a plain count of (sentence, type, start, end) that are in both."""
    rng = random.Random(0)
    for _ in range(20):
        labels, predictions = ([[rng.randrange(len(TAGS)) for _ in range(12)] for _ in range(5)] for _ in range(2))
        gold, found = _entities(labels), _entities(predictions)
        right = len(gold & found)
        scores = entity_scores(predictions, labels, TAGS)
        assert scores["precision"] == pytest.approx(right / len(found))
        assert scores["recall"] == pytest.approx(right / len(gold))


def _entities(sentences: list[list[int]]) -> set[tuple[int, str, int, int]]:
    entities = set()
    for number, ids in enumerate(sentences):
        start, kind = 0, ""
        for at, label in enumerate([*ids, OUT]):
            tag = TAGS[label]
            if kind and (tag == "O" or tag[0] == "B" or tag[2:] != kind):
                entities.add((number, kind, start, at))
                kind = ""
            if tag != "O" and not kind:
                start, kind = at, tag[2:]
    return entities


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([], [], "no sentences"),
        ([[OUT]], [[OUT, OUT]], "sentence 0: 1 predicted tags for 2"),
        ([[OUT], [len(TAGS)]], [[OUT], [OUT]], "predictions, sentence 1: found label 9, expected 0 to 8"),
        ([[OUT]], [[-100]], "labels, sentence 0: found label -100"),
    ],
)
def test_ids_that_cannot_be_scored_are_refused(predictions: object, labels: object, message: str) -> None:
    """Lengths that differ, and ids without a name: positions that do not count have no place here."""
    with pytest.raises(MetricError, match=message):
        entity_scores(predictions, labels, TAGS)  # type: ignore[arg-type]
